"""Places where a group's record is: a bucket, a store, or a file. One conformance suite holds for all three.

bucket    groups/<id, 32 hex>/<number, 8 digits>, a blob for each version, created once
store     groups/<id, 32 hex>/, a sequence of records (kacas.disk.records), a version in each
file      all versions, one behind the other: for a directory that is shared, or a mail
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from kacas.disk.durable import translate
from kacas.disk.records import BEGINNING, RecordKind, Sequences
from kacas.disk.records import Sequence as Records
from kacas.disk.volume import open_volume
from kacas.errors import InvalidSettingError, ReadOnlyStoreError, SizeLimitError
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobNotFoundError, DamagedGroupError, GroupNotFoundError
from kacas_remote.groups.record import MAX_VERSION_SIZE, MAX_VERSIONS
from kacas_remote.layout import GROUPS
from kacas_remote.own_file import change_file

MAX_FILE_SIZE = 256 << 20  # bytes
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would be waited for


class Place(Protocol):
    """The versions of one group's record, by their numbers, from 1 without gaps. What they say is not judged here.

    Raises GroupNotFoundError if the place is not there at all, StoreError's kinds if it cannot be used.
    """

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def has(self, number: int) -> bool:
        """Whether there is a version of this number."""
        ...

    def read(self, first: int) -> Iterator[bytes]:
        """The versions from this number on, up to the newest. Raises DamagedGroupError for one that is too large."""
        ...

    def create(self, number: int, text: bytes) -> bool:
        """Create a version, durably; the one before it is there. False if somebody else has that number."""
        ...


def highest(place: Place) -> int:
    """The number of the newest version; 0 if there is none."""
    low, high = 0, 1
    while high <= MAX_VERSIONS and place.has(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if place.has(middle) else (low, middle)
    return low


class BucketPlace:
    """blobs: of the bucket as it is, also where it is that of a private remote. read_only: this user puts nothing there."""

    def __init__(self, blobs: BlobStore, group_id: bytes, *, read_only: bool = False) -> None:
        self._blobs = blobs
        self._read_only = read_only
        self._prefix = f"{GROUPS}{group_id.hex()}/"

    @property
    def name(self) -> str:
        return f"{self._blobs.name}/{self._prefix.rstrip('/')}"

    def has(self, number: int) -> bool:
        return self._blobs.head(self._key(number)) is not None

    def read(self, first: int) -> Iterator[bytes]:
        for number in range(first, MAX_VERSIONS + 1):
            try:
                yield self._blobs.get(self._key(number), MAX_VERSION_SIZE)
            except BlobNotFoundError:
                return
            except SizeLimitError as exc:
                raise too_large(self.name, number) from exc

    def create(self, number: int, text: bytes) -> bool:
        if self._read_only:
            raise ReadOnlyStoreError(
                f"{self.name} can only be read from here: its remote was added so, or is a web server. Change the group where "
                "you can write to its place",
                path=self.name,
            )
        return self._blobs.put_if_absent(self._key(number), text)

    def _key(self, number: int) -> str:
        return f"{self._prefix}{number:08d}"


class StorePlace:
    """store: its directory. It is opened when it is used."""

    def __init__(self, store: Path, group_id: bytes) -> None:
        self._store = store
        self._directory = f"{GROUPS}{group_id.hex()}"

    @property
    def name(self) -> str:
        return str(self._store / self._directory)

    def has(self, number: int) -> bool:
        return number in self._records().numbers()

    def read(self, first: int) -> Iterator[bytes]:
        records = self._records()
        newest = records.highest_of_all()
        for number in range(first, newest + 1):
            record = records.read(number)
            if record is None:
                raise records.damaged(number, "a listing shows it, but it cannot be opened")
            yield record.body

    def create(self, number: int, text: bytes) -> bool:
        records = self._records()
        before = BEGINNING
        if number > 1:
            record = records.read(number - 1)
            if record is None:
                raise records.damaged(number - 1, "it is gone, and it was there")
            before = record.mark
        return records.create(before, text) is not None

    def _records(self) -> Records:
        volume = open_volume(self._store, create=False)
        return Sequences(volume).sequence(self._directory, RecordKind.GROUP)


class FilePlace:
    """path: of the file. Its directory is there; the file is made with the first version.

    The file is replaced as a whole, under a lock of its directory. Where that does not hold, as on some NFS, one of two who
    change it at once may be told that the record was rewritten: several admins do better with a bucket or a store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def is_there(self) -> bool:
        return os.path.lexists(self._path)

    def has(self, number: int) -> bool:
        return next(self.read(number), None) is not None

    def read(self, first: int) -> Iterator[bytes]:
        try:
            fd = os.open(self._path, _FILE)
        except FileNotFoundError as exc:
            if self._path.parent.is_dir():
                return
            raise self._away() from exc
        except OSError as exc:
            raise translate(exc, self._path, "reading") from exc
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidSettingError(f"{self._path} is no file; name the file that the record of the group is in")
        with open(fd, "rb") as file:

            def readline(limit: int) -> bytes:
                try:
                    return file.readline(limit)
                except OSError as exc:
                    raise translate(exc, self._path, "reading") from exc

            yield from _versions(readline, self.name, first)

    def create(self, number: int, text: bytes) -> bool:
        return self.create_many(number, [text])

    def create_many(self, first: int, texts: Sequence[bytes]) -> bool:
        """Create all of these versions, or none. False if the number of the first is taken."""
        if not self._path.parent.is_dir():
            raise self._away()
        try:
            mode = stat.S_IMODE(os.stat(self._path).st_mode)
        except FileNotFoundError:
            mode = stat.S_IMODE(os.stat(self._path.parent).st_mode) & 0o444 | 0o600

        def longer() -> str:
            there = list(self.read(1))
            if len(there) != first - 1:
                raise _TakenError
            whole = b"".join([*there, *texts])
            if len(whole) > MAX_FILE_SIZE:
                raise InvalidSettingError(
                    f"{self._path} would have {len(whole)} bytes, and at most {MAX_FILE_SIZE} are possible; make a new group"
                )
            return whole.decode("ascii")

        try:
            change_file(self._path, longer, mode)
        except _TakenError:
            return False
        return True

    def _away(self) -> GroupNotFoundError:
        return GroupNotFoundError(f"{self._path.parent} is not there; is its disk or share mounted?")


class _TakenError(Exception):
    """Somebody else has that number."""


def _versions(readline: Callable[[int], bytes], where: str, first: int) -> Iterator[bytes]:
    """Each is two lines."""
    number, size = 0, 0
    while line := readline(MAX_VERSION_SIZE + 1):
        number += 1
        text = line + readline(MAX_VERSION_SIZE + 1)
        size += len(text)
        if len(text) > MAX_VERSION_SIZE or size > MAX_FILE_SIZE:
            raise too_large(where, number)
        if number >= first:
            yield text


def too_large(where: str, number: int) -> DamagedGroupError:
    return DamagedGroupError(
        f"version {number} of the record at {where} has more than {MAX_VERSION_SIZE} bytes, which none has; it was not read. "
        "Was something else put there?"
    )
