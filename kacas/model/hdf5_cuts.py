"""Where an HDF5 file is cut: at the chunks of its datasets, contiguous data between rows, and all else by content.

What HDF5 moves or writes anew stays the same chunk of ours, as nothing here depends on where in the file it lies.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kacas.model.cuts import CHUNK_TARGET, Cutter, array_cutter

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_USER_BLOCK = 64 * 1024  # bytes, in which the signature is looked for; that of a MATLAB file has 512
MIN_RUN = 64 * 1024  # bytes; what lies alone and is smaller is cut by content, with what is around it
_MAX_CHUNK = 1024 * 1024  # bytes of ours
_MAX_JOINED = _MAX_CHUNK - CHUNK_TARGET  # chunks that are joined begin within so many bytes
_MIX = np.uint64(0x9E3779B97F4A7C15)

Extents = NDArray[np.int64]
"""Rows of start, stop (bytes of the file), dataset (its number) and place: of a dataset in order, where the extent
begins in its data; of another, what `mixed` makes of the chunk's coordinates."""

Spans = NDArray[np.int64]
"""Rows of start, stop, step, period, phase: the bytes start:stop are cut like a part of data that begins at `phase` in
its period, after each `step` bytes, and anew at each period. They rise and do not overlap."""


class Order(NamedTuple):
    """Where data that lies in the file in the order of the array is cut, as a PeriodicCutter does. Not in order: 0, 0."""

    step: int = 0
    period: int = 0


def signature_at(front: bytes) -> int | None:
    """Where a file that begins so has the signature: at its start, or behind a user block of 512, 1024, 2048... bytes."""
    at = 0
    while at < len(front):
        if front.startswith(SIGNATURE, at):
            return at
        at = max(512, 2 * at)
    return None


def order_of(shape: tuple[int, ...], item_size: int) -> Order:
    """As arrays are cut, so that the chunks are the same."""
    cutter = array_cutter(shape, item_size)
    return Order(cutter.step, cutter.period or cutter.step)


def is_in_order(shape: tuple[int, ...], chunk: tuple[int, ...], most: tuple[int, ...]) -> bool:
    """Whether each chunk is one range of the array, whole rows or a part of one row, and stays it when the array grows.

    most: the shape that it may grow to. Parts of rows that become longer would all have other places in the array.
    """
    axis = next((axis for axis, length in enumerate(chunk) if length > 1), len(chunk))
    return chunk[axis + 1 :] == shape[axis + 1 :] and shape[1:] in (chunk[1:], most[1:])


def places(shape: tuple[int, ...], item_size: int, coordinates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where chunks of data in order begin in it, in bytes. coordinates: of their first elements, one row each."""
    strides = [item_size * prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return coordinates @ np.array(strides, np.int64)


def mixed(coordinates: NDArray[np.int64]) -> NDArray[np.int64]:
    """32 bits of each row, as good as random: which chunks are joined depends on their coordinates, so it stays the same
    when the dataset grows along any axis."""
    found = np.full(len(coordinates), _MIX)
    for column in coordinates.T.astype(np.uint64):
        found = (found ^ column) * _MIX
        found ^= found >> np.uint64(32)
    return (found & np.uint64(0xFFFFFFFF)).astype(np.int64)


def spans_of(extents: Extents, orders: NDArray[np.int64], size: int) -> Spans:
    """How a file of `size` bytes is cut where its datasets have these extents; whatever cannot be is left out.

    orders: the Order of each dataset. Neighbours of one dataset are joined: in order, to the chunks of the array; else
    until one that its coordinates choose, the likelier the larger it is, so that 256 KiB are joined on average.
    """
    extents = _sound(extents, len(orders), size)
    extents = extents[_long_enough(extents)]
    if not len(extents):
        return np.empty((0, 5), np.int64)
    start, stop, dataset, place = extents.T
    lengths = stop - start
    step, period = orders[dataset].T
    in_order = step > 0
    alone = lengths >= CHUNK_TARGET
    last = place * CHUNK_TARGET < np.minimum(lengths, CHUNK_TARGET) << 32
    follows = np.where(in_order[1:], place[1:] == place[:-1] + lengths[:-1], ~(last[:-1] | alone[1:]))
    joined = _touching(extents) & follows
    first = np.concatenate([[True], ~joined])
    joined_from = start[first][np.cumsum(first) - 1]
    part = (start - joined_from) // _MAX_JOINED
    first[1:] |= ~in_order[1:] & (part[1:] != part[:-1])
    heads = np.flatnonzero(first)
    ends = stop[np.append(heads[1:] - 1, len(stop) - 1)]
    whole = ends - start[heads]
    whole[whole > _MAX_CHUNK] = CHUNK_TARGET
    ordered = in_order[heads]
    step = np.where(ordered, step[heads], whole)
    period = np.where(ordered, period[heads], whole)
    phase = np.where(ordered, place[heads] % period, 0)
    return np.stack([start[heads], ends, step, period, phase], axis=1)


def _sound(extents: Extents, datasets: int, size: int) -> Extents:
    """Sorted; without those that are not in the file, and those that begin in another."""
    start, stop, dataset, place = extents.T
    inside = (start >= 0) & (start < stop) & (stop <= size) & (dataset >= 0) & (dataset < datasets) & (place >= 0)
    extents = extents[inside]
    extents = extents[np.argsort(extents[:, 0], kind="stable")]
    reached = np.maximum.accumulate(extents[:, 1])
    free = np.ones(len(extents), bool)
    free[1:] = extents[1:, 0] >= reached[:-1]
    return extents[free]


def _touching(extents: Extents) -> NDArray[np.bool_]:
    """Of each extent but the first, whether it follows the one before without a gap, in the same dataset."""
    start, stop, dataset, _ = extents.T
    found: NDArray[np.bool_] = (start[1:] == stop[:-1]) & (dataset[1:] == dataset[:-1])
    return found


def _long_enough(extents: Extents) -> NDArray[np.bool_]:
    """Which of them are part of MIN_RUN bytes of one dataset in one piece."""
    first = np.concatenate([[True], ~_touching(extents)])[: len(extents)]
    heads = np.flatnonzero(first)
    if not len(heads):
        return first
    runs = np.add.reduceat(extents[:, 1] - extents[:, 0], heads)
    long_enough: NDArray[np.bool_] = (runs >= MIN_RUN)[np.cumsum(first) - 1]
    return long_enough


class Hdf5Cutter:
    """Cuts the spans as they say, and what lies between by content. See Cutter."""

    def __init__(self, spans: Spans, content: Cutter) -> None:
        """content: needs no state. Raises ValueError for spans that are none."""
        start, stop, step, period, phase = spans.T
        sound = (start >= 0) & (start < stop) & (step > 0) & (step <= _MAX_CHUNK) & (period >= step)
        if not (sound & (phase >= 0) & (phase < period)).all() or (start[1:] < stop[:-1]).any():
            raise ValueError("these spans overlap, or cannot be cut")
        self._spans = spans
        self._content = content
        self._next = 0  # the first span that is not behind us
        self._at = 0  # in the file, of the data to come

    def cut(self, data: memoryview, final: bool) -> list[int]:
        at, size, ends = 0, len(data), list[int]()
        while at < size:
            start, stop, step, period, phase = self._span()
            here = self._at + at
            if here < start:
                known = min(size, start - self._at)
                ended = final or start <= self._at + size
                found = self._content.cut(data[at:known], ended)
                ends += [at + end for end in found]
                if not ended:
                    break
                at = known
                continue
            phase = (phase + here - start) % period
            room = min(step - phase % step, period - phase, stop - here)
            if at + room > size:
                if final:
                    ends.append(size)
                break
            at += room
            ends.append(at)
            self._next += here + room == stop
        self._at += ends[-1] if ends else 0
        return ends

    def _span(self) -> list[int]:
        """The one at hand, or the next; behind the last, one that is never reached."""
        if self._next < len(self._spans):
            found: list[int] = self._spans[self._next].tolist()
            return found
        return [1 << 63, 1 << 63, 1, 1, 0]
