"""Tiles: the recipe for them, chosen on samples that are tiles too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from kacas.codec_choice import choose, sample_places
from kacas.model.encoder import Recipe
from kacas.model.npy_header import NpyHeader
from kacas.model.selection import fill_box
from kacas.model.tiling import Tiling

_READINGS = 8  # tiles are there to be read in parts, again and again

Gather = Callable[[Sequence[range]], memoryview]
"""gather(ranges) gives the data's items in these ranges along each axis in memory order."""


def tile_recipe(codec: str, header: NpyHeader, tiling: Tiling, gather: Gather) -> Recipe:
    """What tiles of this array are encoded by: see `choose`."""
    item_size = max(1, header.dtype.itemsize)
    tile = (*tiling.tile[:-1], tiling.tile[-1] // item_size)
    shape = (*tiling.shape[:-1], tiling.shape[-1] // item_size)
    rows = [item_size * prod(tile[axis + 1 :]) for axis in range(len(tile))]
    samples = []
    for start, size in sample_places(header.data_size):
        ranges = []
        for at, step, length, row in zip(np.unravel_index(start // item_size, shape), tile, shape, rows, strict=True):
            first = int(at) // step * step
            # The tile's front, as far as a sample goes.
            ranges.append(range(first, min(first + max(1, min(step, size // row)), length)))
        if sample := gather(ranges):
            samples.append(sample)
    return choose(codec, samples, header.dtype.kind, item_size, rows, _READINGS)


def gather_from(sample: Callable[[int, int], memoryview], header: NpyHeader) -> Gather:
    """From data in memory order, of which sample(start, size) gives a part; what it does not give is zero."""
    shape = header.shape[::-1] if header.fortran_order else header.shape

    def read_into(start: int, out: memoryview) -> None:
        found = sample(start, len(out))
        out[: len(found)] = found

    def gather(ranges: Sequence[range]) -> memoryview:
        box = np.zeros([len(wanted) for wanted in ranges], f"V{header.dtype.itemsize}")
        fill_box(box, ranges[: len(shape)], shape, read_into)
        return box.reshape(-1).view(np.uint8).data

    return gather
