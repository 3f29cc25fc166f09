"""Arrays: stored as the .npy file that np.save writes, loaded whole or by slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kacas.codec_choice import check_codec, choose, sample_places
from kacas.errors import MissingPackageError, UnsupportedDataError, WrongKindError
from kacas.formats.lazy_array import bytes_of, open_npy
from kacas.formats.tiles import Gather, tile_recipe
from kacas.model.cuts import CHUNK_TARGET, Cutter, array_cutter
from kacas.model.description import Description
from kacas.model.encoder import ZSTD, Recipe
from kacas.model.entry import Kind
from kacas.model.npy_header import NpyHeader, encode_header, is_fortran, parse_header
from kacas.model.tiling import Chunks, Tiling, check_chunks, tiling_of
from kacas.model.uri import Uri
from kacas.repository import Repository

_MOST_GATHERED = 8 << 20  # bytes of a row that is copied to look at a part of it
_COPY_ELEMENTS = 1 << 16  # non-contiguous arrays are gathered in steps of about this many elements


class ArraySource:
    """An array's data in memory order (C order unless it is Fortran-contiguous), copied into the caller's buffers.

    Every byte is read once: an array that another thread changes meanwhile can be torn, but its
    identity is that of the bytes which were stored.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.fortran_order = is_fortran(array)
        self._array = array.T if self.fortran_order else array
        self._blocks = self._contiguous_blocks()
        self._rest = memoryview(b"")

    @property
    def size(self) -> int:
        return int(self._array.nbytes)

    def _contiguous_blocks(self) -> Iterator[memoryview]:
        array = self._array
        if not array.nbytes:
            return
        if array.flags.c_contiguous:
            yield bytes_of(array)
            return
        # Copying records, NumPy fills their padding with whatever was in memory: as opaque items it is kept.
        yield from _gathered(array.view(f"V{array.dtype.itemsize}") if array.dtype.names else array)

    def readinto(self, buffer: memoryview) -> int:
        if not self._rest:
            self._rest = next(self._blocks, memoryview(b""))
        count = min(len(buffer), len(self._rest))
        if count:
            # np.copyto releases the GIL, the slice assignment of memoryviews does not.
            np.copyto(np.frombuffer(buffer[:count], np.uint8), np.frombuffer(self._rest[:count], np.uint8))
            self._rest = self._rest[count:]
        return count

    def sample(self, start: int, size: int) -> memoryview:
        """So many bytes of the data from `start` on, both of whole items, or of what lies near."""
        array = self._array
        if array.flags.c_contiguous:
            return bytes_of(array)[start : start + size]
        per_row = max(1, array.nbytes // len(array))
        first = start // per_row
        rows = array[first : first + max(1, size // per_row)]
        if array.dtype.names:
            rows = rows.view(f"V{array.dtype.itemsize}")
        return bytes_of(np.ascontiguousarray(rows))[:size] if per_row <= _MOST_GATHERED else memoryview(b"")

    def gather(self, ranges: Sequence[range]) -> memoryview:
        """The items in these ranges along each axis in memory order."""
        array = self._array if self._array.ndim else self._array.reshape(1)
        if array.dtype.names:
            array = array.view(f"V{array.dtype.itemsize}")
        return bytes_of(np.ascontiguousarray(array[tuple(slice(wanted.start, wanted.stop) for wanted in ranges)]))

    def check_unchanged(self) -> None:
        """There is no cheap way to tell; see the class."""


def _gathered(array: NDArray[Any]) -> Iterator[memoryview]:
    if array.ndim <= 1 or array[0].size <= _COPY_ELEMENTS:
        per_row = max(1, array[0].size if array.ndim > 1 else 1)
        step = max(1, _COPY_ELEMENTS // per_row)
        for start in range(0, len(array), step):
            yield bytes_of(np.ascontiguousarray(array[start : start + step]))
        return
    for row in array:
        yield from _gathered(row)


def recognised(front: bytes, size: int) -> NpyHeader | None:
    """The header of a file of `size` bytes that is a .npy array to the byte; None for any other.

    front: its first MAX_HEADER_SIZE bytes, or all.
    """
    try:
        header = parse_header(front)
    except ValueError:
        return None
    return header if header.size + header.data_size == size else None


class Layout(NamedTuple):
    """How content is to be kept: what cuts it, the bytes that are its head, what its manifest says of it, the recipe."""

    cutter: Cutter | Tiling | None = None
    head: bytes = b""
    description: dict[str, object] | None = None
    recipe: Recipe = ZSTD


Sample = Callable[[int, int], memoryview]
"""sample(start, size) gives that part of the data, in memory order."""


def array_layout(head: bytes, header: NpyHeader, sample: Sample, codec: str = "auto") -> Layout:
    """Of data in memory order behind its .npy header: cut in one way, wherever it comes from."""
    shape = header.shape[::-1] if header.fortran_order else header.shape
    item_size = max(1, header.dtype.itemsize)
    rows = [item_size * prod(shape[axis + 1 :]) for axis in range(len(shape))] or [item_size]
    places = [(start - start % item_size, size - size % item_size) for start, size in sample_places(header.data_size)]
    samples = [sample(*place) for place in places if place[1]]
    recipe = choose(codec, samples, header.dtype.kind, item_size, rows)
    return Layout(array_cutter(shape, item_size), head, {"kind": "npy"}, recipe)


def tiled_layout(head: bytes, header: NpyHeader, gather: Gather, chunks: Chunks, codec: str = "auto") -> Layout | None:
    """Of the same data, cut into tiles; None if it is small enough for one chunk. Raises InvalidChunksError."""
    check_chunks(chunks, header.shape)
    if len(head) + header.data_size <= CHUNK_TARGET:
        return None
    tiling = tiling_of(chunks, header.shape, header.dtype.itemsize, header.fortran_order)
    return Layout(tiling, head, {"kind": "npy"}, tile_recipe(codec, header, tiling, gather))


def store_npy(repository: Repository, array: Any, label: str | None, codec: str, chunks: Chunks | None = None) -> str:
    """Store an array; the identity is that of the file np.save writes. Raises UnsupportedDataError for objects,
    InvalidChunksError."""
    check_codec(codec)
    if isinstance(array, np.ma.MaskedArray):
        raise UnsupportedDataError("a masked array cannot be kept as .npy; store .data and .mask, or .filled()")
    try:
        values = np.asarray(array)
    except ValueError as exc:
        raise UnsupportedDataError(f"this is not an array: {exc}") from exc
    source = ArraySource(values)
    head = encode_header(values.dtype, values.shape, source.fortran_order)
    header = NpyHeader(values.dtype, values.shape, source.fortran_order, len(head))
    tiled = None if chunks is None else tiled_layout(head, header, source.gather, chunks, codec)
    layout = tiled or array_layout(head, header, source.sample, codec)
    entry = repository.put(source, Kind.NPY, label, **layout._asdict())
    return str(Uri(entry.sha1, label or ""))


def load_npy(repository: Repository, uri: Uri, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The whole array in memory, writable; every chunk verified."""
    return open_npy(repository, uri).load(out)


def described(repository: Repository, uri: Uri) -> Description:
    """What the repository knows, with shape and dtype if the content is an array that can be decoded here."""
    description = repository.describe(uri)
    if description.kind not in ("npy", "file"):
        return description
    try:
        array = open_npy(repository, uri)
    except (WrongKindError, MissingPackageError):
        return description
    return replace(description, shape=array.shape, dtype=str(array.dtype), tiles=array.tiles)
