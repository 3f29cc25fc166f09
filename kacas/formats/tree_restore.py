"""Restoring a directory: small files are read in groups by few large reads; one is read while another is written."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from kacas.disk.destination import Destination, Parts
from kacas.disk.place import Place, sweep
from kacas.errors import (
    DamagedContentError,
    DamagedError,
    DestinationError,
    KacasError,
    MissingPackageError,
    NewerFormatError,
    NotFoundError,
)
from kacas.formats.tree import Trees
from kacas.model.codec import MIB
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.tree import EntryType, TreeEntry
from kacas.model.uri import DirectoryUri, Uri
from kacas.repository import Repository

_GROUP_SIZE = 4 * MIB
_GROUP_COUNT = 1024
_RUN_COUNT = 256  # files of one directory that a thread makes at a time
_GROUP_PLACES = 16  # directories that a group holds open
_IN_FLIGHT = 2  # groups that are read while another is written
_MAX_NAMED = 20


Found = Mapping[bytes, bytes | bytearray | memoryview]  # contents by SHA-1


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
        self._places: set[Place] = set()  # that are held open

    def run(self, uri: DirectoryUri) -> None:
        """Restore everything; what cannot be read is named at the end, when the rest is there."""
        self._repository.bring_tree(uri.sha1)
        top = self._trees.read(uri.sha1, str(uri))  # before anything is made
        totals = self._trees.totals(uri.sha1, str(uri))
        root = self._destination.open_root()
        self._destination.check_room(root, totals.names, totals.size)
        # Beside us groups are read and decoded, in few long calls, and half the files made, which the kernel does. Looking
        # up and verifying take many short calls: threads that both make those wait for one another more than they work.
        worker = ThreadPoolExecutor(2, "kacas-restore")
        flying: deque[tuple[_Group, Callable[[], Found]]] = deque()
        try:
            for group in self._groups(root, uri, top):
                sizes = {file.entry.sha1: file.entry.size for file in group.files}
                flying.append((group, self._repository.begin_many(sizes, worker)))
                while len(flying) > _IN_FLIGHT:
                    self._land(*flying.popleft(), worker)
            while flying:
                self._land(*flying.popleft(), worker)
        finally:
            worker.shutdown(wait=True, cancel_futures=True)
            for place in (root, *self._places):
                place.close()
        if self._problems:
            named = "; ".join(f"{path}: {exc}" for path, exc in self._problems[:_MAX_NAMED])
            files = "1 file" if len(self._problems) == 1 else f"{len(self._problems):,} files"
            raise DamagedContentError(
                f"{files} of {uri} could not be restored, all others are there: {named}",
                sha1=uri.sha1.hex(),
            ) from self._problems[0][1]

    def _land(self, group: _Group, contents: Callable[[], Found], worker: ThreadPoolExecutor) -> None:
        """Write a group's files; then its directories are done with."""
        found = contents()
        runs: deque[list[_File]] = deque()
        for file in group.files:
            if not runs or runs[-1][0].place is not file.place or len(runs[-1]) >= _RUN_COUNT:
                runs.append([])
            runs[-1].append(file)
        beside = worker.submit(self._write_runs, runs, found)
        try:
            self._write_runs(runs, found)
        finally:
            runs.clear()  # of a failure; else it is empty
            wait([beside])  # nobody may close what it works in
        beside.result()
        for place in group.places:
            place.complete()
        self._written += sum(file.entry.size for file in group.files)
        self._repository.report_progress("restoring", self._written, None)
        self._places.difference_update(group.places)
        for place in group.places:
            place.close()

    def _write_runs(self, runs: deque[list[_File]], found: Found) -> None:
        """Write files of one directory after those of another, until nothing is left: a file system locks a directory."""
        while runs:
            try:
                files = runs.popleft()
            except IndexError:
                return  # another thread has the last
            for file in files:
                content = found.get(file.entry.sha1)
                if content is None or len(content) != file.entry.size:
                    self._write_alone(file)  # it is large, or has something to tell
                else:
                    self._write(file, (content,))

    def _groups(self, root: Place, uri: DirectoryUri, top: dict[bytes, TreeEntry]) -> Iterator[_Group]:
        """Make directories and links on the way, and gather files."""
        group, size = _Group([], []), 0
        stack: list[tuple[tuple[bytes, ...], bytes]] = [((), uri.sha1)]
        while stack:
            names, sha1 = stack.pop()
            where = str(DirectoryUri(uri.sha1, "", names))
            directory = self._trees.read(sha1, where) if names else top
            weight = _weight(directory) if names else None
            if weight is not None and (size + weight > _GROUP_SIZE or len(group.files) + len(directory) > _GROUP_COUNT):
                yield group
                group, size = _Group([], []), 0
            place = self._destination.open_directory(root, names, staged=weight is not None)
            if not place.fresh:
                sweep(place, directory)
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
                    if not place.staged and (size >= _GROUP_SIZE or len(group.files) >= _GROUP_COUNT):
                        # The others are done with once these files are written; this one is not.
                        yield _Group(group.files, [done for done in group.places if done is not place])
                        group, size = _Group([], [place]), 0
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
                    if hashlib.file_digest(file, "sha1").digest() == entry.sha1:
                        self._destination.set_executable(fd, entry.executable)
                        return True
            except OSError as exc:
                raise place.error(entry.name, exc) from exc
        self._destination.check_free(place, entry.name, status)
        return False

    def _write_alone(self, file: _File) -> None:
        entry, path = file.entry, file.place.text(file.entry.name)
        try:
            uri = Uri(entry.sha1)
            size = self._repository.size(uri)  # before anything of it comes from afar
            if size != entry.size:
                raise DamagedContentError(
                    f"the directory says {entry.size} bytes, the content has {size}", sha1=entry.sha1.hex()
                )
            self._write(file, self._repository.resolve(uri)[1].windows())
            self._repository.tiers.heal(uri)
        except (DamagedError, NotFoundError, NewerFormatError, MissingPackageError) as exc:
            self._problems.append((path, exc))

    def _write(self, file: _File, parts: Parts) -> None:
        place, (name, _, _, _, executable, _), status = file
        self._destination.write_file(place, name, executable, parts, replace=status is not None)


def _weight(directory: dict[bytes, TreeEntry]) -> int | None:
    """The bytes of a directory that is restored in one go, under a temporary name; None for one that is not.

    It holds no directories, and little enough to be made again if restoring is interrupted in the middle of it.
    """
    entries = directory.values()
    size = sum(entry.size for entry in entries)
    few = size <= _GROUP_SIZE and len(directory) <= _GROUP_COUNT
    return size if few and all(entry.type is not EntryType.DIRECTORY for entry in entries) else None
