"""What goes wrong with a bucket is said so that one knows what to do; no secret and no URL with one is said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kacas.errors import KacasError, SizeLimitError
from kacas_remote.blobs.failures import of_client, of_connection
from kacas_remote.blobs.http import HttpBlobs
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.errors import (
    BlobChangedError,
    BlobNotFoundError,
    InvalidRemoteError,
    NotSupportedError,
    RemoteNotFoundError,
    RemoteRefusedError,
    RemoteUnavailableError,
)
from tests.remote.servers import S3Bucket
from tests.remote.servers import s3_bucket as s3_bucket
from tests.remote.servers import s3_server as s3_server
from tests.remote.web_server import WebServer, web_server

KEYS = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "very-secret"}
CASES = [
    (403, "RequestTimeTooSkewed", RemoteRefusedError, "clock"),
    (400, "ExpiredToken", RemoteRefusedError, "expired"),
    (403, "SignatureDoesNotMatch", RemoteRefusedError, "secret is wrong"),
    (403, "InvalidAccessKeyId", RemoteRefusedError, "access key"),
    (401, "", RemoteRefusedError, "clock is off. They are taken from AWS_ACCESS_KEY_ID"),
    (403, "AccessDenied", RemoteRefusedError, "permission"),
    (404, "NoSuchBucket", RemoteNotFoundError, "no such bucket"),
    (404, "NoSuchKey", BlobNotFoundError, "a/key"),
    (409, "Conflict", BlobChangedError, "somebody else"),
    (412, "PreconditionFailed", BlobChangedError, "somebody else"),
    (429, "TooManyRequests", RemoteUnavailableError, "fewer requests"),
    (503, "SlowDown", RemoteUnavailableError, "fewer requests"),
    (500, "InternalError", RemoteUnavailableError, "wrong there"),
    (501, "NotImplemented", RemoteUnavailableError, "wrong there"),
    (405, "MethodNotAllowed", NotSupportedError, "probe"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    with web_server(tmp_path) as running:
        yield running


@pytest.mark.parametrize("status, code, error, words", CASES)
def test_each_answer_has_its_error(
    server: WebServer, status: int, code: str, error: type[KacasError], words: str
) -> None:
    blobs = open_blobs("s3://bucket/lab", endpoint=server.url, credentials=KEYS, retry_for_s=0)
    answer = f"<Error><Code>{code}</Code><Message>very-secret</Message></Error>".encode()
    server.answers = [(status, {}, answer)] * 3
    with pytest.raises(error, match=words) as caught:
        blobs.get("a/key", 10)
    said = str(caught.value)
    assert "s3://bucket/lab" in said
    assert "a/key" in said
    for secret in (*KEYS.values(), server.url):
        assert secret not in said
    assert caught.value.__cause__ is None  # obstore's own text has the URL


@pytest.mark.parametrize(
    "url, credentials, words",
    [
        ("gs://bucket", {"service_account_path": "/nowhere"}, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://bucket", {"service_account_key": '{"private_key": "very-secret"}'}, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://bucket", {"account_name": "lab", "account_key": "very-secret"}, "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_credentials_that_are_none_are_said_with_where_they_are_looked_for(
    url: str, credentials: dict[str, str], words: str
) -> None:
    with pytest.raises(InvalidRemoteError, match=words) as caught:
        open_blobs(url, credentials=credentials).get("a", 1)
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url, said, words",
    [
        ("gs://bucket", "GET http://169.254.169.254/computeMetadata failed", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://bucket", "GET http://169.254.169.254/metadata failed", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("s3://bucket", "GET http://169.254.169.254/latest failed", "AWS_ACCESS_KEY_ID"),
        ("gs://bucket", 'status code: 400 Bad Request: {"error": "invalid_grant"}', "expired.*gcloud auth"),
        ("gs://bucket", "POST https://iamcredentials/v1/me:signBlob - dns error", "key file of a service account"),
    ],
)
def test_what_lies_with_the_credentials_says_which_to_take(url: str, said: str, words: str) -> None:
    with pytest.raises(KacasError, match=words):
        raise of_client(ConnectionError(said), url, "a", "reading")


@pytest.mark.parametrize("code, error", [("AccessDenied", RemoteRefusedError), ("SlowDown", RemoteUnavailableError)])
def test_of_many_that_one_request_removes_each_may_be_refused(code: str, error: type[KacasError]) -> None:
    said = f"Generic S3 error: DeleteObjects request failed for key lab/a: Access Denied. (code: {code})"
    with pytest.raises(error, match=f"removing a at s3://b failed: .*{code}"):
        raise of_client(ConnectionError(said), "s3://b", "a", "removing")


def test_what_a_busy_service_refuses_is_tried_again(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "a").write_bytes(b"content")
    server.answers = [(503, {}, b""), (500, {}, b"")]
    assert open_blobs("s3://bucket", endpoint=server.url, credentials=KEYS).get("a", 10) == b"content"
    assert server.requests == 3


def test_a_web_server_is_left_alone_as_long_as_it_asks(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    server.answers = [(429, {"Retry-After": "2"}, b"")]
    start = time.monotonic()
    blobs = open_blobs(server.url)
    assert blobs.get("a", 10) == b"content"
    assert time.monotonic() - start >= 2
    blobs.close()


def test_what_is_refused_is_not_tried_again(server: WebServer) -> None:
    server.answers = [(403, {}, b"")] * 9
    with pytest.raises(RemoteRefusedError):
        open_blobs("s3://bucket", endpoint=server.url, credentials=KEYS).get("a", 10)
    assert server.requests == 1


@pytest.mark.parametrize(
    "endpoint, words",
    [("http://127.0.0.1:1", "refused"), ("http://nothing.invalid", "not known")],
)
def test_a_service_that_is_not_there_is_not_waited_for_long(endpoint: str, words: str) -> None:
    start = time.monotonic()
    for url, given in (("s3://bucket", endpoint), (endpoint, None)):
        blobs = open_blobs(url, endpoint=given, credentials=KEYS if given else None, retry_for_s=1)
        with pytest.raises(RemoteUnavailableError, match=words):
            blobs.get("a", 10)
        blobs.close()
    assert time.monotonic() - start < 60


def test_a_server_without_tls_is_named(server: WebServer) -> None:
    endpoint = server.url.replace("http:", "https:")
    with pytest.raises(RemoteUnavailableError, match="TLS"):
        open_blobs("s3://bucket", endpoint=endpoint, credentials=KEYS).get("a", 10)


def test_wrong_keys_and_missing_buckets_of_a_real_server_are_told_apart(s3_bucket: S3Bucket) -> None:
    known = s3_bucket.credentials
    wrong = {**known, "secret_access_key": "wrong"}
    for key in ("a", "b/c"):
        with pytest.raises(RemoteRefusedError, match="secret is wrong"):
            open_blobs(s3_bucket.url, endpoint=s3_bucket.endpoint, credentials=wrong).put(key, b"1")
    gone = open_blobs("s3://kacas-gone", endpoint=s3_bucket.endpoint, credentials=known)
    with pytest.raises(RemoteNotFoundError, match="no such bucket"):
        gone.get("a", 1)
    with pytest.raises(RemoteNotFoundError, match="no such bucket"):
        gone.put("a", b"1")
    with pytest.raises(RemoteNotFoundError, match="no such bucket"):
        [*gone.list("packs/")]
    with pytest.raises(RemoteNotFoundError, match="no such bucket"):
        gone.delete(["a"])


def test_a_server_that_leads_on_and_on_is_not_followed(server: WebServer) -> None:
    server.answers = [(302, {"Location": "/a"}, b"")] * 20
    blobs = HttpBlobs(server.url)
    with pytest.raises(RemoteRefusedError, match="on and on"):
        blobs.get("a", 10)
    assert server.requests <= 7
    blobs.close()


def test_a_web_server_that_ignores_ranges_is_not_read_behind_the_last(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(64 << 20))
    with web_server(tmp_path, knows_ranges=False) as server:
        blobs = HttpBlobs(server.url)
        assert [bytes(part) for part in blobs.get_ranges("large", [(5, 10), (1 << 20, (1 << 20) + 3)])] == [
            bytes(5),
            bytes(3),
        ]
        blobs.close()
        assert server.requests == 1
        assert server.sent < 32 << 20


def test_a_web_server_is_neither_written_nor_listed(server: WebServer) -> None:
    blobs = HttpBlobs(server.url)
    for call in (
        lambda: blobs.put("a", b""),
        lambda: blobs.put_if_absent("a", b""),
        lambda: blobs.put_parts("a", [b""]),
        lambda: blobs.delete(["a"]),
        lambda: blobs.list(""),
        lambda: blobs.sign("a", "PUT", 60),
    ):
        with pytest.raises(NotSupportedError):
            call()
    assert server.requests == 0


def test_a_lie_about_the_size_takes_no_memory(server: WebServer) -> None:
    server.answers = [(200, {}, bytes(1000))]
    blobs = HttpBlobs(server.url)
    with pytest.raises(SizeLimitError):
        blobs.get("a", 999)
    blobs.close()


@pytest.mark.parametrize("text", ["connection refused", "dns error"])
def test_a_proxy_that_the_environment_names_is_told_where_nothing_answers(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def said() -> str:
        return str(of_connection(text, "s3://bucket", "a", "reading"))

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert "proxy" not in said()
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:secret@127.0.0.1:1")
    assert "names a proxy" in said()
    assert "secret" not in said()
