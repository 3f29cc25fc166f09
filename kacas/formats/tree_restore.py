"""Restoring a directory: small files are read in groups by few large reads, and written while the next group is read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kacas.disk.destination import Destination, Place, Write
from kacas.errors import DamagedContentError, DamagedError, DestinationError, KacasError, NotFoundError
from kacas.fetch import Content
from kacas.formats.tree import Trees
from kacas.model.codec import MIB
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.tree import EntryType, TreeEntry
from kacas.model.uri import DirectoryUri, Uri
from kacas.repository import Repository

_GROUP_SIZE = 4 * MIB
_GROUP_COUNT = 1024
_GROUP_PLACES = 64  # directories that are held open at a time
_WINDOW = 4 * MIB
_MAX_NAMED = 20


class _File(NamedTuple):
    place: Place
    entry: TreeEntry
    status: os.stat_result | None  # of what is at its name


class _Group(NamedTuple):
    """Files that are read together, and directories that are done with once they are written."""

    files: list[_File]
    places: list[Place]


def load_dir(
    repository: Repository, trees: Trees, uri: DirectoryUri, dest: str | os.PathLike[str], *, overwrite: bool
) -> Path:
    """Restore the directory below `dest`; see `kacas.load_dir`."""
    if not os.fspath(dest):
        raise DestinationError("the destination is empty; is a variable not set?", path="")
    restore = _Restore(repository, trees, Destination(Path(dest), overwrite=overwrite))
    restore.run(uri)
    return Path(os.path.abspath(dest))


class _Restore:
    def __init__(self, repository: Repository, trees: Trees, destination: Destination) -> None:
        self._repository = repository
        self._trees = trees
        self._destination = destination
        self._written = 0
        self._problems: list[tuple[str, KacasError]] = []
        self._writers = ThreadPoolExecutor(2, "kacas-write")  # making files is the kernel's work
        self._places: set[Place] = set()  # that are held open

    def run(self, uri: DirectoryUri) -> None:
        """Restore everything; what cannot be read is named at the end, when the rest is there."""
        top = self._trees.read(uri.sha1, str(uri))  # before anything is made
        totals = self._trees.totals(uri.sha1, str(uri))
        root = self._destination.open_root()
        self._destination.check_room(root, totals.names, totals.size)
        reader = ThreadPoolExecutor(1, "kacas-restore")
        try:
            waiting: tuple[_Group, list[memoryview | None]] | None = None
            for group in self._groups(root, uri, top):
                reading = reader.submit(self._read_group, group)
                if waiting is not None:
                    self._write_group(*waiting)
                waiting = group, reading.result()
            if waiting is not None:
                self._write_group(*waiting)
        finally:
            reader.shutdown(wait=True, cancel_futures=True)
            self._writers.shutdown(wait=True, cancel_futures=True)
            for place in (root, *self._places):
                place.close()
        if self._problems:
            named = "; ".join(f"{path}: {exc}" for path, exc in self._problems[:_MAX_NAMED])
            raise DamagedContentError(
                f"{len(self._problems)} files of {uri} could not be restored, all others are there: {named}",
                sha1=uri.sha1.hex(),
            ) from self._problems[0][1]

    def _groups(self, root: Place, uri: DirectoryUri, top: dict[bytes, TreeEntry]) -> Iterator[_Group]:
        """Make directories and links on the way, and gather files."""
        group, size = _Group([], []), 0
        stack: list[tuple[tuple[bytes, ...], bytes]] = [((), uri.sha1)]
        while stack:
            names, sha1 = stack.pop()
            where = str(DirectoryUri(uri.sha1, "", names))
            directory = self._trees.read(sha1, where) if names else top
            place = self._destination.open_directory(root, names)
            self._places.add(place)
            group.places.append(place)
            below = []
            for entry in directory.values():
                if entry.type is EntryType.DIRECTORY:
                    below.append(((*names, entry.name), entry.sha1))
                elif entry.type is EntryType.LINK:
                    self._destination.make_link(place, entry.name, entry.target)
                elif not self._is_there(place, entry):
                    group.files.append(_File(place, entry, self._destination.existing(place, entry.name)))
                    size += min(entry.size, CHUNK_TARGET)
                    if size >= _GROUP_SIZE or len(group.files) >= _GROUP_COUNT:
                        yield _Group(group.files, [])
                        group, size = _Group([], group.places), 0
            if len(group.places) >= _GROUP_PLACES:
                yield group
                group, size = _Group([], []), 0
            stack += reversed(below)
        yield group

    def _is_there(self, place: Place, entry: TreeEntry) -> bool:
        """Whether an earlier, interrupted restoring made the file already."""
        status = self._destination.existing(place, entry.name)
        if status is None:
            return False
        if stat.S_ISREG(status.st_mode) and status.st_size == entry.size:
            try:
                fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
                with open(fd, "rb") as file:
                    same = hashlib.file_digest(file, "sha1").digest() == entry.sha1
            except OSError as exc:
                raise place.error(entry.name, exc) from exc
            if same:
                self._destination.set_executable(place, entry.name, status, entry.executable)
                return True
        self._destination.check_free(place, entry.name, status)
        return False

    def _read_group(self, group: _Group) -> list[memoryview | None]:
        """The bytes of the small files; None for one that is to be read alone."""
        entries = [file.entry for file in group.files if file.entry.size <= CHUNK_TARGET]
        try:
            found = self._repository.read_many({entry.sha1: entry.size for entry in entries})
        except DamagedError:
            return [None] * len(group.files)  # each is tried alone, to name those that are damaged
        return [found.get(file.entry.sha1) for file in group.files]

    def _write_group(self, group: _Group, contents: list[memoryview | None]) -> None:
        work = list(zip(group.files, contents, strict=True))
        half = len(work) // 2  # neighbours stay together: two threads in one directory would wait for each other
        for writing in [self._writers.submit(self._write_files, part) for part in (work[:half], work[half:]) if part]:
            writing.result()
        self._written += sum(file.entry.size for file in group.files)
        self._repository.report_progress("restoring", self._written, None)
        self._places.difference_update(group.places)
        for place in group.places:
            place.close()

    def _write_files(self, work: list[tuple[_File, memoryview | None]]) -> None:
        for file, content in work:
            if content is None:
                self._write_alone(file)
            else:
                self._write(file, lambda fd, content=content: _write_all(fd, content))  # type: ignore[misc]

    def _write_alone(self, file: _File) -> None:
        entry, path = file.entry, file.place.text(file.entry.name)
        try:
            _, content = self._repository.resolve(Uri(entry.sha1))
            if content.size != entry.size:
                raise DamagedContentError(
                    f"the directory says {entry.size} bytes, the content has {content.size}", sha1=entry.sha1.hex()
                )
            self._write(file, lambda fd: _copy(content, fd))
        except (DamagedError, NotFoundError) as exc:
            self._problems.append((path, exc))

    def _write(self, file: _File, write: Write) -> None:
        replace = file.status is not None
        self._destination.write_file(file.place, file.entry.name, file.entry.executable, write, replace=replace)


def _copy(content: Content, fd: int) -> None:
    window = memoryview(bytearray(min(_WINDOW, content.size)))
    for start in range(0, content.size, _WINDOW):
        part = window[: min(_WINDOW, content.size - start)]
        content.read_into(start, part)
        _write_all(fd, part)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
