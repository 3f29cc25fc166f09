"""The publish protocol: a file appears whole, durable and exactly once, or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kacas.disk.ownership import user_name, why_refused
from kacas.errors import AccessDeniedError, NoLinksError, NoSpaceError, ReadOnlyStoreError, StoreError, WriteError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM)
_READING = ("reading", "listing", "looking at")
_GONE = (errno.ENOENT, errno.ESTALE)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
PLAIN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""To open a directory that others may have exchanged for a link."""
_IOV_MAX = 1024
_RENAME_NOREPLACE = 1
# Two changes of a directory within one clock tick hid the second from other NFS clients for over 100 s.
_NETWORK_UNLINK_DELAY_S = 0.05
_STALE_TRIES = 5

_TEMPORARY_NAME = re.compile(r"\..+\.tmp\.([\w-]{1,40})\.([0-9]{1,10})\.[0-9a-f]{8}", re.DOTALL)
_MODE_LOOKS, _MODE_PAUSE_S = 20, 0.01  # whoever does not set it in a fifth of a second died: doctor mends it

_MAX_FRONT = 160

_FIRST_NAMESPACE = 0xEFFFFFFC  # of pids, by its inode: that of the machine itself


def _host() -> str:
    """Whose process ids: those of a container are others than those of its machine, also if it has the machine's name."""
    name = "".join(c if c.isalnum() or c == "-" else "-" for c in socket.gethostname()) or "host"
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = _FIRST_NAMESPACE
    return name[:40] if namespace == _FIRST_NAMESPACE else f"{name[:29]}-{namespace}"


HOST = _host()


def translate(exc: OSError, path: Path | str, doing: str) -> StoreError:
    """The typed error for a failed system call on a store's file; raise it `from exc`."""
    what = f"{doing} {path} failed: {os.strerror(exc.errno) if exc.errno else exc}"
    if exc.errno == errno.EDQUOT:
        return NoSpaceError(
            f"{what}; the disk quota of {user_name()}, or of the group, is used up there: `quota -s` shows it. Free space or "
            "ask for more, then try again. The store is intact",
            path=str(path),
        )
    if exc.errno == errno.ENOSPC:
        return NoSpaceError(f"{what}; free space, then try again. The store is intact", path=str(path))
    if exc.errno == errno.EROFS:
        return ReadOnlyStoreError(
            f"{what}; the file system is mounted read-only: the store can only be read from here", path=str(path)
        )
    if exc.errno in _REFUSED and doing in _READING:
        return AccessDeniedError(f"{what}; {why_refused(Path(path), writing=False)}", path=str(path))
    if exc.errno in _REFUSED:
        why = why_refused(Path(path), writing=True)
        return ReadOnlyStoreError(f"{what}; the store can only be read from here: {why}", path=str(path))
    if doing in _READING:
        return StoreError(f"{what}; check the disk, or how it is mounted, then try again", path=str(path))
    is_under_way = doing == "publishing" or (doing != "creating" and writer_of(Path(path).name) is not None)
    if exc.errno in _GONE and is_under_way:
        return WriteError(
            f"{what}; its temporary is gone: somebody removed it, perhaps `kacas doctor --fix`, as nothing was written to it for "
            "days. Nothing was published: store again",
            path=str(path),
        )
    return WriteError(f"{what}; nothing was published. Check the disk, then try again", path=str(path))


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def change_again_later(directory: Path) -> None:
    """On a network file system, behind a change of the directory that no unlink will follow: so that all clients see it."""
    _later(_touch, directory)


def _later(work: Callable[[Path], None], path: Path) -> None:
    """A moment later in the background; where no thread can be started, as when the interpreter ends, it is waited for."""
    try:
        threading.Timer(_NETWORK_UNLINK_DELAY_S, work, [path]).start()
    except RuntimeError:
        time.sleep(_NETWORK_UNLINK_DELAY_S)
        work(path)


def _touch(directory: Path) -> None:
    try:
        os.utime(directory)
    except OSError:
        pass  # somebody else's directory: the change is seen with the next one, or when the clients' caches expire


def list_directory(path: Path) -> list[str]:
    """The names in it, as a listing by path shows them. Raises OSError, also for a link to a directory."""
    fd = os.open(path, PLAIN_DIRECTORY)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def set_mode(path: Path, mode: int) -> None:
    """Of a directory that was made just now. Raises OSError if it was exchanged for a link: that leads to another's."""
    fd = os.open(path, PLAIN_DIRECTORY)
    try:
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def make_directory(path: Path, mode: int, *, sync: bool, parents_mode: int = 0o755) -> None:
    """Create a directory with an explicit mode, each name durable in its parent. parents_mode: of those that are missing."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_directory(path.parent, parents_mode, sync=sync, parents_mode=parents_mode)
    try:
        path.mkdir(mode)
        set_mode(path, mode)  # mkdir's mode is masked by umask
    except FileExistsError:
        if not path.is_dir():
            raise
        _await_mode(path, mode)
        return
    if sync:
        sync_directory(path.parent)


def _await_mode(path: Path, mode: int) -> None:
    """Another process has just made the directory, and sets its mode next: until then its group may be kept out."""
    for _ in range(_MODE_LOOKS):
        if stat.S_IMODE(os.stat(path).st_mode) & mode == mode:
            return
        time.sleep(_MODE_PAUSE_S)


def temporary_name(name: str) -> str:
    """For what will have this name; says who makes it."""
    # A name may have 255 bytes, and ours is longer than the final one.
    front = os.fsencode(name)[:_MAX_FRONT].decode("utf-8", "ignore")
    return f".{front}.tmp.{HOST}.{os.getpid()}.{secrets.token_hex(4)}"


def writer_of(name: str) -> tuple[str, int] | None:
    """Host and process id of whoever writes, or wrote, the temporary of this name; ("", 0) if it does not tell; None if the
    name is not that of a temporary."""
    if match := _TEMPORARY_NAME.fullmatch(name):
        return match[1], int(match[2])
    return ("", 0) if name.startswith(".") and ".tmp." in name else None


class Temporary:
    """A file under construction beside its final name: `.<name>.tmp.<host>.<pid>.<random>`.

    Any error of write, sync or close ends it: the caller discards it and writes a new one from the source.
    """

    def __init__(
        self, directory: Path, name: str, *, mode: int, sync: bool, network: bool = False, random_name: bool = False
    ) -> None:
        """random_name: nobody else can have chosen the name, so a plain rename may stand in for a link."""
        self.fd, self._pid = -1, os.getpid()
        self.final = directory / name
        self.size = 0
        self._sync = sync
        self._network = network
        self._random_name = random_name
        for attempt in range(_STALE_TRIES):
            # An NFS v3 client may call a file stale that it has just made, one time in thousands [measured]: then another.
            try:
                self._create(directory, name, mode)
                return
            except WriteError as exc:
                cause = exc.__cause__
                stale = isinstance(cause, OSError) and cause.errno == errno.ESTALE
                if not stale or attempt == _STALE_TRIES - 1:
                    raise

    def _create(self, directory: Path, name: str, mode: int) -> None:
        self.path = directory / temporary_name(name)
        try:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise translate(exc, self.path, "creating") from exc
        except BaseException:
            self.discard()  # Ctrl-C may come when it is there already
            raise
        try:
            os.fchmod(self.fd, mode)  # before the sync, so that one sync makes it durable too
        except OSError as exc:
            self.discard()
            raise translate(exc, self.path, "setting the mode of") from exc
        except BaseException:
            self.discard()  # Ctrl-C: the caller has nothing yet that it could discard
            raise

    def __del__(self) -> None:
        # Ctrl-C just after it was made: nobody has it. A forked child's copy is not its own.
        if self.fd >= 0 and self._pid == os.getpid():
            self.discard()

    def append(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Write the parts behind what is there, in as few calls as the kernel allows."""
        try:
            for first in range(0, len(parts), _IOV_MAX):
                self._append_some(list(parts[first : first + _IOV_MAX]))
        except OSError as exc:
            raise translate(exc, self.path, "writing") from exc

    def _append_some(self, parts: list[bytes | bytearray | memoryview]) -> None:
        total = sum(map(len, parts))
        while total:
            written = os.pwritev(self.fd, parts, self.size)
            self.size += written
            total -= written
            while total and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if total and written:
                parts[0] = memoryview(parts[0])[written:]

    def publish(self) -> None:
        """Make the file durable and give it its final name, never replacing another.

        Raises FileExistsError if the name is taken by somebody else's file, StoreError for the rest;
        either way the temporary is gone.
        """
        try:
            if self._sync:
                os.fsync(self.fd)
            inode = os.fstat(self.fd).st_ino
            fd, self.fd = self.fd, -1
            os.close(fd)
            linked = self._take_name(inode)
        except FileExistsError:
            self.discard()
            raise
        except OSError as exc:
            self.discard()
            if isinstance(exc, NoLinksError):
                raise
            raise translate(exc, self.final, "publishing") from exc
        except BaseException:
            self.discard()
            raise
        self._settle_name()
        if linked:
            self._drop_name()

    def replace(self) -> None:
        """Give it its final name, in place of what had it: for files outside a store."""
        try:
            if self._sync:
                os.fsync(self.fd)
            fd, self.fd = self.fd, -1
            os.close(fd)
            os.replace(self.path, self.final)
            if self._sync:
                sync_directory(self.final.parent)
        except OSError as exc:
            self.discard()
            raise translate(exc, self.final, "writing") from exc

    def _take_name(self, inode: int) -> bool:
        """True if the temporary's name is still there."""
        for attempt in range(_STALE_TRIES):
            try:
                os.link(self.path, self.final)
                return True
            except OSError as exc:
                # A lost reply: the name is there and it is our file. If ours is gone, its inode may be somebody else's file by now.
                try:
                    ours = exc.errno != errno.ENOENT or self._random_name
                    if ours and os.stat(self.final).st_ino == inode:
                        return True
                except OSError:
                    pass  # not there: the link's own error is the one to report
                # What an NFS client knows of a name may be outdated again and again where others are busy.
                if exc.errno == errno.ESTALE and attempt < _STALE_TRIES - 1:
                    continue
                if exc.errno not in _NO_LINKS:
                    raise
                break
        try:
            rename_no_replace(self.path, self.final)
        except OSError as exc:
            if exc.errno not in (*_NO_LINKS, errno.EINVAL):
                raise
            if not self._random_name:
                raise NoLinksError(
                    f"{self.final} cannot be created once and for all: its file system has neither link() nor "
                    "renameat2(RENAME_NOREPLACE). Keep the store on one that has (most local ones, NFS)",
                    path=str(self.final),
                ) from exc
            os.rename(self.path, self.final)
        return False

    def _settle_name(self) -> None:
        """Make the new name durable. If this fails it stays: others may rely on it already, and whoever does next syncs."""
        if not self._sync:
            return
        try:
            sync_directory(self.final.parent)
        except OSError as exc:
            self.discard()
            error = NoSpaceError if exc.errno in _NO_SPACE else WriteError
            raise error(
                f"syncing {self.final.parent} failed: {os.strerror(exc.errno or errno.EIO)}; {self.final.name} is there, "
                "but may not survive a power cut. Check the disk, then store again",
                path=str(self.final),
            ) from exc

    def _drop_name(self) -> None:
        if self._network:
            _later(_unlink_if_there, self.path)
        else:
            _unlink_if_there(self.path)

    def discard(self) -> None:
        """Remove the temporary. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        _unlink_if_there(self.path)


def publish_bytes(directory: Path, name: str, data: bytes, *, mode: int, sync: bool) -> None:
    """Publish a small file. Raises FileExistsError if the name is taken."""
    temporary = Temporary(directory, name, mode=mode, sync=sync)
    try:
        temporary.append([data])
        temporary.publish()
    except BaseException:
        temporary.discard()
        raise


def _unlink_if_there(path: Path) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # a leftover temporary is an orphan that verify names; the content is published or discarded already


def rename_no_replace(source: Path, target: Path) -> None:
    """renameat2(RENAME_NOREPLACE), for file systems without hard links."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(target))
    at_cwd = -100
    if libc.renameat2(at_cwd, os.fsencode(source), at_cwd, os.fsencode(target), _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
