"""Arrays: stored as the .npy file that np.save writes, loaded whole or by slices."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kacas.codec_choice import check_codec, choose, sample_places
from kacas.errors import MissingPackageError, UnsupportedDataError, WrongKindError
from kacas.formats.array_source import ArraySource
from kacas.formats.lazy_array import open_npy
from kacas.formats.tiles import Gather, gather_from, tile_recipe
from kacas.model.cuts import CHUNK_TARGET, Cutter, array_cutter
from kacas.model.description import Description
from kacas.model.encoder import ZSTD, Recipe
from kacas.model.entry import Kind
from kacas.model.npy_header import NpyHeader, encode_header, parse_header
from kacas.model.source import Source
from kacas.model.tiling import Chunks, Tiling, check_chunks, tiling_of
from kacas.model.uri import Uri
from kacas.repository import Repository


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
    samples = [found for place in places if place[1] and (found := sample(*place))]
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
    if isinstance(array, Mapping):  # of an .npz file, or a group of HDF5, NumPy makes an array of the names
        raise UnsupportedDataError(
            f"a {type(array).__name__} holds arrays by name and is none itself; store each of them"
        )
    if isinstance(array, str | bytes | bytearray | os.PathLike) and not isinstance(array, np.generic):
        raise UnsupportedDataError(
            f"an array belongs here, not {type(array).__name__}: to store the file of that name use store_file (the array in "
            "a .npy file is kept as such); to store the text or the bytes use store_text or store_bytes, or "
            "np.array(value) for an array of it"
        )
    try:
        values = np.asanyarray(array)
    except (TypeError, ValueError) as exc:
        raise UnsupportedDataError(f"this is not an array: {exc}") from exc
    if isinstance(values, np.ma.MaskedArray):
        raise UnsupportedDataError("a masked array cannot be kept as .npy; store .data and .mask, or .filled()")
    values = np.asarray(values)
    source = ArraySource(values)
    return put_array(repository, source, values.dtype, values.shape, source.fortran_order, label, codec, chunks)


class SampledSource(Source, Protocol):
    """An array's data in memory order, of which samples can be had before it is read: see `Sample`."""

    def sample(self, start: int, size: int) -> memoryview: ...


def put_array(
    repository: Repository,
    source: SampledSource,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    fortran_order: bool,
    label: str | None,
    codec: str,
    chunks: Chunks | None = None,
) -> str:
    """Store the data behind the header of such an array. Raises UnsupportedDataError for objects, InvalidChunksError, and as
    `put`."""
    head = encode_header(dtype, shape, fortran_order)
    header = NpyHeader(dtype, shape, fortran_order, len(head))
    tiled = None
    if chunks is not None:
        gather = source.gather if isinstance(source, ArraySource) else gather_from(source.sample, header)
        tiled = tiled_layout(head, header, gather, chunks, codec)
    layout = tiled or array_layout(head, header, source.sample, codec)
    entry = repository.put(source, Kind.NPY, label, **layout._asdict())
    return str(Uri(entry.sha1, label or ""))


def load_npy(repository: Repository, uri: Uri, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The whole array in memory, writable; every chunk verified."""
    repository.bring(uri)
    array = open_npy(repository, uri).load(out)
    repository.tiers.heal(uri)
    return array


def described(repository: Repository, uri: Uri) -> Description:
    """What the repository knows, with shape and dtype if the content is an array that can be decoded here."""
    description = repository.describe(uri)
    if description.kind not in ("npy", "file") or repository.behind.has_far(description.store):
        return description  # or what is known of its shape there: it is not fetched for that
    try:
        array = open_npy(repository, uri)
    except (WrongKindError, MissingPackageError):
        return description
    return replace(description, shape=array.shape, dtype=str(array.dtype), tiles=array.tiles)
