"""DirectoryBlobs: a bucket that is a directory, on a disk or a share. Each blob is a file, whole and durable, or not there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kacas.disk.durable import PLAIN_DIRECTORY, Temporary, sync_directory, translate, writer_of
from kacas.errors import InvalidKeyError, SizeLimitError
from kacas_remote.blobs.blob_store import BlobInfo
from kacas_remote.blobs.keys import check_key, check_prefix
from kacas_remote.errors import BlobNotFoundError, NotSupportedError, RemoteNotFoundError

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # a link is none of our blobs
_COMPARED = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class DirectoryBlobs:
    """Blobs as files below `directory`, which must be there. Links in it are not followed, nor listed.

    `a` and `a/b` cannot both be blobs here: a file is no directory. Raises kacas.errors.StoreError's kinds for a disk that is
    full, read-only or broken.
    """

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(os.path.abspath(directory))

    def __repr__(self) -> str:
        return f"DirectoryBlobs({str(self._directory)!r})"

    @property
    def name(self) -> str:
        return f"file://{self._directory}"

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        directory, name = self._place(key)
        whole = memoryview(data).cast("B")
        temporary = Temporary(directory, name, mode=_mode(directory), sync=True)
        try:
            temporary.append([whole])
            temporary.publish()
        except FileExistsError:
            return self._has(key, whole)
        except BaseException:
            temporary.discard()
            raise
        return True

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self.put_parts(key, [data])

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        directory, name = self._place(key)
        temporary = Temporary(directory, name, mode=_mode(directory), sync=True)
        try:
            for part in parts:
                temporary.append([memoryview(part).cast("B")])
            temporary.replace()
        except BaseException:
            temporary.discard()
            raise

    def get(self, key: str, limit: int) -> bytes:
        with self._open(key) as fd:
            size = os.fstat(fd).st_size
            if size > limit:
                raise SizeLimitError(
                    f"{self.name}: {key} has {size} bytes, and at most {limit} were expected; it was not read"
                )
            return bytes(_read(fd, 0, size))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        with self._open(key) as fd:
            size = os.fstat(fd).st_size
            return [_read(fd, start, max(start, min(stop, size))) for start, stop in ranges]

    def head(self, key: str) -> BlobInfo | None:
        try:
            with self._open(key) as fd:
                return _info(key, os.fstat(fd))
        except BlobNotFoundError:
            return None

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        check_prefix(prefix)
        top = prefix[: prefix.rfind("/") + 1]
        yield from self._walk(top, prefix, after)

    def delete(self, keys: Iterable[str]) -> None:
        changed = set()
        for key in keys:
            parts = check_key(key).split("/")
            try:
                with self._walked(parts[:-1]) as fd:
                    os.unlink(parts[-1], dir_fd=fd)
                changed.add(self._directory.joinpath(*parts[:-1]))
            except OSError as exc:
                if exc.errno not in (*_ABSENT, errno.EISDIR):
                    raise translate(exc, self._directory / key, "removing") from exc
        for directory in changed:
            try:
                sync_directory(directory)
            except OSError as exc:
                raise translate(exc, directory, "syncing") from exc

    def sign(self, key: str, method: str, expires_s: int) -> str:
        raise NotSupportedError(
            f"{self.name} has no URLs to give away: it is a directory. Use a bucket, or let a web server serve it",
            path=self.name,
        )

    def close(self) -> None:
        pass

    def _walk(self, directory: str, prefix: str, after: str) -> Iterator[BlobInfo]:
        """directory: "" or `a/b/`. Names of directories sort as the keys in them do, with a slash behind."""
        try:
            with self._walked(directory.split("/")[:-1]) as fd, os.scandir(fd) as found:
                # Only names are kept, not the open directory: a listing may be long, and its reader slow.
                names = sorted(
                    entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
                    for entry in found
                    if writer_of(entry.name) is None
                )
        except OSError as exc:
            if exc.errno in _ABSENT:
                return
            raise translate(exc, self._directory / directory, "listing") from exc
        for name in names:
            key = directory + name
            if not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if name.endswith("/"):
                if key > after or after.startswith(key):
                    yield from self._walk(key, prefix, after)
            elif key > after and key.startswith(prefix) and (info := self._listed(key)):
                yield info

    def _listed(self, key: str) -> BlobInfo | None:
        """None for what is no blob (a link, a device, a name that no key has), or went away meanwhile."""
        parts = key.split("/")
        try:
            check_key(key)
            with self._walked(parts[:-1]) as fd:
                seen = os.stat(parts[-1], dir_fd=fd, follow_symlinks=False)
        except InvalidKeyError:
            return None  # somebody's file with another name
        except OSError as exc:
            if exc.errno in _ABSENT:
                return None
            raise translate(exc, self._directory / key, "looking at") from exc
        return _info(key, seen)

    @contextmanager
    def _walked(self, parts: Sequence[str]) -> Iterator[int]:
        """A descriptor of the directory at the end of these, no link on the way. Raises OSError."""
        try:
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise RemoteNotFoundError(
                f"there is no directory {self._directory}, where the remote {self.name} should be. Is its disk or share mounted? "
                "If the remote is to begin there, make the directory"
            ) from exc
        try:
            for part in parts:
                deeper = os.open(part, PLAIN_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = deeper
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _open(self, key: str) -> Iterator[int]:
        parts = check_key(key).split("/")
        try:
            with self._walked(parts[:-1]) as directory:
                fd = os.open(parts[-1], _FILE, dir_fd=directory)
        except OSError as exc:
            if exc.errno in _ABSENT:
                raise BlobNotFoundError(f"{self.name} has no {key}; perhaps it was removed") from exc
            raise translate(exc, self._directory / key, "reading") from exc
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise BlobNotFoundError(f"{self.name} has no {key}: what has this name there is no file")
            yield fd
        except OSError as exc:
            if exc.errno is None:
                raise  # one of ours
            raise translate(exc, self._directory / key, "reading") from exc
        finally:
            os.close(fd)

    def _place(self, key: str) -> tuple[Path, str]:
        """Directory and name of the file for this key; the directory is there, and so are the names that lead to it."""
        *parts, name = check_key(key).split("/")
        directory = self._directory
        try:
            with self._walked([]) as top:
                fd, made = os.dup(top), []
            try:
                for part in parts:
                    deeper, is_new = _deeper(fd, part)
                    if is_new:
                        made.append(directory)
                    os.close(fd)
                    fd, directory = deeper, directory / part
            finally:
                os.close(fd)
            for parent in made:
                sync_directory(parent)
        except OSError as exc:
            if exc.errno in (errno.ENOTDIR, errno.ELOOP):
                raise NotSupportedError(
                    f"{self.name} cannot have {key}: below {directory} a file or a link is in its way. Remove that, "
                    "or take another directory for the remote",
                    path=str(directory),
                ) from exc
            if exc.errno is None:
                raise  # one of ours
            raise translate(exc, directory, "creating") from exc
        return directory, name

    def _has(self, key: str, data: memoryview) -> bool:
        """Whether the blob is there with these bytes."""
        try:
            with self._open(key) as fd:
                if os.fstat(fd).st_size != len(data):
                    return False
                return all(
                    _read(fd, at, min(at + _COMPARED, len(data))) == data[at : at + _COMPARED]
                    for at in range(0, len(data), _COMPARED)
                )
        except BlobNotFoundError:
            return False


def _deeper(fd: int, part: str) -> tuple[int, bool]:
    """The directory of this name, and whether it was made. Whoever may write its parent may write it, too."""
    made = False
    try:
        os.mkdir(part, 0o777, dir_fd=fd)
        made = True
    except FileExistsError:
        pass
    deeper = os.open(part, PLAIN_DIRECTORY, dir_fd=fd)
    if made:
        os.fchmod(deeper, stat.S_IMODE(os.fstat(fd).st_mode))
    return deeper, made


def _mode(directory: Path) -> int:
    """Of files in it: who may list the directory may read them."""
    mode = stat.S_IMODE(os.stat(directory).st_mode)
    return 0o444 & mode | 0o400


def _read(fd: int, start: int, stop: int) -> memoryview:
    """Bytes start:stop, or as many as there are."""
    out = memoryview(bytearray(max(0, stop - start)))
    done = 0
    while done < len(out) and (got := os.preadv(fd, [out[done:]], start + done)):
        done += got
    return out[:done].toreadonly()


def _info(key: str, seen: os.stat_result) -> BlobInfo | None:
    if not stat.S_ISREG(seen.st_mode):
        return None
    return BlobInfo(key, seen.st_size, seen.st_mtime, f"{seen.st_ino:x}-{seen.st_mtime_ns:x}-{seen.st_size:x}")
