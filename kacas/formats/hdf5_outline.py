"""What an HDF5 file holds: its groups, datasets and links, from its metadata alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py

from kacas.formats.hdf5_open import UNREADABLE, check_path
from kacas.model.description import Hdf5Item

_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}


def outline(file: Any, path: str) -> Iterator[Hdf5Item]:
    """The object at `path` and all below it, in the order of their names; each object once. Links below it are not followed.

    file: h5py's. Raises KeyError if nothing is there, ExternalDataError if it is in another file.
    """
    top = "/" + path.strip("/")
    name = top.encode("utf-8", "surrogateescape")
    check_path(file.id, name)
    seen: dict[int, str] = {}
    waiting: list[tuple[str, Any, bytes]] = []  # where it is, the group that it is in, its name there
    try:
        yield from _object(top, h5py.h5o.open(file.id, name), seen, waiting)
    except UNREADABLE:
        if not _is_there(file.id, name):
            raise
        yield Hdf5Item(top, "unreadable")
    while waiting:
        place, group, name = waiting.pop()
        try:
            kind = group.links.get_info(name).type
            if kind == h5py.h5l.TYPE_HARD:
                yield from _object(place, h5py.h5o.open(group, name), seen, waiting)
            elif kind == h5py.h5l.TYPE_SOFT:
                yield Hdf5Item(place, "soft link", target=_text(group.links.get_val(name)))
            elif kind == h5py.h5l.TYPE_EXTERNAL:
                target, inside = group.links.get_val(name)
                yield Hdf5Item(place, "external link", target=f"{_text(target)}:{_text(inside)}")
            else:
                yield Hdf5Item(place, "link of a user's kind")
        except UNREADABLE:
            yield Hdf5Item(place, "unreadable")


def _is_there(file: Any, name: bytes) -> bool:
    """Whether something is to be there. What only a soft link names may be missing."""
    try:
        return name == b"/" or bool(file.links.get_info(name).type == h5py.h5l.TYPE_HARD)
    except UNREADABLE:
        return False


def _object(place: str, opened: Any, seen: dict[int, str], waiting: list[tuple[str, Any, bytes]]) -> Iterator[Hdf5Item]:
    address = h5py.h5o.get_info(opened).addr
    if (first := seen.setdefault(address, place)) != place:
        yield Hdf5Item(place, "hard link", target=first)
        return
    attributes = h5py.h5a.get_num_attrs(opened)
    if isinstance(opened, h5py.h5g.GroupID):
        names = sorted(opened)
        yield Hdf5Item(place, "group", attributes=attributes)
        waiting += [(f"{place.rstrip('/')}/{_text(name)}", opened, name) for name in reversed(names)]
    elif isinstance(opened, h5py.h5d.DatasetID):
        yield _dataset(place, opened, attributes)
    else:
        yield Hdf5Item(place, "datatype", attributes=attributes)


def _dataset(place: str, dataset: Any, attributes: int) -> Hdf5Item:
    made = dataset.get_create_plist()
    layout = made.get_layout()
    # The shape of a virtual dataset may depend on other files.
    shape = None if layout == h5py.h5d.VIRTUAL else dataset.shape
    storage = {
        h5py.h5d.VIRTUAL: "virtual", h5py.h5d.CHUNKED: "chunked", h5py.h5d.COMPACT: "compact",
    }.get(layout, "external" if made.get_external_count() else "contiguous")  # fmt: skip
    filters = [_filter(*made.get_filter(number)) for number in range(made.get_nfilters())]
    return Hdf5Item(
        place,
        "dataset",
        attributes=attributes,
        shape=shape,
        dtype=_dtype(dataset),
        storage=storage,
        chunks=made.get_chunk() if layout == h5py.h5d.CHUNKED else None,
        filters=tuple(filters),
    )


def _filter(code: int, _flags: int, values: tuple[int, ...], name: bytes) -> str:
    known = _FILTERS.get(code) or _text(name) or f"filter {code}"
    return f"{known} {values[0]}" if code == 1 and values else known


def _dtype(dataset: Any) -> str:
    try:
        return dtype_name(dataset.dtype)
    except (TypeError, ValueError):
        return "a type that NumPy does not have"


def dtype_name(dtype: Any) -> str:
    """As people say it: `int16`, `text`, `ragged int32`, `reference`, `record(a int32, b float64)`."""
    if h5py.check_string_dtype(dtype) is not None:
        return "text"
    if (ragged := h5py.check_vlen_dtype(dtype)) is not None:
        return f"ragged {dtype_name(ragged)}"
    if (reference := h5py.check_ref_dtype(dtype)) is not None:
        return "reference" if reference is h5py.Reference else "region reference"
    if h5py.check_enum_dtype(dtype) is not None:
        return f"enum {dtype}"
    if dtype.subdtype is not None:
        return f"{dtype_name(dtype.subdtype[0])} {dtype.subdtype[1]}"
    if dtype.names:
        return f"record({', '.join(f'{name} {dtype_name(dtype[name])}' for name in dtype.names)})"
    return str(dtype)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
