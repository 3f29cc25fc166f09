"""One process of a host at a time, by a lock in the host-local cache directory: never in the store."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_held: set[int] = set()  # descriptors of locks


def _after_fork() -> None:
    """A child would hold the lock for as long as it lives, though its parent died."""
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether no other process or thread of this host, that uses the same cache, is inside. path: of the lock's file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _held.add(fd)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        if fd in _held:  # it is not in a child that was forked inside
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that is about to execute a program has it open still
            _held.discard(fd)
            os.close(fd)


def free_size(path: Path) -> int:
    """Bytes that may still be written to the file system, or 256 TiB where that is not known."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize if status.f_blocks else 1 << 48
