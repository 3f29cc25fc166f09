"""Directories that a tree is restored into, held open; a small new one gets its name when everything is in it.

A file appears under its name when it is complete. For one file that takes an unnamed file and a link; for all files of a
new directory it takes one renaming of the directory, which is a quarter faster.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Container

from kacas.disk.abandoned import is_abandoned, lock
from kacas.errors import DestinationError

TEMPORARY = b".kacas.tmp."
_TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + rb"[0-9a-f]{16}")
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def temporary_name() -> bytes:
    return TEMPORARY + secrets.token_hex(8).encode()


class Place:
    """One directory below the destination. fresh: it was made just now, so nothing else is in it."""

    staged = False

    def __init__(self, fd: int, path: bytes, fresh: bool) -> None:
        self.fd = fd
        self.path = path
        self.fresh = fresh

    def complete(self) -> None:
        """Everything is in it."""

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()  # after Ctrl-C at a moment when nobody had noted it

    def text(self, name: bytes) -> str:
        return os.fsdecode(os.path.join(self.path, name))

    def error(self, name: bytes, exc: OSError) -> DestinationError:
        why = os.strerror(exc.errno) if exc.errno else str(exc)
        return DestinationError(f"{self.text(name)} cannot be written: {why}", path=self.text(name))


class StagedPlace(Place):
    """A new directory that has a temporary name, and a lock while somebody fills it: files are simply made in it."""

    staged = True

    def __init__(self, fd: int, path: bytes, parent_fd: int, temporary: bytes) -> None:
        self._pid = os.getpid()
        self._parent_fd = parent_fd
        self._temporary: bytes | None = temporary
        super().__init__(fd, path, fresh=True)

    def complete(self) -> None:
        """Give it its name. Raises DestinationError if that was taken meanwhile."""
        temporary, name = self._temporary, os.path.basename(self.path)
        if temporary is not None:
            try:
                os.fchmod(self.fd, stat.S_IMODE(os.fstat(self.fd).st_mode) & ~stat.S_ISVTX)
                os.rename(temporary, name, src_dir_fd=self._parent_fd, dst_dir_fd=self._parent_fd)
            except OSError as exc:
                raise self.error(b"", exc) from exc
            self._temporary = None

    def close(self) -> None:
        """A directory that was not completed is removed."""
        temporary, self._temporary = self._temporary, None
        parent_fd, self._parent_fd = self._parent_fd, -1
        try:
            # A child that was forked meanwhile has this object too: the directory is its parent's.
            mine = self._pid == os.getpid()
            if temporary is not None and mine and _is_named(self.fd, temporary, parent_fd):
                _remove(self.fd, parent_fd, temporary)
        finally:
            if parent_fd >= 0:
                os.close(parent_fd)
            super().close()


def stage(parent_fd: int, path: bytes) -> StagedPlace | None:
    """A new directory that will be `path`, in the open parent; None if another process takes it for abandoned.

    Raises OSError.
    """
    temporary, fd = temporary_name(), -1
    try:
        # The sticky bit is our mark from the first moment: no directory of a tree is restored with it.
        os.mkdir(temporary, 0o777 | stat.S_ISVTX, dir_fd=parent_fd)
        fd = os.open(temporary, DIRECTORY, dir_fd=parent_fd)
        if lock(fd) is not False and _is_named(fd, temporary, parent_fd):
            return StagedPlace(fd, path, os.dup(parent_fd), temporary)
    except FileNotFoundError:
        pass  # swept between the two steps
    except BaseException:
        with contextlib.suppress(OSError):
            os.rmdir(temporary, dir_fd=parent_fd)
        if fd >= 0:
            os.close(fd)
        raise
    if fd >= 0:
        os.close(fd)
    return None


def sweep(place: Place, names: Container[bytes]) -> None:
    """Remove directories that killed processes left here under temporary names. names: what belongs here.

    Another user's, and what else cannot be removed, is left.
    """
    for name in os.listdir(place.fd):
        encoded = os.fsencode(name)
        if not _TEMPORARY_NAME.fullmatch(encoded) or encoded in names:
            continue
        try:
            fd = os.open(encoded, DIRECTORY, dir_fd=place.fd)
        except OSError:
            continue  # a file, perhaps of a process that is at work
        try:
            marked = os.fstat(fd).st_mode & stat.S_ISVTX
            if marked and not _has_directories(fd) and is_abandoned(fd, place.fd, temporary_name()):
                # Renamed first: whoever was stopped for long and goes on finds that it is gone, and what was completed
                # meanwhile has its own name by now and is no prey.
                gone = temporary_name()
                os.rename(encoded, gone, src_dir_fd=place.fd, dst_dir_fd=place.fd)
                if _is_named(fd, gone, place.fd):
                    _remove(fd, place.fd, gone)
        except OSError:
            continue
        finally:
            os.close(fd)


def _is_named(fd: int, name: bytes, parent_fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=parent_fd, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _has_directories(fd: int) -> bool:
    """Then it is none of ours."""
    return any(stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode) for name in os.listdir(fd))


def _remove(fd: int, parent_fd: int, name: bytes) -> None:
    """Remove a staged directory: it holds files and links only."""
    for entry in os.listdir(fd):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(entry, dir_fd=fd)
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=parent_fd)
