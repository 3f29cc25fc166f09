"""Where content is cut into chunks. A cutter sees the stream block by block and names the ends it is sure of."""

from __future__ import annotations

from math import prod
from typing import Protocol

_EVEN_FROM = 64  # rows of a chunk
CHUNK_TARGET = 256 * 1024  # bytes; content that is no longer than this is one chunk and needs no manifest


class Cutter(Protocol):
    """Stateful, for one content, front to back."""

    def cut(self, data: memoryview, final: bool) -> list[int]:
        """End offsets, rising, of the chunks complete in `data`; what follows the last is offered again.

        data: the uncut bytes so far, starting at a chunk's start; final: nothing comes after.
        If final, the last end is len(data) (unless data is empty). Must progress on 1 MiB of data.
        """
        ...


class PeriodicCutter:
    """Cuts after every `step` bytes, and anew at each multiple of `period`: rows of an array."""

    def __init__(self, step: int, period: int | None = None) -> None:
        if step <= 0 or (period is not None and period < step):
            raise ValueError(f"step {step} and period {period} do not cut")
        self.step = step
        self.period = period
        self._phase = 0  # bytes since the period began, at the start of the data

    def cut(self, data: memoryview, final: bool) -> list[int]:
        size, at, ends = len(data), 0, []
        while at < size:
            room = self.step if self.period is None else min(self.step, self.period - self._phase)
            if at + room > size:
                break
            at += room
            ends.append(at)
            if self.period is not None:
                self._phase = (self._phase + room) % self.period
        if final and at < size:
            ends.append(size)
        return ends


def array_cutter(shape: tuple[int, ...], itemsize: int, target: int = CHUNK_TARGET) -> PeriodicCutter:
    """Cut C-ordered array data between rows, so that a row slice reads whole chunks.

    shape: of the data in memory order (reversed for Fortran order). itemsize: bytes per element.
    The axis whose rows fit in `target` is found from the left. On the first axis as many whole rows as
    fit make a chunk, whatever the length: an array that grew shares the chunks of what it was. Further
    in, groups as equal as whole rows allow never cross into the next slab. An item larger than `target`
    is cut in pieces.
    """
    if itemsize <= 0 or target <= 0:
        raise ValueError(f"itemsize {itemsize} and target {target} must be positive")
    for axis in range(len(shape)):
        row = itemsize * prod(shape[axis + 1 :])
        if 0 < row <= target:
            if axis == 0:
                return PeriodicCutter(_even(target // row) * row)
            slab = row * shape[axis]
            pieces = -(-slab // (target // row * row))
            rows = -(-shape[axis] // max(pieces, 1))
            return PeriodicCutter(row * max(rows, 1), max(slab, row))
    return PeriodicCutter(min(target, itemsize), itemsize)


def _even(rows: int) -> int:
    """A multiple of 8 where that hardly matters: bits of items are shuffled in eights."""
    return rows - rows % 8 if rows >= _EVEN_FROM else rows
