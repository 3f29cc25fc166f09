"""Private remotes for tests: sealed blobs on any bucket, members with hosts of their own, and a search of all that is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import kacas
from kacas.settings import Settings
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.blobs.sealed import SealedBlobs
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.layout import MARKER
from kacas_remote.remote import Remote
from kacas_remote.upstream import RemoteUpstream
from tests.remote.counting import CountingBlobs
from tests.remote.group_keys import FixedKeys
from tests.remote.servers import S3Bucket

_LEAST = 8  # bytes: fewer are found in random ones, too


def private_remote(
    blobs: BlobStore, group: str, known: int | None = None, *, keys: FixedKeys | None = None, wait_s: float = 0.0
) -> Remote:
    """As a member of the group has it. known: the last epoch that this one has keys of. wait_s: before new ones are looked for."""
    configuration = RemoteConfiguration("lab", "memory://", private=group, trusted=True)
    sealed = SealedBlobs(blobs, keys or FixedKeys(group, known), miss_s=wait_s, list_s=wait_s)
    return Remote("lab", sealed, configuration)


def host(place: Path, remote: Remote) -> kacas.Store:
    """A store of a host that has nothing yet, before the remote."""
    settings = Settings.from_environment({"KACAS_CACHE_DIR": str(place / "cache"), "HOME": str(place)})
    return kacas.Store.open(place / "store", settings=settings, behind=[RemoteUpstream(remote, settings)])


def found_in(bucket: BlobStore, secrets: Iterable[bytes]) -> list[tuple[str, bytes]]:
    """Which of these are in a key, or in the bytes, of any blob but the marker that everybody may read."""
    wanted = [secret for secret in secrets if len(secret) >= _LEAST]
    found = []
    for info in bucket.list(""):
        if info.key == MARKER:
            continue
        data = bucket.get(info.key, 1 << 30)
        found += [(info.key, secret) for secret in wanted if secret in data or secret in info.key.encode("ascii")]
    return found


@pytest.fixture
def group(tmp_path: Path) -> str:
    """One of its own for each test."""
    return tmp_path.name


@pytest.fixture(params=["directory", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CountingBlobs]:
    if request.param == "directory":
        (tmp_path / "bucket").mkdir()
        inner: BlobStore = DirectoryBlobs(tmp_path / "bucket")
    else:
        s3: S3Bucket = request.getfixturevalue("s3_bucket")
        inner = open_blobs(f"{s3.url}/prefix", endpoint=s3.endpoint, region=s3.region, credentials=s3.credentials)
    yield CountingBlobs(inner)
    inner.close()


@pytest.fixture
def memory() -> CountingBlobs:
    return CountingBlobs(MemoryBlobs())
