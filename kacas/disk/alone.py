"""One process of a host at a time, by a lock in the host-local cache directory: never in the store."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether no other process or thread of this host, that uses the same cache, is inside. path: of the lock's file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough if a child was forked meanwhile
    finally:
        os.close(fd)


def free_size(path: Path) -> int:
    """Bytes that may still be written to the file system, or 256 TiB where that is not known."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize if status.f_blocks else 1 << 48
