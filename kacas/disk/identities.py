"""The identity cache: what a file's content was when it was read last, so that it is not read again while unchanged.

<cache>/identities/files.sqlite    facts about files, not about the store; disposable; survives a restart of the machine

A wrong fact would name other bytes than the file has, so it is clear what the kernel must promise. A write sets the
file's times, but one through a mapping sets them only when it makes a clean page dirty: later writes to that page change
the content and not the times, until the page was written back. So a file is synced before it is hashed: then its pages
are write-protected, and whoever writes through a mapping afterwards faults, which sets the times again. What changed
less than two seconds before the sync may change again within the same tick of a coarse clock, and is not believed; nor
is what claims to have changed in the future, which a clock that was set back leaves behind. Where another clock than this
host's sets the times, that of a file server or of another client, the two may be an hour apart: then it is an hour.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from kacas.disk.host_database import HostDatabase, UnavailableError
from kacas.model.digest import checksum, checksums

_SETTLING_NS = 2_000_000_000
# File systems on which a write through a mapping sets the times when it makes a clean page dirty, or a stat writes back
# first: ext2 to 4, XFS, Btrfs, F2FS, bcachefs, overlay (as its upper layer), NFS, Ceph, Lustre. On tmpfs it never does.
_TIMES_TELL = frozenset(
    [0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0xCA451A4E, 0x794C7630, 0x6969, 0x00C36400, 0x0BD00BD0]
)
_OTHER_CLOCKS = frozenset([0x6969, 0x00C36400, 0x0BD00BD0])  # NFS, Ceph, Lustre
_APART_NS = 3600 * 1_000_000_000

_VERSION = 1
# place: rises with every put, so that the lowest are the oldest. file: device and inode.
_SCHEMA = "CREATE TABLE files (place INTEGER PRIMARY KEY, file INTEGER NOT NULL UNIQUE, row BLOB NOT NULL)"
_MOST_FILES = 4_000_000  # about 140 bytes each
_PER_QUERY = 500
_PER_TRANSACTION = 10_000
_PER_STATEMENT = 400  # rows; SQLite took 999 values at most before 2020
_ROW = struct.Struct("<QQqqq20s32s")
_CHECK_AT, _CHECK_SIZE = _ROW.size, 8
_NEWEST = "(SELECT max(place) FROM files)"
_DEVICE_FACTOR = 0x9E3779B97F4A7C15


class FileState(NamedTuple):
    """What changes when a file changes. Times in nanoseconds since the epoch; size in bytes."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Identity(NamedTuple):
    """SHA-1, root and size of content, as they were computed from its bytes."""

    sha1: bytes
    root: bytes
    size: int


def sync_source(fd: int) -> int | None:
    """Sync the regular file behind `fd`, before it is hashed, as the module says.

    Returns the time of the beginning by the clock that sets its times, or earlier, for `put_many`; None if nothing of the
    file may be remembered: it cannot be synced, its file system does not tell of writes through mappings, or it has just
    been changed.
    """
    begun_ns = _now_ns(fd)
    # What is too young is not synced either: its writer did not wait for the disk, and need not wait for it here.
    if begun_ns is None or not has_settled(FileState.of(os.fstat(fd)), begun_ns):
        return None
    try:
        _await_running_write(fd)
        os.fsync(fd)
    except OSError:
        return None  # it can still be read: the file's own errors are found there
    return begun_ns


def sync_file_system(fd: int) -> int | None:
    """As `sync_source`, for all files of the file system that `fd` is on: one call for many small files.

    A single write call that runs for more than two seconds is not waited for: large files want `sync_source`.
    """
    begun_ns = _now_ns(fd)
    if begun_ns is None or not hasattr(_libc, "syncfs") or _libc.syncfs(fd):
        return None
    return begun_ns


_libc = ctypes.CDLL(None, use_errno=True)


def _now_ns(fd: int) -> int | None:
    """Now by the clock that sets the times of the file, or earlier; None if its file system does not tell of all changes.

    By the type of the file system, the first word of what statfs says.
    """
    status = (ctypes.c_long * 64)()
    if _libc.fstatfs(fd, status) or (kind := status[0] & 0xFFFFFFFF) not in _TIMES_TELL:
        return None
    return time.time_ns() - (_APART_NS if kind in _OTHER_CLOCKS else 0)


def _await_running_write(fd: int) -> None:
    """A write call sets the times when it begins, however long it goes on. Seeking for data waits for its lock."""
    at = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
    except OSError:
        return  # all hole: ENXIO; the position is where it was
    os.lseek(fd, at, os.SEEK_SET)


def has_settled(state: FileState, synced_ns: int) -> bool:
    """Whether the file changed so long before that equal times mean equal content."""
    latest_ns = synced_ns - _SETTLING_NS
    return 0 <= state.mtime_ns <= latest_ns and 0 <= state.ctime_ns <= latest_ns


class Identities:
    """Identities of files by their state. Thread-safe, safe across forks; any number of processes may use one place.

    Nothing that is wrong with the cache is an error: it is begun anew if it is damaged, or done without.
    """

    def __init__(self, cache: Path, *, most: int = _MOST_FILES) -> None:
        """most: files that are remembered; those that were stored or asked for longest ago are dropped beyond."""
        self._database = HostDatabase(
            cache / "identities", _VERSION, _SCHEMA, name="files.sqlite", dispensable="every file is read"
        )
        self._most = most

    def close(self) -> None:
        """Release what is open. It may be used again."""
        self._database.close()

    def get_many(self, states: Iterable[FileState]) -> dict[FileState, Identity]:
        """What is known of files in these very states; the others are left out."""
        wanted = {_file_key(state): state for state in states}
        files = sorted(wanted)  # in the order of the table: neighbours are read together
        found: dict[FileState, Identity] = {}
        aging: list[tuple[int, bytes]] = []

        def read(connection: sqlite3.Connection) -> None:
            connection.text_factory = bytes  # a damaged row may say that it is text
            for at in range(0, len(files), _PER_QUERY):
                part = files[at : at + _PER_QUERY]
                marks = ",".join("?" * len(part))
                query = f"SELECT file, row, place < {_NEWEST} - ? FROM files WHERE file IN ({marks})"
                for file, row, old in connection.execute(query, [self._most // 2, *part]).fetchall():
                    state = wanted.get(file)  # a damaged table may answer what was not asked
                    if state is not None and (identity := _decode(row, state)) is not None:
                        found[state] = identity
                        if old:
                            aging.append((file, row))

        with suppress(UnavailableError):
            self._database.read(read)
        if aging:
            self._write(aging, [])
        return found

    def is_empty(self) -> bool:
        """Whether nothing is remembered: then there is nothing to ask for."""
        try:
            return not self._database.read(
                lambda connection: connection.execute("SELECT 1 FROM files LIMIT 1").fetchall()
            )
        except UnavailableError:
            return True

    def put_many(self, found: Mapping[FileState, tuple[bytes, bytes, int]], synced_ns: int | None) -> None:
        """Remember the identities that files were hashed to, if that can be trusted; what cannot is forgotten.

        synced_ns: from `sync_source` or `sync_file_system`, called before the files were read. Each state must have
        been the same after that call and after the last byte was read.
        """
        keys, rows, unsure = [], [], []
        latest_ns = -1 if synced_ns is None else synced_ns - _SETTLING_NS
        for state, (sha1, root, size) in found.items():
            _, _, state_size, mtime_ns, ctime_ns = state
            # Files that have another size than they say, as in /proc, do not tell their changes either.
            if 0 <= mtime_ns <= latest_ns and 0 <= ctime_ns <= latest_ns and size == state_size:
                keys.append(_file_key(state))
                rows.append(_ROW.pack(*state, sha1, root))
            else:
                unsure.append((_file_key(state),))
        checked = [row + check for row, check in zip(rows, checksums(_CHECK_SIZE, rows), strict=True)]
        self._write(list(zip(keys, checked, strict=True)), unsure)

    def _write(self, rows: list[tuple[int, bytes]], unsure: list[tuple[int]]) -> None:
        def forget(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM files WHERE file = ?", unsure)

        def remember(connection: sqlite3.Connection) -> None:
            for first in range(0, len(part), _PER_STATEMENT):  # one statement for each row takes twice as long
                some = part[first : first + _PER_STATEMENT]
                places = ",".join(["(?,?)"] * len(some))
                connection.execute(f"INSERT OR REPLACE INTO files (file, row) VALUES {places}", list(chain(*some)))
            connection.execute(f"DELETE FROM files WHERE place <= {_NEWEST} - ?", (self._most,))

        with suppress(UnavailableError):
            if unsure:
                self._database.write(forget)
            for at in range(0, len(rows), _PER_TRANSACTION):  # other processes get a turn in between
                part = rows[at : at + _PER_TRANSACTION]
                self._database.write(remember)


def _file_key(state: FileState) -> int:
    """One row for a file, whatever its state. Inodes that are near stay near; what falls together costs a miss."""
    return (state.device * _DEVICE_FACTOR + state.inode) & 0x7FFFFFFFFFFFFFFF


def _decode(row: object, state: FileState) -> Identity | None:
    """None for another state and for all that was not written just so: a flipped bit is as if the row were not there."""
    if not isinstance(row, bytes) or len(row) != _CHECK_AT + _CHECK_SIZE:
        return None
    device, inode, size, mtime_ns, ctime_ns, sha1, root = _ROW.unpack_from(row)
    if (device, inode, size, mtime_ns, ctime_ns) != state or checksum(_CHECK_SIZE, row[:_CHECK_AT]) != row[_CHECK_AT:]:
        return None
    return Identity(sha1, root, size)
