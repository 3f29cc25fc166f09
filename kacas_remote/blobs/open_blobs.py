"""open_blobs: the blob store that a URL names, with retries, limits and safety after fork around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.bounded import AT_ONCE, Bounded
from kacas_remote.blobs.credentials import Credentials
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.keys import place_prefix
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.blobs.retrying import TOTAL_S, Retrying
from kacas_remote.blobs.spawned import AfterFork
from kacas_remote.blobs.throttled import Throttled
from kacas_remote.errors import InvalidRemoteError

_FORMS = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///directory, https://server/path or memory://name"


def open_blobs(
    url: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    credentials: Mapping[str, str] | None = None,
    limit_bytes_s: float | None = None,
    at_once: int = AT_ONCE,
    retry_for_s: float = TOTAL_S,
) -> BlobStore:
    """The blob store at `url`; nothing is asked of it yet.

    endpoint, region: of a service; else those of its kind. credentials: for s3:// access_key_id, secret_access_key and perhaps
    session_token, or skip_signature="true" for a bucket that all may read; for gs:// service_account_path or service_account_key;
    for az:// account_name and account_key or sas_token. None: the environment decides, there and in each process that the
    store is unpickled in, as what is given here is not pickled.
    limit_bytes_s: bandwidth. at_once: requests. retry_for_s: how long a call that fails is tried again.
    Raises InvalidRemoteError, also for a URL with a user name or password in it.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise InvalidRemoteError(f"this is no URL of a remote; one is {_FORMS}") from None
    if "@" in parts.netloc:
        raise InvalidRemoteError(
            f"the URL of a remote has a user name or a password in it ({parts.scheme}://…@{host}); URLs are shown and kept, so "
            "leave it out: credentials belong into the environment or into credentials.toml"
        )
    if parts.query or parts.fragment:
        raise InvalidRemoteError(
            f"the URL of a remote ends before `?` and `#`: {parts.scheme}://{parts.netloc}{parts.path}"
        )
    if endpoint and "@" in urlsplit(endpoint).netloc:
        raise InvalidRemoteError(
            "the endpoint has a user name or a password in it: credentials belong into credentials.toml"
        )
    blobs = _backend(url, parts, endpoint, region, Credentials(credentials))
    if limit_bytes_s is not None:
        blobs = Throttled(blobs, limit_bytes_s)
    return Retrying(Bounded(blobs, at_once), retry_for_s)


def _backend(
    url: str, parts: SplitResult, endpoint: str | None, region: str | None, credentials: Credentials
) -> BlobStore:
    if parts.scheme == "memory":
        return MemoryBlobs(parts.netloc, place_prefix(parts.path, url))
    if parts.scheme == "file":
        return DirectoryBlobs(_directory(parts.netloc, parts.path, url))
    if parts.scheme in ("s3", "gs", "az") and parts.netloc:
        from kacas_remote.blobs.cloud import CloudBlobs  # obstore takes 60 ms, which a directory need not wait for

        prefix = place_prefix(parts.path, url)
        return AfterFork(
            CloudBlobs(parts.scheme, parts.netloc, prefix, endpoint=endpoint, region=region, credentials=credentials)
        )
    if parts.scheme in ("http", "https") and parts.hostname:
        from kacas_remote.blobs.http import HttpBlobs

        return HttpBlobs(url)
    raise InvalidRemoteError(f"{url} is no URL of a remote; one is {_FORMS}")


def _directory(host: str, path: str, url: str) -> Path:
    if host not in ("", "localhost") or not path.startswith("/"):
        raise InvalidRemoteError(
            f"{url} names no directory of this machine; write three slashes, as in file:///srv/lab"
        )
    directory = unquote(path)
    if "\0" in directory:
        raise InvalidRemoteError(f"{url} names no directory: it has a zero byte in it")
    return Path(directory)
