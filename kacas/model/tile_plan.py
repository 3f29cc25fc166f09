"""What is to be read of which tiles, and where it goes: a box of an array, or the boxes that make a range of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kacas.model.selection import Positions
from kacas.model.tiling import Tiling, widest

Pick = slice | NDArray[np.intp]
"""Positions along one axis of a tile."""


class Copy(NamedTuple):
    """A part of a tile and the place for it."""

    target: NDArray[Any]
    picks: tuple[Pick, ...]

    def run(self, tile: NDArray[Any]) -> None:
        """Copy from the tile's items, which are of the target's dtype."""
        part = tile[tuple(pick if isinstance(pick, slice) else slice(None) for pick in self.picks)]
        for axis, pick in enumerate(self.picks):
            if not isinstance(pick, slice):
                part = part.take(pick, axis)
        target = self.target
        size = part.itemsize
        if part.shape[-1] > 1 and part.strides[-1] == target.strides[-1] == size:
            # As one item: NumPy takes ten times as long for many runs of a few items each.
            run = dtype_of(part.shape[-1] * size)
            part, target = part.view(run), target.view(run)
        target[...] = part


class TileRead(NamedTuple):
    """One tile and all that is wanted of it. extents: of its items, in the dtype of the targets; size: its bytes."""

    number: int
    extents: tuple[int, ...]
    size: int
    copies: list[Copy]

    @property
    def is_part(self) -> bool:
        """Whether not all of the tile is wanted: another part may be, soon."""
        return sum(copy.target.nbytes for copy in self.copies) < self.size

    def scatter(self, raw: memoryview) -> None:
        """Copy what is wanted from the tile's bytes."""
        tile: NDArray[Any] = np.ndarray(self.extents, self.copies[0].target.dtype, raw)
        for copy in self.copies:
            copy.run(tile)

    @property
    def whole(self) -> memoryview | None:
        """The place for the whole tile, if it lies in one piece: then the tile can be decoded there."""
        if len(self.copies) != 1:
            return None
        target = self.copies[0].target
        if target.nbytes != self.size or not target.flags.c_contiguous:
            return None
        return target.reshape(-1).view(np.uint8).data


class Box:
    """Positions along every axis, and the array to be filled with what is there. Along the last axis items are counted,
    of `unit` bytes. cost: bytes of the tiles."""

    def __init__(self, tiling: Tiling, unit: int, positions: Sequence[Positions], target: NDArray[Any]) -> None:
        self.target = target
        self.cost = bytes_read(tiling, positions, unit)
        steps = [*tiling.tile[:-1], tiling.tile[-1] // unit]
        self.axes = [dict(_by_tile(*axis)) for axis in zip(positions, steps, strict=True)]

    def copy(self, corner: Sequence[int]) -> Copy | None:
        """What is wanted of the tile at this place of the grid."""
        parts = []
        for places, at in zip(self.axes, corner, strict=True):
            part = places.get(at)
            if part is None:
                return None
            parts.append(part)
        return Copy(self.target[tuple(part[0] for part in parts)], tuple(part[1] for part in parts))


def _by_tile(wanted: Positions, step: int) -> Iterator[tuple[int, tuple[slice, Pick]]]:
    """For each tile along an axis: where in the box its positions are, and the positions in the tile."""
    first, count = 0, len(wanted)
    while first < count:
        tile = int(wanted[first]) // step
        start, stop = tile * step, (tile + 1) * step
        if isinstance(wanted, range):
            last = min(count, -(-(stop - wanted.start) // wanted.step))
            pick: Pick = slice(wanted[first] - start, wanted[last - 1] - start + 1, wanted.step)
        else:
            last = int(np.searchsorted(wanted, stop))
            pick = wanted[first:last] - start
        yield tile, (slice(first, last), pick)
        first = last


def box_of(tiling: Tiling, positions: Sequence[Positions], item_size: int, target: NDArray[Any]) -> tuple[int, Box]:
    """The box for an array's items, and its unit.

    positions: in memory order, of items of `item_size` bytes. target: one item for each of them, fastest if C-contiguous.
    """
    if not target.ndim:
        positions, target = [range(1)], target.reshape(1)
    last = positions[-1]
    raw = target.view(np.uint8) if target.itemsize == 1 else target.view(f"V{item_size}").view(dtype_of(item_size))
    if target.flags.c_contiguous and isinstance(last, range) and (last.step == 1 or len(last) == 1):
        # What lies in one piece is copied in as large words as there are.
        start, size = last.start * item_size, len(last) * item_size
        unit = widest(tiling.unit, start, size)
        if unit != item_size:
            raw = target.reshape(-1).view(np.uint8).view(dtype_of(unit)).reshape(*target.shape[:-1], size // unit)
        return unit, Box(tiling, unit, [*positions[:-1], range(start // unit, (start + size) // unit)], raw)
    return item_size, Box(tiling, item_size, positions, raw)


def boxes_of_range(tiling: Tiling, start: int, out: memoryview) -> tuple[int, list[Box]]:
    """The boxes that together are the data's bytes from `start` on, and their unit."""
    unit = widest(tiling.unit, start, len(out))
    shape = (*tiling.shape[:-1], tiling.shape[-1] // unit)
    items = np.frombuffer(out, np.uint8).view(dtype_of(unit))
    boxes = []
    for low, high, positions in _split(shape, start // unit, (start + len(out)) // unit):
        target = items[low - start // unit : high - start // unit].reshape([len(wanted) for wanted in positions])
        boxes.append(Box(tiling, unit, positions, target))
    return unit, boxes


def _split(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[int, int, list[range]]]:
    """The items start:stop, in C order, as boxes: (first item, last, positions), each in one piece."""
    row = prod(shape[1:])
    if len(shape) == 1 or (start % row == 0 and stop % row == 0):
        yield start, stop, [range(start // row, stop // row), *map(range, shape[1:])]
        return
    first, last = start // row, stop // row
    if first == last:
        yield from _within(shape, first, start, stop)
        return
    if start % row:
        yield from _within(shape, first, start, (first + 1) * row)
        first += 1
    if first < last:
        yield first * row, last * row, [range(first, last), *map(range, shape[1:])]
    if stop % row:
        yield from _within(shape, last, last * row, stop)


def _within(shape: tuple[int, ...], index: int, start: int, stop: int) -> Iterator[tuple[int, int, list[range]]]:
    base = index * prod(shape[1:])
    for low, high, positions in _split(shape[1:], start - base, stop - base):
        yield base + low, base + high, [range(index, index + 1), *positions]


def reads_of(tiling: Tiling, unit: int, boxes: Sequence[Box]) -> Iterator[TileRead]:
    """Every tile that the boxes touch, once, in order."""
    grid = tiling.grid
    strides = [prod(grid[axis + 1 :]) for axis in range(len(grid))]
    axes = [sorted(set().union(*(box.axes[axis] for box in boxes))) for axis in range(len(grid))]
    for corner in product(*axes):
        copies = [copy for box in boxes if (copy := box.copy(corner)) is not None]
        if copies:
            number = sum(at * stride for at, stride in zip(corner, strides, strict=True))
            extents = [part.stop - part.start for part in tiling.box(corner)]
            size = prod(extents)
            extents[-1] //= unit
            yield TileRead(number, tuple(extents), size, copies)


def bytes_read(tiling: Tiling, positions: Sequence[Positions], item_size: int) -> int:
    """Bytes of the tiles that a box of items touches."""
    total = 1
    steps = [*tiling.tile[:-1], tiling.tile[-1] // item_size]
    lengths = [*tiling.shape[:-1], tiling.shape[-1] // item_size]
    for wanted, step, length in zip(positions or [range(1)], steps, lengths, strict=True):
        if isinstance(wanted, range) and wanted.step <= step:
            touched = range(wanted[0] // step, wanted[-1] // step + 1) if len(wanted) else range(0)
            total *= min(touched.stop * step, length) - touched.start * step if touched else 0
        else:
            tiles = np.unique(np.asarray(wanted) // step)
            total *= len(tiles) * step - (step - length % step if length % step and (length // step) in tiles else 0)
    return total * item_size


def bytes_spanned(shape: tuple[int, ...], positions: Sequence[Positions], item_size: int, chunk_size: int) -> int:
    """About how many bytes of a sequence of chunks a box of items touches; shape: of the array in memory order."""
    pitch, extent, read = item_size, item_size, item_size
    for wanted, length in zip(reversed(positions), reversed(shape), strict=True):
        count = len(wanted)
        if count > 1:
            span = pitch * (int(wanted[-1]) - int(wanted[0]))
            # Where the gaps are less than a chunk, every chunk between the first and the last is read.
            near = span // (count - 1) - extent < chunk_size
            read = span + read if near else count * max(read, chunk_size)
            extent += span
        pitch *= length
    return max(read, min(chunk_size, pitch))


def dtype_of(unit: int) -> np.dtype[Any]:
    """Opaque items of this size, which NumPy copies bit by bit as they are."""
    return np.dtype({1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}.get(unit, f"V{unit}"))
