"""The index directories inside a store's host-local cache: one for each pid namespace, in use while somebody has its lock.

    index/<pid namespace>/users     locked (flock) by all who have the index open; its mtime says when it was opened last

LMDB knows processes by their pids, and those of two containers are the same. No container says that it ends: what
nobody has open goes when it was not opened for a day, and at once what is more than a few. It costs its users time, no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from pathlib import Path

from kacas.disk.durable import make_directory

_KEEP_S = 24 * 3600
_MOST_UNUSED = 8  # directories, each with some 10 MB: segments hold what would make them large
_LOCK_NAME = "users"
_GONE = ".gone."
_UNKNOWN = "host"  # where /proc does not tell
_TRIES = 10


def place_in(cache: Path) -> Path:
    """The directory of this process's pid namespace."""
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = _UNKNOWN
    return cache / "index" / namespace


def hold(place: Path) -> int:
    """Make the directory if need be. Returns a descriptor: until it is closed, nobody drops the directory. Raises OSError."""
    for _ in range(_TRIES):
        make_directory(place, 0o700, sync=False)
        try:
            fd = os.open(place / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # it was dropped just now
        try:
            with contextlib.suppress(OSError):  # where nothing can be locked, it may be dropped under its users
                fcntl.flock(fd, fcntl.LOCK_SH)
            if _is_at(fd, place):
                os.utime(fd)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise OSError(f"{place} is dropped by other processes again and again")


def drop_unused(place: Path) -> None:
    """Remove what other pid namespaces left beside `place`, unless it is in use, or was lately. Never an error."""
    unused: list[tuple[float, Path]] = []
    for name in os.listdir(place.parent):
        other = place.with_name(name)
        if name.startswith(_GONE):
            shutil.rmtree(other, ignore_errors=True)  # whoever dropped it was killed
        elif (
            name != place.name and (name.isdigit() or name == _UNKNOWN) and (opened := _opened_last(other)) is not None
        ):
            unused.append((opened, other))
    now = time.time()
    for rank, (opened, other) in enumerate(sorted(unused, reverse=True)):
        if rank >= _MOST_UNUSED or now - opened > _KEEP_S:
            _drop(other)


def _opened_last(place: Path) -> float | None:
    """When, in seconds since the epoch; None for what is no index, or in use."""
    try:
        return _unless_in_use(place)
    except OSError:
        return None


def _unless_in_use(place: Path) -> float | None:
    try:
        fd = os.open(place / _LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.stat(place / "current").st_mtime  # made when there was no such lock
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(fd).st_mtime
    except BlockingIOError:
        return None
    finally:
        os.close(fd)


def _drop(place: Path) -> None:
    gone = place.with_name(f"{_GONE}{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        fd = os.open(place / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, place):
                place.rename(gone)  # who waits for the lock finds that it is no longer here
        finally:
            os.close(fd)
    shutil.rmtree(gone, ignore_errors=True)


def _is_at(fd: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(place / _LOCK_NAME))
    except FileNotFoundError:
        return False
