"""What a service answered, or did not, as an error that says what to do. Never with its URL: a signed one is a secret."""

from __future__ import annotations

import re

from kacas.errors import KacasError
from kacas_remote.errors import (
    BlobChangedError,
    BlobNotFoundError,
    InvalidRemoteError,
    NotSupportedError,
    RemoteNotFoundError,
    RemoteRefusedError,
    RemoteUnavailableError,
)

MISSING_S = 6.0
"""How long a service is called that is not there at all: who is offline does not want to wait."""
BUSY_PAUSE_S = 1.0
_STATUS = re.compile(r"status code: ([1-5][0-9][0-9])", re.ASCII)
_CODE = re.compile(r"<Code>([A-Za-z.]{1,60})</Code>|\"(?:code|reason|error)\": \"([A-Za-z_]{1,60})\"", re.ASCII)
# Many are removed by one request, whose answer has a word for each.
_OF_ONE = re.compile(r"DeleteObjects request failed .{1,2000} \(code: ([A-Za-z.]{1,60})\)", re.ASCII)
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ResourceNotFound"}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_WRONG_KEY = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidSecurity",
    "AuthorizationHeaderMalformed",
    "AuthenticationFailed",
}
_EXPIRED = {"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException", "invalid_grant"}
_BUSY = {"SlowDown", "ServerBusy", "RequestLimitExceeded", "Throttling", "TooManyRequests", "OperationAborted"}
_BROKEN = {"InternalError", "ServiceUnavailable"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment",
    "gs": "the file that GOOGLE_APPLICATION_CREDENTIALS names (the JSON key of a service account, or what `gcloud auth "
    "application-default login` writes)",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY of the environment",
}
_TIMEOUTS = ("timed out", "TimedOut", "timeout")
_TLS = ("certificate", "Certificate", "InvalidContentType", "CorruptMessage", "HandshakeFailure", "SSL", "tls")
_DNS = ("dns error", "Name or service not known", "Temporary failure in name resolution", "nodename nor servname")


def of_client(exc: Exception, remote: str, key: str, doing: str) -> KacasError:
    """The error for what obstore raised. Raise it `from None`: obstore's own text has URLs in it."""
    text = str(exc)
    status = _STATUS.search(text)
    code = _CODE.search(text)
    if "169.254.169.254" in text or "metadata.google.internal" in text or "MissingSecret" in text:
        return RemoteRefusedError(
            f"{doing} {_what(remote, key)} failed: no credentials were found for it. {_taken_from(remote)}",
            path=remote,
        )
    if "signBlob" in text:
        return NotSupportedError(
            f"{doing} {_what(remote, key)} failed: Google did not sign for these credentials. Take the key file of a service "
            "account, which signs by itself",
            path=remote,
        )
    if removed := _OF_ONE.search(text):
        return of_status(500 if removed[1] in _BROKEN | _BUSY else 403, removed[1], remote, key, doing)
    if status:
        return of_status(int(status[1]), (code[1] or code[2] or "") if code else "", remote, key, doing)
    if isinstance(exc, FileNotFoundError):
        return _blob_gone(remote, key)
    return of_connection(text, remote, key, doing)


def of_opening(exc: Exception, remote: str) -> KacasError:
    """For a client that cannot even be made."""
    return InvalidRemoteError(
        f"{remote} cannot be opened: its endpoint, its region or its credentials are not valid ({type(exc).__name__}). "
        f"{_taken_from(remote)}"
    )


def of_status(status: int, code: str, remote: str, key: str, doing: str, *, pause_s: float = 0.0) -> KacasError:
    """code: the service's word for it, as SlowDown; "" if it says none. pause_s: of its Retry-After."""
    failed = f"{doing} {_what(remote, key)} failed: the service answered {status}{f' {code}' if code else ''}"
    if code in _CLOCK:
        return RemoteRefusedError(
            f"{failed}: the clock of this machine is off, by more than the service takes (15 minutes). Set it: `timedatectl` shows "
            "whether it is kept in time",
            path=remote,
        )
    if code in _EXPIRED:
        return RemoteRefusedError(
            f"{failed}: the credentials have expired. Get new ones (`aws sso login`, `gcloud auth application-default login`, or "
            "how your institute gives them), then try again",
            path=remote,
        )
    if status == 401 and code not in _WRONG_KEY:
        return RemoteRefusedError(
            f"{failed}: the credentials are wrong or expired, or this machine's clock is off. {_taken_from(remote)}",
            path=remote,
        )
    if code in _WRONG_KEY:
        return RemoteRefusedError(
            f"{failed}: the access key or its secret is wrong. Look at what the environment or credentials.toml has for this "
            "remote; for some services the region must be right, too",
            path=remote,
        )
    if status == 403:
        return RemoteRefusedError(
            f"{failed}: these credentials may not do that there, or they are wrong or expired, or this machine's clock is off. Ask "
            "who owns the bucket for the permission; `kacas remote probe` tells what is missing",
            path=remote,
        )
    if code in _NO_BUCKET or (not key and status == 404):
        return RemoteNotFoundError(
            f"{failed}: there is no such bucket. Is its name right, and its endpoint and region? If it was removed, make it anew"
        )
    if status in (404, 410):
        return _blob_gone(remote, key)
    if status in (409, 412) and code not in _BUSY:
        return BlobChangedError(f"{failed}: somebody else wrote it at the same time; look at it again", path=remote)
    if status == 429 or status >= 500 or code in _BUSY or status in (408, 409):
        what = "it asks for fewer requests" if status in (429, 503) or code in _BUSY else "something is wrong there"
        return RemoteUnavailableError(
            f"{failed}, again and again: {what}. Try again later",
            path=remote,
            pause_s=max(pause_s, BUSY_PAUSE_S if status != 500 else 0.0),
        )
    if status in (301, 302, 307, 308):
        return RemoteRefusedError(
            f"{failed}: the bucket is in another region, or at another endpoint. Give them to `kacas remote add` with --region and "
            "--endpoint",
            path=remote,
        )
    return NotSupportedError(
        f"{failed}: it does not take such a request. `kacas remote probe` tells what this service can do", path=remote
    )


def of_connection(text: str, remote: str, key: str, doing: str) -> KacasError:
    """For a request that got no answer. text: what the client says about it; only looked at."""
    failed = f"{doing} {_what(remote, key)} failed"
    if any(word in text for word in _DNS):
        return RemoteUnavailableError(
            f"{failed}: the name of its server is not known. Is the endpoint spelt right, and is this machine online?"
            + _of_proxy(),
            path=remote,
            retry_for_s=MISSING_S,
        )
    if "refused" in text:
        return RemoteUnavailableError(
            f"{failed}: nothing listens at its endpoint (connection refused). Is the server running, and the port right?"
            + _of_proxy(),
            path=remote,
            retry_for_s=MISSING_S,
        )
    if any(word in text for word in _TLS):
        return RemoteUnavailableError(
            f"{failed}: no secure connection (TLS). This machine does not trust its certificate (of a private "
            "authority? SSL_CERT_FILE names the file), or it speaks plain http: then the endpoint begins with http://",
            path=remote,
            retry_for_s=0.0,
        )
    if "BadScheme" in text:
        return NotSupportedError(
            f"{failed}: it would be sent without encryption. Give the endpoint with http:// if that is wanted",
            path=remote,
        )
    if any(word in text for word in _TIMEOUTS):
        is_away = "connect" in text.lower() and "Connect" in text
        return RemoteUnavailableError(
            f"{failed}: no answer in time. Is the network slow, or a firewall in between?",
            path=remote,
            retry_for_s=MISSING_S if is_away else 120.0,
        )
    return RemoteUnavailableError(
        f"{failed}, again and again: the connection broke. Check the network, then try again", path=remote
    )


def _blob_gone(remote: str, key: str) -> BlobNotFoundError:
    return BlobNotFoundError(f"{remote} has no {key}; perhaps it was removed")


def _what(remote: str, key: str) -> str:
    return f"{key} at {remote}" if key else remote


def _taken_from(remote: str) -> str:
    """Where its credentials are looked for. remote: as a URL."""
    usual = _CREDENTIALS.get(remote.partition(":")[0])
    if usual is None:
        return "To a web server kacas sends none"
    return f"They are taken from {usual}, or from ~/.config/kacas/credentials.toml"


def _of_proxy() -> str:
    """It may be the proxy that is not there; clients do not say so."""
    from urllib.request import getproxies  # takes a while

    if not getproxies().keys() - {"no"}:
        return ""
    return " The environment names a proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY): is that right, or is NO_PROXY missing?"
