"""Links: files that are kept where they are. What verifies their bytes is stored, the bytes are not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kacas.disk.fresh import fresh_status
from kacas.disk.identities import FileState, Identities
from kacas.errors import SourceChangedError, UnreadableSourceError
from kacas.formats.file import FileSource, file_layout, store_file
from kacas.model.entry import Kind
from kacas.model.uri import Uri
from kacas.repository import Repository

_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EROFS)  # of file systems that have nothing to sync


class LinkedSource(FileSource):
    """A regular file that stays where it is. At the end, its path must lead to the very file that was read."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        """path: absolute. sync: make the file's bytes durable first: the store has no copy of them."""
        super().__init__(path)
        if sync:
            try:
                self.make_durable()
            except UnreadableSourceError:
                os.close(self._fd)
                raise

    def make_durable(self) -> None:
        """Sync the file; to be called before anything is read."""
        try:
            os.fsync(self._fd)
            self.state = FileState.of(os.fstat(self._fd))  # syncing a mapped file changes its time stamps
        except OSError as exc:
            if exc.errno not in _NO_SYNC:
                raise self._unreadable(exc) from exc

    def check_unchanged(self) -> None:
        try:
            fresh_status(self._fd)
            there = os.stat(self.path)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        if FileState.of(there) != self.state:
            raise SourceChangedError(
                f"{self.path} changed while it was linked; nothing was kept. Link it again when nobody writes to it",
                path=str(self.path),
            )
        if (count := os.lseek(self._fd, 0, os.SEEK_CUR)) != there.st_size:
            raise UnreadableSourceError(
                f"{self.path} says that it has {there.st_size} bytes and gives {count}; store a copy instead of linking it",
                path=str(self.path),
            )


def link_file(repository: Repository, identities: Identities, path: str | os.PathLike[str], label: str | None) -> str:
    """Keep a regular file where it is; the label is its name unless given. It is cut as store_file cuts it, and raises as that.

    An empty file is simply stored: there is nothing to leave elsewhere.
    """
    place = adopted_path(repository, path)
    name = Path(path).name if label is None else label
    source = LinkedSource(place, sync=repository.volume.durable)
    try:
        if not source.size:
            return store_file(repository, identities, place, name, rehash=True)
        layout = file_layout(source)._asdict()
        entry = repository.put(source, Kind.FILE, name, adopted_path=os.fsencode(place), **layout)
        return str(Uri(entry.sha1, name))
    finally:
        source.close()


def adopted_path(repository: Repository, path: str | os.PathLike[str]) -> Path:
    """The absolute path to remember for a file. Raises UnreadableSourceError if it belongs to kacas itself.

    Directories stay as they were named: a lab's /data is often a link whose target differs from host to host. A link that
    is the file's own name is followed, since it may be made to point elsewhere.
    """
    absolute = os.path.abspath(path)
    if os.path.islink(absolute) or not _same_file(path, absolute):
        absolute = os.path.realpath(path)
    real = Path(os.path.realpath(absolute))
    for directory in (repository.volume.path, repository.cache.parent):
        if real.is_relative_to(os.path.realpath(directory)):
            raise UnreadableSourceError(
                f"{path} lies in {directory}, which is kacas' own; link files that kacas does not manage",
                path=str(path),
            )
    return Path(absolute)


def _same_file(one: str | os.PathLike[str], other: str) -> bool:
    """Whether both lead to one file; `a/link/../b` is another file than `a/b`."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
