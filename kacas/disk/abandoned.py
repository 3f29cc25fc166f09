"""Whether anybody still works in a hidden directory, or was killed: by its lock, and by its age where locks are of one host."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from kacas.disk.file_systems import is_network

_DEAD_AFTER_S = 3600  # where locks cannot be trusted: what is done in such a directory takes a minute


def lock(fd: int) -> bool | None:
    """Take the directory's lock. False if another process has it; None where directories cannot be locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_abandoned(fd: int, parent_fd: int, probe: bytes) -> bool:
    """Of an open directory in an open parent; if so, it is locked until fd is closed. Raises OSError.

    Whoever works in it has its lock. On a network file system that may be a lock of one host only (NFSv3 without lockd), so
    there it must also be an hour old by the clock of the server, which a file of the name `probe` is made to learn.
    """
    if not lock(fd):
        return False
    return not is_network(Path(f"/proc/self/fd/{parent_fd}")) or _is_old(fd, parent_fd, probe)


def _is_old(fd: int, parent_fd: int, probe: bytes) -> bool:
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent_fd))
    try:
        now = os.stat(probe, dir_fd=parent_fd, follow_symlinks=False).st_mtime
        return now - os.fstat(fd).st_mtime > _DEAD_AFTER_S
    finally:
        os.unlink(probe, dir_fd=parent_fd)
