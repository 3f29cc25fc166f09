"""Every backend keeps the promises of a blob store, bare and as open_blobs gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.http import HttpBlobs
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.blobs.sealed import SealedBlobs
from kacas_remote.blobs.spawned import _Spawned
from tests.conformance.blob_store import BlobStoreSuite, ReadingSuite
from tests.remote.group_keys import FixedKeys, rotate
from tests.remote.servers import S3Bucket, S3Server
from tests.remote.servers import s3_bucket as s3_bucket
from tests.remote.servers import s3_server as s3_server
from tests.remote.web_server import web_server


class TestMemory(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        return open_blobs(f"memory://{tmp_path.name}/a/prefix")


class TestDirectory(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        (tmp_path / "bucket").mkdir()
        return open_blobs(f"file://{tmp_path}/bucket")


class TestS3(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, s3_bucket: S3Bucket) -> BlobStore:
        return open_blobs(f"{s3_bucket.url}/a/prefix", endpoint=s3_bucket.endpoint, credentials=s3_bucket.credentials)

    @pytest.fixture(autouse=True)
    def credentials(self, s3_server: S3Server) -> None:
        self._known = s3_server.credentials

    def secrets(self, blobs: BlobStore) -> list[str]:
        return [*self._known.values()]


class _Sealed(BlobStoreSuite):
    """Through the seal of a group that two have left: what is put is in the third epoch."""

    @pytest.fixture
    def blobs(self, inner: BlobStore, tmp_path: Path) -> BlobStore:
        for _ in range(2):
            rotate(tmp_path.name)
        return SealedBlobs(inner, FixedKeys(tmp_path.name))

    @pytest.fixture(autouse=True)
    def known(self, tmp_path: Path) -> None:
        self._group = tmp_path.name

    def secrets(self, blobs: BlobStore) -> list[str]:
        return [epoch.secret.decode("latin-1") for epoch in FixedKeys(self._group).epochs()]


class TestSealedMemory(_Sealed):
    @pytest.fixture
    def inner(self, tmp_path: Path) -> BlobStore:
        return open_blobs(f"memory://{tmp_path.name}/a/prefix")


class TestSealedDirectory(_Sealed):
    @pytest.fixture
    def inner(self, tmp_path: Path) -> BlobStore:
        (tmp_path / "bucket").mkdir()
        return open_blobs(f"file://{tmp_path}/bucket")


class TestSealedS3(_Sealed):
    @pytest.fixture
    def inner(self, s3_bucket: S3Bucket) -> BlobStore:
        return open_blobs(f"{s3_bucket.url}/a/prefix", endpoint=s3_bucket.endpoint, credentials=s3_bucket.credentials)


@pytest.mark.heavy  # tests/remote/blobs/test_fork.py has what matters most
class TestS3InASpawnedProcess(BlobStoreSuite):
    """As a forked child sees it."""

    @pytest.fixture
    def blobs(self, s3_bucket: S3Bucket) -> Iterator[BlobStore]:
        inner = open_blobs(s3_bucket.url, endpoint=s3_bucket.endpoint, credentials=s3_bucket.credentials)
        spawned = _Spawned(inner)
        yield spawned
        spawned.close()

    def test_it_goes_on_when_it_was_closed_or_pickled(
        self, blobs: BlobStore, plant: Callable[[str, bytes], None]
    ) -> None:
        plant("a", b"1")
        blobs.close()
        assert blobs.get("a", 1) == b"1"


class _Web(ReadingSuite):
    knows_ranges = knows_head = True

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> Iterator[BlobStore]:
        (tmp_path / "bucket").mkdir()
        with web_server(tmp_path / "bucket", knows_ranges=self.knows_ranges, knows_head=self.knows_head) as server:
            blobs = HttpBlobs(server.url)
            yield blobs
            blobs.close()

    @pytest.fixture
    def plant(self, tmp_path: Path) -> Callable[[str, bytes], None]:
        return DirectoryBlobs(tmp_path / "bucket").put


class TestWebServer(_Web):
    pass


class TestWebServerWithoutRanges(_Web):
    knows_ranges = False


class TestWebServerWithoutHead(_Web):
    knows_head = False
