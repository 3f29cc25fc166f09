"""An HDF5 file as h5py's File, read from the store. Nothing outside of the file is opened for it."""

from __future__ import annotations

import io
import posixpath
from typing import Any

import h5py

from kacas.errors import ExternalDataError

_MOST_LINKS = 100  # soft links that lead to one another


class _Inside:
    """Of a group: what a name leads to, unless that is in another file."""

    id: Any

    def __getitem__(self, name: Any) -> Any:
        if isinstance(name, str | bytes):
            check_path(self.id, _bytes(name))
        found = super().__getitem__(name)  # type: ignore[misc]
        if isinstance(found, h5py.Dataset):
            _check_dataset(found)
        return StoredGroup(found.id) if type(found) is h5py.Group else found

    def get(self, name: Any, default: Any = None, getclass: bool = False, getlink: bool = False, **_: Any) -> Any:
        try:
            if not getlink and not getclass:
                return self[name]
            check_path(self.id, posixpath.dirname(_bytes(name)) if getlink else _bytes(name))
        except KeyError:
            return default
        return super().get(name, default, getclass, getlink)  # type: ignore[misc]

    def __contains__(self, name: Any) -> bool:
        try:
            check_path(self.id, posixpath.dirname(_bytes(name)))  # where the name itself leads to is not asked
        except ExternalDataError:
            return False
        return bool(super().__contains__(name))  # type: ignore[misc]


class StoredGroup(_Inside, h5py.Group):  # type: ignore[misc]
    """A group of a file in the store."""


class StoredFile(_Inside, h5py.File):  # type: ignore[misc]
    """A file in the store; closing it closes what it reads from."""

    def __init__(self, reader: io.BufferedIOBase) -> None:
        self._reader = reader
        super().__init__(reader, "r")

    def close(self) -> None:
        super().close()
        self._reader.close()


def _bytes(name: str | bytes) -> bytes:
    return name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name


def check_path(group: Any, path: bytes, links: int = 0) -> None:
    """Raises ExternalDataError if a link on the way leads to another file. What is not there, h5py will say."""
    if links > _MOST_LINKS:
        return
    here = h5py.h5g.open(group, b"/") if path.startswith(b"/") else group
    for part in path.split(b"/"):
        if part in (b"", b"."):
            continue
        try:
            kind = here.links.get_info(part).type
            if kind == h5py.h5l.TYPE_EXTERNAL:
                file, inside = here.links.get_val(part)
                raise ExternalDataError(
                    f"{part.decode(errors='replace')} is a link to {inside.decode(errors='replace')} in the file "
                    f"{file.decode(errors='replace')}; links to other files are not followed: store that file, and open it"
                )
            if kind == h5py.h5l.TYPE_SOFT:
                check_path(here, here.links.get_val(part), links + 1)
            here = h5py.h5o.open(here, part)
        except ExternalDataError:
            raise
        except (KeyError, OSError, RuntimeError, ValueError):
            return
        if not isinstance(here, h5py.h5g.GroupID):
            return


def _check_dataset(dataset: Any) -> None:
    """Raises ExternalDataError if its data lies in other files."""
    made = dataset.id.get_create_plist()
    files = []
    if made.get_layout() == h5py.h5d.VIRTUAL:
        files = [made.get_virtual_filename(source) for source in range(made.get_virtual_count())]
    elif made.get_external_count():
        files = [made.get_external(source)[0].decode(errors="replace") for source in range(made.get_external_count())]
    if outside := [file for file in files if file != "."]:
        raise ExternalDataError(
            f"the data of {dataset.name} is in other files ({outside[0]}…); these are not opened: store them, and open them"
        )
