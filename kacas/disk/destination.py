"""A directory that a tree is restored into: every name is opened below it, no link in it is followed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from kacas.disk.place import DIRECTORY, Place, stage, temporary_name
from kacas.errors import DestinationError

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)

Parts = Iterable[bytes | bytearray | memoryview]


class Destination:
    """Where a tree goes. Files get their names when they are complete; what is there is kept unless `overwrite`."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = os.fsencode(os.path.abspath(path))
        self._overwrite = overwrite
        self._unnamed = hasattr(os, "O_TMPFILE")

    def open_root(self) -> Place:
        """Make the destination if it is not there. Raises DestinationError."""
        shown = os.fsdecode(self.path)
        try:
            os.mkdir(self.path)
            fresh = True
        except FileExistsError:
            fresh = False
        except OSError as exc:
            raise DestinationError(f"{shown} cannot be made: {os.strerror(exc.errno or 0)}", path=shown) from exc
        try:
            # The user named it: a link given as the destination itself is followed.
            return Place(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), self.path, fresh)
        except OSError as exc:
            raise DestinationError(f"{shown} is not a directory that can be opened", path=shown) from exc

    def check_room(self, root: Place, names: int, size: int) -> None:
        """Raise DestinationError if so many names or bytes cannot fit: a disk is not filled to find that out.

        In a destination that was there, all that is used counts as free: it may be what an earlier run restored.
        """
        disk = os.statvfs(root.fd)
        room = (disk.f_bavail if root.fresh else disk.f_blocks) * disk.f_frsize
        nodes = disk.f_favail if root.fresh else disk.f_files
        if size > room:
            what = f"{size:,} bytes, and there is room for {room:,}"
        elif disk.f_files and names > nodes:
            what = f"{names:,} names, and the file system can take {nodes:,}"
        else:
            return
        root.close()
        if root.fresh:
            os.rmdir(self.path)
        shown = os.fsdecode(self.path)
        raise DestinationError(f"{shown} has no room: the directory needs {what}", path=shown)

    def open_directory(self, root: Place, names: tuple[bytes, ...], *, staged: bool = False) -> Place:
        """The directory below the root, made if it is not there. Raises DestinationError for a link on the way.

        staged: if it is made, it gets its name when it is completed; only files and links can be made in it.
        """
        fd, path, fresh = os.dup(root.fd), self.path, root.fresh
        for depth, name in enumerate(names, 1):
            path, fresh = os.path.join(path, name), False
            try:
                if staged and depth == len(names) and not _exists(name, fd) and (place := stage(fd, path)):
                    return place
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=fd)
                    fresh = True
                below = os.open(name, DIRECTORY, dir_fd=fd)
            except OSError as exc:
                shown = os.fsdecode(path)
                if exc.errno in (errno.ENOTDIR, errno.ELOOP):
                    message = f"{shown} is in the way: a directory is to be there; move it, or restore elsewhere"
                else:
                    message = f"{shown} cannot be made: {os.strerror(exc.errno or 0)}"
                raise DestinationError(message, path=shown) from exc
            finally:
                os.close(fd)
            fd = below
        return Place(fd, path, fresh)

    def existing(self, place: Place, name: bytes) -> os.stat_result | None:
        """What is at the name already."""
        if place.fresh:
            return None
        try:
            return os.stat(name, dir_fd=place.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise place.error(name, exc) from exc

    def check_free(self, place: Place, name: bytes, status: os.stat_result | None) -> None:
        """Raise DestinationError if something else is there and must not, or cannot, be replaced."""
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            raise DestinationError(f"{place.text(name)} is in the way: it is a directory", path=place.text(name))
        if not self._overwrite:
            raise DestinationError(
                f"{place.text(name)} is there with other content; move it, restore elsewhere, or allow overwriting",
                path=place.text(name),
            )

    def write_file(self, place: Place, name: bytes, executable: bool, parts: Parts, *, replace: bool) -> None:
        """Make the file; it appears when it is complete. parts: its bytes, in order. Raises DestinationError."""
        mode = 0o777 if executable else 0o666  # and not what the umask forbids
        try:
            if place.staged:
                _write_new(place, name, mode, parts)
                return
            if self._unnamed and not replace:
                try:
                    fd = os.open(b".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, mode, dir_fd=place.fd)
                except OSError as exc:
                    if exc.errno not in _UNSUPPORTED:
                        raise
                    self._unnamed = False  # NFS and others: a name from the beginning
                else:
                    self._write_unnamed(fd, place, name, parts)
                    return
            self._write_named(place, name, mode, parts, replace)
        except OSError as exc:
            if isinstance(exc, DestinationError) or exc.errno is None:
                raise
            raise place.error(name, exc) from exc

    @staticmethod
    def _write_unnamed(fd: int, place: Place, name: bytes, parts: Parts) -> None:
        # Nothing is left of it if we are killed. The link refuses a name that appeared meanwhile.
        try:
            _write(fd, parts)
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=place.fd, follow_symlinks=True)
        finally:
            os.close(fd)

    @staticmethod
    def _write_named(place: Place, name: bytes, mode: int, parts: Parts, replace: bool) -> None:
        temporary = temporary_name()
        try:
            _write_new(place, temporary, mode, parts)
            if replace:
                os.rename(temporary, name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
                return
            os.link(temporary, name, src_dir_fd=place.fd, dst_dir_fd=place.fd, follow_symlinks=False)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=place.fd)
            raise
        os.unlink(temporary, dir_fd=place.fd)

    def make_link(self, place: Place, name: bytes, target: bytes) -> None:
        """Make the symbolic link, unless the very same is there. Raises DestinationError."""
        status = self.existing(place, name)
        try:
            if status is not None:
                if stat.S_ISLNK(status.st_mode) and os.readlink(name, dir_fd=place.fd) == target:
                    return
                self.check_free(place, name, status)
                temporary = temporary_name()
                os.symlink(target, temporary, dir_fd=place.fd)
                os.rename(temporary, name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
            else:
                os.symlink(target, name, dir_fd=place.fd)
        except OSError as exc:
            if isinstance(exc, DestinationError):
                raise
            raise place.error(name, exc) from exc

    @staticmethod
    def set_executable(fd: int, executable: bool) -> None:
        """Give a file that is kept, open, the executable bit that the tree has. Raises OSError."""
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if bool(mode & 0o100) != executable:
            os.fchmod(fd, mode & 0o666 | ((mode & 0o444) >> 2 if executable else 0))


def _write_new(place: Place, name: bytes, mode: int, parts: Parts) -> None:
    fd = os.open(name, _CREATE, mode, dir_fd=place.fd)
    try:
        try:
            _write(fd, parts)
        finally:
            os.close(fd)
    except BaseException:
        os.unlink(name, dir_fd=place.fd)  # a part of a file never gets a name with its directory
        raise


def _write(fd: int, parts: Parts) -> None:
    for part in parts:
        while part:
            part = part[os.write(fd, part) :]


def _exists(name: bytes, parent_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
