"""A hidden directory for work of a moment: whatever happens, it goes; what a killed process left is swept by the next."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
import stat
from pathlib import Path
from types import TracebackType

from kacas.disk.abandoned import is_abandoned, lock
from kacas.disk.durable import make_directory, translate
from kacas.errors import NoSpaceError, StoreError

_FRONT = ".kacas-bench.tmp."  # with .tmp. in it, what makes a store takes it for a leftover of ours
_NAME = re.compile(re.escape(_FRONT) + r"[0-9a-f]{16}", re.ASCII)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_scratch(name: str) -> bool:
    """Whether a directory of that name is one of these."""
    return _NAME.fullmatch(name) is not None


class Scratch:
    """`with Scratch(parent) as path:` a new directory in `parent`, locked while it is used, removed at the end.

    parent: made for the time, if it is not there. Raises NoSpaceError if there are less than `room` bytes, else StoreError.
    """

    def __init__(self, parent: Path, room: int) -> None:
        self.path = parent / f"{_FRONT}{secrets.token_hex(8)}"
        self._room = room
        self._pid = os.getpid()
        self._fd = -1
        self._made: list[Path] = []

    def __enter__(self) -> Path:
        parent = self.path.parent
        try:
            self._made = [one for one in (parent, *parent.parents) if not one.exists()]
            check_room(self._made[-1].parent if self._made else parent, self._room)
            make_directory(parent, 0o700, sync=False)
            sweep(parent)
            atexit.register(self._remove)  # a signal may come where no `except` of ours is yet, or any more
            os.mkdir(self.path, 0o700)
            self._fd = os.open(self.path, _DIRECTORY)
            lock(self._fd)
            return self.path
        except BaseException as exc:
            self.remove()
            if isinstance(exc, OSError) and not isinstance(exc, StoreError):
                raise translate(exc, self.path, "making") from exc
            raise

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Raises StoreError if something stays. Safe to call twice."""
        try:
            self._remove()
        except KeyboardInterrupt:  # at the very end: tidying is not cut short
            self._remove()
            raise
        atexit.unregister(self._remove)

    def _remove(self) -> None:
        if os.getpid() != self._pid:
            return  # a child that was forked meanwhile: the directory is its parent's
        _remove_tree(self.path)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        for directory in self._made:
            try:
                directory.rmdir()
            except OSError:
                break  # somebody else has put something there, or it was never made


def check_room(path: Path, size: int) -> None:
    """Raise NoSpaceError if the file system has less free space than this."""
    try:
        disk = os.statvfs(path)
    except OSError as exc:
        raise translate(exc, path, "looking at") from exc
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        raise NoSpaceError(
            f"measuring at {path} takes up to {size >> 20} MiB for a moment, and {free >> 20} MiB are free; free space, "
            "or take a smaller sample (--size-mib)",
            path=str(path),
        )


def sweep(parent: Path) -> None:
    """Remove what killed processes of this user left in `parent`."""
    found = [name for name in os.listdir(parent) if is_scratch(name)]
    if not found:
        return
    parent_fd = os.open(parent, _DIRECTORY)
    try:
        for name in found:
            try:
                _sweep_one(parent, parent_fd, name)
            except (OSError, StoreError):
                continue  # another user's, or gone meanwhile; else it is named by `kacas bench` of whoever may remove it
    finally:
        os.close(parent_fd)


def _sweep_one(parent: Path, parent_fd: int, name: str) -> None:
    fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        probe = f"{_FRONT}{secrets.token_hex(8)}".encode()
        if os.fstat(fd).st_uid == os.getuid() and is_abandoned(fd, parent_fd, probe):
            _remove_tree(parent / name)
    finally:
        os.close(fd)


def _remove_tree(path: Path) -> None:
    """Also directories that were made unwritable."""
    left: list[OSError] = []

    def failed(function: object, name: str, info: tuple[type[BaseException], BaseException, TracebackType]) -> None:
        exc = info[1]
        if isinstance(exc, OSError) and not isinstance(exc, FileNotFoundError):
            left.append(exc)

    shutil.rmtree(path, onerror=failed)
    if left and path.exists():
        for directory, _, _ in os.walk(path):
            os.chmod(directory, stat.S_IRWXU)
        try:
            shutil.rmtree(path)
        except OSError as exc:
            why = os.strerror(exc.errno or 0)
            raise StoreError(
                f"{path} cannot be removed: {why}; delete it, it holds nothing of yours", path=str(path)
            ) from exc
