"""Arrays that are not in memory: HDF5 datasets, dask and zarr arrays, and whatever is sliced like them, read block by block.

No library is imported for them. An array is whatever has `shape`, `dtype` and `__getitem__`, and gives NumPy arrays, or what
`np.asarray` makes one of, when it is sliced; its `chunks`, if it says them, are where it is best cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kacas.errors import ArrayStreamError
from kacas.formats.array_source import contiguous_parts
from kacas.model.codec import MIB

BLOCK = 16 * MIB  # bytes that are read at a time, in whole chunks of what is read
_MOST = 64 * MIB  # for one row of chunks; of larger ones a part is read, and chunks more than once

Slices = tuple[slice, ...]


def is_lazy(value: Any) -> bool:
    """Whether it is an array that is worth reading in blocks. What has labels (`values`: pandas, xarray) is not sliced by place."""
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "values"):
        return False
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if not isinstance(dtype, np.dtype) or not isinstance(shape, tuple) or not hasattr(value, "__getitem__"):
        return False
    if not shape or not all(isinstance(length, int | np.integer) for length in shape):
        return False
    chunks = getattr(value, "chunks", None)
    # In what order a single block of dask lies in memory, only the block itself tells.
    whole = isinstance(chunks, tuple) and all(isinstance(axis, tuple) and len(axis) == 1 for axis in chunks)
    return not whole and prod(map(int, shape)) * dtype.itemsize > BLOCK


def is_stored_fortran(value: Any) -> bool:
    """Whether `np.asarray` would give an array that `np.save` writes in Fortran order: what can be so says it in `order`, as zarr
    does. An array that has no two axes longer than 1, or no items, is in C order as well, and is written so."""
    return all(value.shape) and sum(length > 1 for length in value.shape) > 1 and getattr(value, "order", "C") == "F"


def read_blocks(array: Any, fortran_order: bool, block: int = BLOCK, most: int = _MOST) -> Iterator[memoryview]:
    """The data of a lazy array in memory order, read in parts of about `block` bytes.

    most: bytes of one row of chunks that are read at once. Raises ArrayStreamError if a part is not what was asked for.
    """
    shape, dtype = tuple(map(int, array.shape)), array.dtype
    for part in parts(
        shape[::-1] if fortran_order else shape, dtype.itemsize, _chunks(array, fortran_order), block, most
    ):
        index = part + (slice(None),) * (len(shape) - len(part))
        index = index[::-1] if fortran_order else index
        found = np.asanyarray(array[index])  # np.asarray would drop a mask without a word
        expected = tuple(len(range(*cut.indices(length))) for cut, length in zip(index, shape, strict=True))
        if isinstance(found, np.ma.MaskedArray):
            raise ArrayStreamError("a masked array cannot be kept as .npy; store the data and the mask, or fill it")
        if found.shape != expected or found.dtype != dtype:
            raise ArrayStreamError(
                f"a part of the array is {found.dtype} {found.shape} where {dtype} {expected} was expected: it says what it "
                "is not, or changed meanwhile. Nothing was stored"
            )
        found = np.asarray(found)
        yield from contiguous_parts(found.T if fortran_order else found)
        del found  # before the next part is read


def _chunks(array: Any, fortran_order: bool) -> tuple[Any, ...] | None:
    chunks = getattr(array, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != len(array.shape):
        return None
    for lengths, whole in zip(chunks, array.shape, strict=True):
        # Of dask, the lengths of all; of others, that of each.
        known = lengths if isinstance(lengths, tuple) else (lengths,)
        if not all(isinstance(length, int | np.integer) and length > 0 for length in known):
            return None
        if isinstance(lengths, tuple) and sum(lengths) != whole:
            return None
    return chunks[::-1] if fortran_order else chunks


def parts(
    shape: tuple[int, ...], item_size: int, chunks: tuple[Any, ...] | None, block: int, most: int
) -> Iterator[Slices]:
    """How to read an array in order: slices of the first axes, of all rows together; the axes not named are whole.

    chunks: for each axis, the length of a chunk or the lengths of all; None if there are none. block: bytes wanted. most:
    bytes that a row of chunks may have to be read at once; else a part of it is, and where single rows are larger, parts of rows.
    """
    row = item_size * prod(shape[1:])
    if row > max(block, most) and len(shape) > 1:
        for at in range(shape[0]):
            for rest in parts(shape[1:], item_size, chunks[1:] if chunks else None, block, most):
                yield (slice(at, at + 1), *rest)
        return
    wanted, largest = max(1, block // max(1, row)), max(1, most // max(1, row))
    start = stop = 0
    for length in _lengths(shape[0], chunks[0] if chunks else wanted):
        if start < stop and stop + length - start > wanted:
            yield (slice(start, stop),)
            start = stop
        stop += length
        if stop - start > largest:
            for at in range(start, stop, wanted):
                yield (slice(at, min(at + wanted, stop)),)
            start = stop
    if start < stop:
        yield (slice(start, stop),)


def _lengths(length: int, chunks: Any) -> Iterator[int]:
    """Those of the chunks along one axis."""
    if isinstance(chunks, tuple):
        return map(int, chunks)
    step = max(1, int(chunks))
    return chain(repeat(step, length // step), (length % step,) if length % step else ())


class Rows:
    """What is appended to an array: blocks of rows of one shape and dtype."""

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """shape: of one row."""
        self.dtype = dtype
        self.shape = shape

    def take(self, value: Any) -> NDArray[Any]:
        """A block, or one row, as a block; not copied. Raises ArrayStreamError for what does not fit."""
        rows = as_rows(value)
        if rows.shape == self.shape:
            rows = rows[np.newaxis]
        if rows.shape[1:] != self.shape or not rows.ndim:
            raise ArrayStreamError(
                f"an array of shape {rows.shape} is neither a row of shape {self.shape} nor a block of them"
            )
        if rows.dtype != self.dtype and not _fit(rows, self.dtype):
            raise ArrayStreamError(
                f"rows of dtype {rows.dtype} in an array of {self.dtype}, which cannot hold all of their values; make the "
                f"array of another dtype, or, if that is what you want, convert them: np.asarray(rows, {str(self.dtype)!r})"
            )
        return rows

    def parts(self, rows: NDArray[Any]) -> Iterator[memoryview]:
        """Their bytes, of what `take` returned."""
        return contiguous_parts(rows, self.dtype)


def as_rows(value: Any) -> NDArray[Any]:
    """The value as an array. Raises ArrayStreamError if it is none, or masked."""
    if isinstance(value, Mapping):
        raise ArrayStreamError(f"a {type(value).__name__} holds arrays by name and is none itself; append each of them")
    if isinstance(value, np.ma.MaskedArray):
        raise ArrayStreamError("masked rows cannot be kept as .npy; append .data and keep .mask apart, or .filled()")
    try:
        return np.asarray(value)
    except ValueError as exc:
        raise ArrayStreamError(f"these rows are not an array: {exc}") from exc


def _fit(rows: NDArray[Any], kept: np.dtype[Any]) -> bool:
    """Whether every value stays what it is. NumPy also calls it safe to write numbers as texts or dates, fields in the place of
    others, large integers as floats, and dates in units in which they overflow."""
    given = rows.dtype
    if kept.names != given.names:
        return False
    if kept.names is not None:
        return all(kept[name].shape == given[name].shape and _fit(rows[name], kept[name].base) for name in kept.names)
    alike = given.kind == kept.kind or (given.kind in "biufc" and kept.kind in "biufc")
    if not alike or (given.itemsize > 0 and kept.itemsize == 0) or not np.can_cast(given, kept, "safe"):
        return False
    if given.kind in "iu" and kept.kind in "fc" and rows.size:
        exact = 1 << int(np.finfo(kept).nmant) + 1  # up to here, floats have all integers
        return -exact <= int(rows.min()) and int(rows.max()) <= exact
    if given.kind in "mM" and given != kept:
        return bool((rows.astype(kept).astype(given).view(np.int64) == rows.view(np.int64)).all())
    return True
