"""Where an array's bytes come from: memory, blocks that are read one after the other, or a spool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kacas.disk.spool import Spool
from kacas.errors import ArrayStreamError
from kacas.formats.lazy_array import bytes_of
from kacas.model.codec import MIB
from kacas.model.npy_header import is_fortran

_COPY_ELEMENTS = 1 << 16  # non-contiguous arrays are gathered in steps of about this many elements
_FRONT_SIZE = 4 * MIB


class ArraySource:
    """An array's data in memory order (C order unless it is Fortran-contiguous), copied into the caller's buffers.

    Every byte is read once: an array that another thread changes meanwhile can be torn, but its
    identity is that of the bytes which were stored.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.fortran_order = is_fortran(array)
        self._array = array.T if self.fortran_order else array
        self._blocks = contiguous_parts(self._array)
        self._rest = memoryview(b"")

    @property
    def size(self) -> int:
        return int(self._array.nbytes)

    def readinto(self, buffer: memoryview) -> int:
        if not self._rest:
            self._rest = next(self._blocks, memoryview(b""))
        count = min(len(buffer), len(self._rest))
        if count:
            copy_bytes(buffer[:count], self._rest[:count])
            self._rest = self._rest[count:]
        return count

    def sample(self, start: int, size: int) -> memoryview:
        """So many bytes of the data from `start` on, both of whole items."""
        array = self._array
        if array.flags.c_contiguous:
            return bytes_of(array)[start : start + size]
        if array.dtype.names:
            array = array.view(f"V{array.dtype.itemsize}")
        first = start // array.itemsize
        return bytes_of(array.flat[first : first + size // array.itemsize])

    def gather(self, ranges: Sequence[range]) -> memoryview:
        """The items in these ranges along each axis in memory order."""
        array = self._array if self._array.ndim else self._array.reshape(1)
        if array.dtype.names:
            array = array.view(f"V{array.dtype.itemsize}")
        return bytes_of(np.ascontiguousarray(array[tuple(slice(wanted.start, wanted.stop) for wanted in ranges)]))

    def check_unchanged(self) -> None:
        """There is no cheap way to tell; see the class."""


class FrontSource:
    """Data that comes once, front to back: samples are taken from its first 4 MiB, which are kept for that."""

    def __init__(self, readinto: Callable[[memoryview], int], size: int, item_size: int) -> None:
        """readinto: as that of a source; it is not called again after the end. size: bytes to come. item_size: bytes."""
        self.size = size
        self._readinto = readinto
        self._item_size = max(1, item_size)
        self._front = self._rest = memoryview(b"")
        self._ended = False
        self._taken = 0

    def readinto(self, buffer: memoryview) -> int:
        if self._rest:
            count = min(len(buffer), len(self._rest))
            copy_bytes(buffer[:count], self._rest[:count])
            self._rest = self._rest[count:]
        else:
            self._front = self._rest = memoryview(b"")
            count = 0 if self._ended else self._readinto(buffer)
            self._ended = count == 0
        self._taken += count
        return count

    def sample(self, start: int, size: int) -> memoryview:
        """So many bytes at a place that is as far into the front as `start` is into the data. Before the first `readinto`."""
        if not self._front:
            self._front = self._rest = self._look()
        size = min(size, len(self._front))
        at = start * (len(self._front) - size) // max(1, self.size - size)
        at -= at % self._item_size
        return self._front[at : at + size - size % self._item_size]

    def _look(self) -> memoryview:
        front = memoryview(bytearray(min(self.size, _FRONT_SIZE)))
        filled = 0
        while filled < len(front):
            count = self._readinto(front[filled:])
            if count == 0:
                self._ended = True
                break
            filled += count
        return front[:filled]

    def check_unchanged(self) -> None:
        """What gives the data checks it, but for how much came. Raises ArrayStreamError."""
        if self._taken != self.size:
            raise ArrayStreamError(
                f"{self._taken:,} bytes of data came, {self.size:,} were announced: the array's chunks are not those of its "
                "shape, or it changed meanwhile. Nothing was stored"
            )


class SpoolSource:
    """All that a spool holds."""

    def __init__(self, spool: Spool) -> None:
        self.size = spool.size
        self._spool = spool
        self._at = 0

    def readinto(self, buffer: memoryview) -> int:
        count = self._spool.read_into(self._at, buffer)
        self._at += count
        return count

    def sample(self, start: int, size: int) -> memoryview:
        """So many bytes from `start` on."""
        sample = memoryview(bytearray(size))
        return sample[: self._spool.read_into(start, sample)]

    def check_unchanged(self) -> None:
        """Nobody else has the file."""


def blocks_readinto(blocks: Iterator[memoryview]) -> Callable[[memoryview], int]:
    """The `readinto` of a source whose bytes are those of the blocks."""
    rest = nothing = memoryview(b"")

    def readinto(buffer: memoryview) -> int:
        nonlocal rest
        while not rest:
            rest = nothing  # what is left of a block, though it be nothing, keeps all of it in memory while the next is read
            following = next(blocks, None)
            if following is None:
                return 0
            rest = following
        count = min(len(buffer), len(rest))
        copy_bytes(buffer[:count], rest[:count])
        rest = rest[count:]
        return count

    return readinto


def copy_bytes(target: memoryview, source: memoryview) -> None:
    """Copy bytes without the GIL, which the slice assignment of memoryviews keeps."""
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def contiguous_parts(array: NDArray[Any], dtype: np.dtype[Any] | None = None) -> Iterator[memoryview]:
    """The array's bytes in C order, the array not copied at once. dtype: what the items become; by default they stay."""
    same = dtype is None or array.dtype == dtype
    if not array.size or not (array.dtype if same or dtype is None else dtype).itemsize:
        return
    if same and array.flags.c_contiguous:
        yield bytes_of(array)
    elif same:
        # Copying records, NumPy fills their padding with whatever was in memory: as opaque items it is kept.
        yield from _gathered(array.view(f"V{array.dtype.itemsize}") if array.dtype.names else array, None)
    else:
        yield from _gathered(array, dtype)


def _gathered(array: NDArray[Any], dtype: np.dtype[Any] | None) -> Iterator[memoryview]:
    if array.ndim <= 1 or array[0].size <= _COPY_ELEMENTS:
        per_row = max(1, array[0].size if array.ndim > 1 else 1)
        step = max(1, _COPY_ELEMENTS // per_row)
        for start in range(0, len(array), step):
            yield bytes_of(_converted(array[start : start + step], dtype))
        return
    for row in array:
        yield from _gathered(row, dtype)


def _converted(array: NDArray[Any], dtype: np.dtype[Any] | None) -> NDArray[Any]:
    if dtype is None or dtype.names is None:
        return np.ascontiguousarray(array, dtype)
    records = np.zeros(array.shape, dtype)  # NumPy's own copy has, for padding, whatever was in memory
    records[...] = array
    return records
