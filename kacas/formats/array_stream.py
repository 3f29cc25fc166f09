"""Storing arrays that are not in memory: lazy ones are read in blocks, iterators of blocks are spooled."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from kacas.codec_choice import check_codec
from kacas.errors import ArrayStreamError, UnsupportedDataError
from kacas.formats.array_blocks import as_rows, is_lazy, is_stored_fortran, read_blocks
from kacas.formats.array_source import FrontSource, blocks_readinto
from kacas.formats.npy import put_array, store_npy
from kacas.formats.npy_writer import NpyWriter
from kacas.model.npy_header import encode_dtype
from kacas.model.tiling import Chunks
from kacas.repository import Repository


def store_array(repository: Repository, array: Any, label: str | None, codec: str, chunks: Chunks | None = None) -> str:
    """Store whatever is an array, or gives one in blocks, without holding it if it is not in memory.

    The identity is that of the file np.save writes. Raises UnsupportedDataError, ArrayStreamError, and as `put`.
    """
    if isinstance(array, Iterator) and not hasattr(array, "__array__"):
        return _store_blocks(repository, array, label, codec, chunks)
    if isinstance(getattr(array, "_meta", None), np.ma.MaskedArray):  # dask drops the mask without a word
        raise UnsupportedDataError("a masked array cannot be kept as .npy; store the data and the mask, or fill it")
    if not is_lazy(array):
        return store_npy(repository, array, label, codec, chunks)
    check_codec(codec)
    encode_dtype(array.dtype)  # objects are refused before they are read
    shape, fortran_order = tuple(map(int, array.shape)), is_stored_fortran(array)
    readinto = blocks_readinto(read_blocks(array, fortran_order))
    source = FrontSource(readinto, prod(shape) * array.dtype.itemsize, array.dtype.itemsize)
    return put_array(repository, source, array.dtype, shape, fortran_order, label, codec, chunks)


def _store_blocks(
    repository: Repository, blocks: Iterator[Any], label: str | None, codec: str, chunks: Chunks | None
) -> str:
    check_codec(codec)
    first = next((as_rows(block) for block in blocks), None)
    if first is None:
        raise ArrayStreamError(
            "the iterator gave no rows, so neither dtype nor shape is known; for an array that may be empty use npy_writer"
        )
    _check_block(first, first.ndim)
    row_shape = first.shape[1:]
    with NpyWriter(repository, (None, *row_shape), first.dtype, label, codec, chunks) as writer:
        writer.append(first)
        ndim = first.ndim
        del first
        for block in blocks:
            rows = as_rows(block)
            _check_block(rows, ndim)
            writer.append(rows)
    return writer.uri


def _check_block(rows: Any, ndim: int) -> None:
    if not ndim or rows.ndim != ndim:
        raise ArrayStreamError(
            f"an item of shape {rows.shape} came from the iterator, which is to give blocks of rows, as for np.concatenate"
        )
