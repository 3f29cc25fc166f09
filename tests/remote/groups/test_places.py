"""Places of a group's record: one suite for buckets, stores and files."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kacas.disk.volume import Sharing, open_volume
from kacas.errors import InvalidSettingError, ReadOnlyStoreError, StoreError, StoreNotFoundError
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.errors import DamagedGroupError, GroupNotFoundError, RemoteNotFoundError
from kacas_remote.groups.places import BucketPlace, FilePlace, Place, StorePlace, highest
from kacas_remote.groups.record import MAX_VERSION_SIZE
from tests.remote.servers import S3Bucket, s3_bucket, s3_server  # noqa: F401 - fixtures

GROUP = b"g" * 16


def text(number: int, what: str = "a") -> bytes:
    """Like a version: two lines."""
    return f'{{"{what}":{number}}}\n{number:0128x}\n'.encode()


class PlaceSuite(ABC):
    @pytest.fixture
    @abstractmethod
    def place(self, tmp_path: Path) -> Place:
        """One without versions."""

    def test_without_versions_there_is_nothing_to_read(self, place: Place) -> None:
        assert list(place.read(1)) == []
        assert not place.has(1)
        assert highest(place) == 0

    def test_versions_are_read_from_a_number_on(self, place: Place) -> None:
        for number in range(1, 12):
            assert highest(place) == number - 1
            assert place.create(number, text(number))
        for first in (1, 2, 11, 12, 13):
            assert list(place.read(first)) == [text(number) for number in range(first, 12)]
        assert [place.has(number) for number in (1, 11, 12, 99)] == [True, True, False, False]
        assert highest(place) == 11

    def test_a_number_that_is_taken_stays_as_it_is(self, place: Place) -> None:
        assert place.create(1, text(1))
        assert place.create(2, text(2))
        assert not place.create(2, text(2, "b"))
        assert not place.create(1, text(1, "b"))
        assert list(place.read(1)) == [text(1), text(2)]

    def test_of_several_processes_that_create_one_number_one_wins(self, place: Place, tmp_path: Path) -> None:
        for number in (1, 2):
            writers = [
                subprocess.Popen(
                    [sys.executable, "-c", _WRITER, *self.where(tmp_path), str(number), str(one)], stdout=-1
                )
                for one in range(3)
            ]
            said = [one.communicate(timeout=60)[0].decode().strip() for one in writers]
            assert sorted(said) == ["False", "False", "True"]
            assert list(place.read(number)) == [text(number, str(said.index("True")))]

    @abstractmethod
    def where(self, tmp_path: Path) -> tuple[str, str]:
        """Kind and path, for another process."""

    def test_the_place_has_a_name_for_people(self, place: Place, tmp_path: Path) -> None:
        assert str(tmp_path) in place.name


_WRITER = """
import sys
from tests.remote.groups.test_places import open_for_test, text
kind, path, number, what = sys.argv[1:]
print(open_for_test(kind, path).create(int(number), text(int(number), what)))
"""


def open_for_test(kind: str, path: str) -> Place:
    if kind == "s3":
        return BucketPlace(open_blobs(**json.loads(path)), GROUP)
    if kind == "bucket":
        return BucketPlace(DirectoryBlobs(path), GROUP)
    return StorePlace(Path(path), GROUP) if kind == "store" else FilePlace(Path(path))


class TestBucketPlace(PlaceSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        (tmp_path / "bucket").mkdir()
        return BucketPlace(DirectoryBlobs(tmp_path / "bucket"), GROUP)

    def where(self, tmp_path: Path) -> tuple[str, str]:
        return "bucket", str(tmp_path / "bucket")

    def test_each_version_is_a_blob(self, place: Place, tmp_path: Path) -> None:
        place.create(1, text(1))
        assert (tmp_path / "bucket" / "groups" / GROUP.hex() / "00000001").read_bytes() == text(1)

    def test_what_is_too_large_is_not_read(self, tmp_path: Path) -> None:
        blobs = MemoryBlobs("too-large")
        blobs.put(f"groups/{GROUP.hex()}/00000001", bytes(MAX_VERSION_SIZE + 1))
        with pytest.raises(DamagedGroupError, match="version 1 "):
            list(BucketPlace(blobs, GROUP).read(1))

    def test_where_nothing_can_be_put_that_is_said(self) -> None:
        with pytest.raises(ReadOnlyStoreError, match="can only be read"):
            BucketPlace(MemoryBlobs("read-only"), GROUP, read_only=True).create(1, text(1))

    def test_a_bucket_that_is_gone_is_no_empty_place(self, tmp_path: Path) -> None:
        with pytest.raises(RemoteNotFoundError):
            list(BucketPlace(DirectoryBlobs(tmp_path / "none"), GROUP).read(1))


def s3_arguments(bucket: S3Bucket) -> dict[str, Any]:
    return {
        "url": bucket.url,
        "endpoint": bucket.endpoint,
        "region": bucket.region,
        "credentials": bucket.credentials,
    }


class TestS3Place(PlaceSuite):
    @pytest.fixture
    def place(self, s3_bucket: S3Bucket) -> Place:  # noqa: F811
        self.bucket = s3_bucket
        return BucketPlace(open_blobs(**s3_arguments(s3_bucket)), GROUP)

    def where(self, tmp_path: Path) -> tuple[str, str]:
        return "s3", json.dumps(s3_arguments(self.bucket))

    def test_the_place_has_a_name_for_people(self, place: Place, tmp_path: Path) -> None:
        assert place.name == f"{self.bucket.url}/groups/{GROUP.hex()}"


class TestStorePlace(PlaceSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        open_volume(tmp_path / "store", create=True)
        return StorePlace(tmp_path / "store", GROUP)

    def where(self, tmp_path: Path) -> tuple[str, str]:
        return "store", str(tmp_path / "store")

    def test_a_store_that_is_not_there_is_no_empty_place(self, tmp_path: Path) -> None:
        with pytest.raises(StoreNotFoundError):
            list(StorePlace(tmp_path / "none", GROUP).read(1))

    def test_a_version_that_is_missing_between_others_is_damage(self, place: Place, tmp_path: Path) -> None:
        for number in (1, 2, 3):
            place.create(number, text(number))
        os.unlink(tmp_path / "store" / "groups" / GROUP.hex() / "2")
        with pytest.raises(OSError, match="it is gone, and it was there"):
            list(place.read(1))

    @pytest.mark.parametrize("world_readable, directory, file", [(False, 0o2770, 0o440), (True, 0o2775, 0o444)])
    def test_in_a_shared_store_it_belongs_to_the_group(
        self, tmp_path: Path, world_readable: bool, directory: int, file: int
    ) -> None:
        sharing = Sharing(str(os.getegid()), world_readable=world_readable)
        open_volume(tmp_path / "shared", create=True, sharing=sharing)
        before = os.umask(0o077)
        try:
            StorePlace(tmp_path / "shared", GROUP).create(1, text(1))
        finally:
            os.umask(before)
        top = tmp_path / "shared" / "groups"
        modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (top, top / GROUP.hex(), top / GROUP.hex() / "1")]
        assert modes == [directory, directory, file]


class TestFilePlace(PlaceSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        (tmp_path / "shared").mkdir()
        return FilePlace(tmp_path / "shared" / "lab.group")

    def where(self, tmp_path: Path) -> tuple[str, str]:
        return "file", str(tmp_path / "shared" / "lab.group")

    def test_the_file_has_all_versions_one_behind_the_other(self, place: Place, tmp_path: Path) -> None:
        for number in (1, 2, 3):
            place.create(number, text(number))
        whole = (tmp_path / "shared" / "lab.group").read_bytes()
        assert whole == text(1) + text(2) + text(3)
        assert os.listdir(tmp_path / "shared") == ["lab.group"]

    def test_a_directory_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        place = FilePlace(tmp_path / "none" / "lab.group")
        with pytest.raises(GroupNotFoundError, match="mounted"):
            list(place.read(1))
        with pytest.raises(GroupNotFoundError, match="mounted"):
            place.create(1, text(1))
        assert not (tmp_path / "none").exists()

    def test_who_may_read_the_directory_may_read_the_file(self, place: Place, tmp_path: Path) -> None:
        (tmp_path / "shared").chmod(0o750)
        place.create(1, text(1))
        path = tmp_path / "shared" / "lab.group"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o664)
        place.create(2, text(2))
        assert stat.S_IMODE(path.stat().st_mode) == 0o664

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", tmp_path):
            with pytest.raises((InvalidSettingError, StoreError)):
                list(FilePlace(path).read(1))

    def test_a_line_that_is_too_long_is_not_read_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "lab.group"
        with open(path, "wb") as file:
            file.write(text(1))
            file.truncate(1 << 34)
        lines: Iterator[bytes] = FilePlace(path).read(1)
        assert next(lines) == text(1)
        with pytest.raises(DamagedGroupError, match="version 2 "):
            next(lines)
