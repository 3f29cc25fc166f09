"""Linking a directory: its documents are stored, its files stay where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kacas.disk.identities import FileState, Identities, sync_file_system
from kacas.errors import SourceChangedError
from kacas.formats.file import file_layout
from kacas.formats.known_files import KnownFiles
from kacas.formats.link import LinkedSource, adopted_path
from kacas.formats.tree_store import Walk, named_directory
from kacas.ingest import Ingested
from kacas.model.entry import Kind
from kacas.repository import Repository


def link_dir(
    repository: Repository,
    identities: Identities,
    path: str | os.PathLike[str],
    label: str | None,
    exclude: Iterable[str],
    partial: bool,
) -> str:
    """Keep a directory's files where they are; see `kacas.link_dir`."""
    top, name = named_directory(repository, path, label)
    with repository.batch():
        walk = _LinkWalk(repository, KnownFiles(identities, rehash=True), exclude)
        try:
            uri = walk.keep(top, name, partial=partial)
            if repository.volume.durable:
                walk.sync()
        finally:
            walk.close()
    walk.warn(top)
    return uri


class _LinkWalk(Walk):
    """Reads every file, and adopts it."""

    def __init__(self, repository: Repository, files: KnownFiles, exclude: Iterable[str]) -> None:
        super().__init__(repository, files, exclude)
        self._devices: dict[int, int] = {}  # each with an open descriptor of one of its files

    def _is_read_whole(self, status: os.stat_result) -> bool:
        return not status.st_size and super()._is_read_whole(status)  # there is nothing to leave elsewhere

    def _content(self, fd: int, path: bytes, status: os.stat_result) -> Ingested:
        if status.st_dev not in self._devices:
            self._devices[status.st_dev] = os.dup(fd)
        place = adopted_path(self._repository, os.fsdecode(path))
        source = LinkedSource(Path(place), sync=False)
        try:
            if source.state != FileState.of(status):
                raise SourceChangedError(f"{place} became another file while it was linked", path=str(place))
            layout = file_layout(source)._asdict()
            return self._repository.put_member(source, Kind.FILE, adopted_path=os.fsencode(place), **layout)
        finally:
            source.close()

    def _note(self, sha1: bytes) -> None:
        """Not whole: what is below is in no pack."""

    def sync(self) -> None:
        """Make the linked bytes durable: the store has no copy of them."""
        for fd in self._devices.values():
            if sync_file_system(fd) is None:
                os.sync()

    def close(self) -> None:
        """Close what is held open for `sync`."""
        for fd in self._devices.values():
            os.close(fd)
        self._devices = {}
