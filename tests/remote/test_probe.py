"""Probing: what a service honours is what it did, nothing stays behind, and what is missing is said."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.configuration import Probed, RemoteConfiguration
from kacas_remote.errors import NotSupportedError, RemoteRefusedError
from kacas_remote.layout import MARKER
from kacas_remote.probe import probe, shortcomings
from kacas_remote.remote import Remote
from tests.remote.servers import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]


def words_of(remote: Remote) -> str:
    return " ".join(shortcomings(probe(remote), remote.configuration))


def test_memory_and_directories_do_all_that_can_be_tried_and_nothing_stays(tmp_path: Path) -> None:
    for blobs in (MemoryBlobs(), DirectoryBlobs(tmp_path)):
        seen = probe(Remote("lab", blobs, RemoteConfiguration("lab", f"file://{tmp_path}")))
        assert (seen.writable, seen.conditional_put, seen.ranges, seen.multipart) == (True,) * 4
        assert (seen.listing, seen.deleting) == (True, True)
        assert not list(blobs.list(""))
        assert list(shortcomings(seen, RemoteConfiguration("lab", "file:///x"))) == []


def test_a_real_service_does_all_of_it_and_nothing_stays(s3_bucket: S3Bucket) -> None:
    blobs = open_blobs(
        s3_bucket.url, endpoint=s3_bucket.endpoint, region=s3_bucket.region, credentials=s3_bucket.credentials
    )
    configuration = RemoteConfiguration("lab", s3_bucket.url, endpoint=s3_bucket.endpoint)
    seen = probe(Remote("lab", blobs, configuration))
    assert seen.at
    assert seen.clock_s is not None
    assert abs(seen.clock_s) <= 2
    flags = (seen.writable, seen.conditional_put, seen.ranges, seen.checksums, seen.multipart)
    assert (*flags, seen.listing, seen.deleting, seen.signing) == (True,) * 8
    assert not list(blobs.list(""))
    assert list(shortcomings(seen, configuration)) == []


class Overwriting(MemoryBlobs):
    """As services that ignore If-None-Match."""

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        self.put(key, data)
        return True


class WithoutRanges(MemoryBlobs):
    def get_ranges(self, key: str, ranges: Any) -> list[memoryview]:
        return [memoryview(self.get(key, 1 << 30)) for _ in ranges]


class Cutting(MemoryBlobs):
    """It forgets all but the first part."""

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        self.put(key, next(iter(parts)))


class Keeping(MemoryBlobs):
    def delete(self, keys: Iterable[str]) -> None:
        raise RemoteRefusedError("not allowed", path=self.name)


class Unlisted(MemoryBlobs):
    def list(self, prefix: str, *, after: str = "") -> Any:
        raise NotSupportedError("a web server lists nothing", path=self.name)


@pytest.mark.parametrize(
    "kind, missing, words",
    [
        (Overwriting, "conditional_put", "more than one is told"),
        (WithoutRanges, "ranges", "no parts"),
        (Cutting, "multipart", "no blobs in parts"),
        (Keeping, "deleting", "delete nothing"),
        (Unlisted, "listing", "not list"),
    ],
)
def test_what_a_service_does_not_honour_is_seen_and_said(kind: type[MemoryBlobs], missing: str, words: str) -> None:
    remote = Remote("lab", kind())
    seen = probe(remote)
    flags = ("writable", "conditional_put", "ranges", "multipart", "listing", "deleting")
    assert [name for name in flags if getattr(seen, name) is not True] == [missing]
    assert words in words_of(remote)


class ReadOnly(MemoryBlobs):
    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        raise RemoteRefusedError("not allowed", path=self.name)


def test_credentials_that_may_only_read_are_recognised() -> None:
    remote = Remote("lab", ReadOnly())
    assert probe(remote).writable is False
    assert "can only be read" in words_of(remote)


class Closed(ReadOnly):
    def list(self, prefix: str, *, after: str = "") -> Any:
        raise RemoteRefusedError("the key is wrong; correct it", path=self.name)

    def get(self, key: str, limit: int) -> bytes:
        assert key == MARKER
        raise RemoteRefusedError("the key is wrong; correct it", path=self.name)


def test_a_service_that_lets_us_do_nothing_is_an_error_in_its_words() -> None:
    with pytest.raises(RemoteRefusedError, match="the key is wrong"):
        probe(Remote("lab", Closed()))


def test_a_remote_that_is_read_only_by_choice_is_not_written_to() -> None:
    blobs = MemoryBlobs()
    seen = probe(Remote("lab", blobs, RemoteConfiguration("lab", "s3://b", read_only=True)))
    assert seen.writable is False
    assert not list(blobs.list(""))


def test_a_clock_that_is_off_is_said() -> None:
    configuration = RemoteConfiguration("lab", "s3://b")
    assert "NTP" in " ".join(shortcomings(Probed(clock_s=-400), configuration))
    assert not list(shortcomings(Probed(clock_s=200), configuration))
