"""An HDF5 file as h5py's File, read from the store. Nothing outside of the file is opened for it."""

from __future__ import annotations

import io
import posixpath
from typing import Any

import h5py

from kacas.errors import ExternalDataError

UNREADABLE = (KeyError, OSError, RuntimeError, TypeError, ValueError)
"""What h5py raises for what is damaged, or not there."""

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
    try:
        here = h5py.h5g.open(group, b"/") if path.startswith(b"/") else group
    except UNREADABLE:
        return
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
        except UNREADABLE:
            return
        if not isinstance(here, h5py.h5g.GroupID):
            return


def _check_dataset(dataset: Any) -> None:
    """Raises ExternalDataError if its data lies in other files, or is taken from a dataset of which that cannot be ruled out."""
    made = dataset.id.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL:
        sources = {
            (made.get_virtual_filename(at), made.get_virtual_dsetname(at)) for at in range(made.get_virtual_count())
        }
        files = sorted(file for file, _ in sources if file != ".")
    else:
        sources = set()
        files = [made.get_external(at)[0].decode(errors="replace") for at in range(made.get_external_count())]
    if files:
        raise ExternalDataError(
            f"the data of {dataset.name} is in other files ({files[0]}…); these are not opened: store them, and open them"
        )
    for _, name in sorted(sources):
        if not _is_plain(dataset.file.id, name):
            raise ExternalDataError(
                f"the data of {dataset.name} is taken from {name}, whose data may be in other files; these are not opened: "
                "have it taken from a dataset that is neither virtual nor external"
            )


def _is_plain(file: Any, name: str) -> bool:
    """Whether all of the dataset of this name lies in the file, or there is none. HDF5 knows no bounds here: in another
    virtual dataset, "other.h5" would be this file again, and the data of external storage whatever lies on this machine."""
    if "%" in name:  # a pattern: HDF5 puts numbers in
        return False
    path = _bytes(name)
    root = h5py.h5g.open(file, b"/")
    check_path(root, path)
    try:
        found = h5py.h5o.open(root, path)
    except KeyError:
        return True
    if not isinstance(found, h5py.h5d.DatasetID):
        return True  # HDF5 refuses it
    made = found.get_create_plist()
    return bool(made.get_layout() != h5py.h5d.VIRTUAL and not made.get_external_count())
