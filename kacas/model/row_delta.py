"""Row delta: each item of an array minus the item above it, which neighbouring rows make small.

Items are subtracted, as integers modulo their size, and zigzagged, so that small negative numbers are small numbers too.
Floats as well: as integers they are in the order of their values. Or items are combined by exclusive or.
The first row has zeros above it. Nothing is lost, whatever the values.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_PARAMETERS = struct.Struct("<BBxxI")
_ITEM_SIZES = (1, 2, 4, 8)
MARGIN = 64 * 1024  # bytes of zeros above the first row, where the passes of `undo` begin
_CACHE_LINE = 64  # bytes


class Difference(IntEnum):
    """How an item is told from the one above. The numbers are the format's."""

    SUBTRACT = 1
    XOR = 2


class RowDelta(NamedTuple):
    """item_size: bytes of an item, 1, 2, 4 or 8. row_size: bytes from an item to the one below."""

    difference: Difference
    item_size: int
    row_size: int

    def encode(self) -> bytes:
        """As the parameters of a payload."""
        return _PARAMETERS.pack(self.difference, self.item_size, self.row_size)

    def apply(self, raw: memoryview, out: NDArray[np.uint8], spare: NDArray[np.uint8]) -> NDArray[Any]:
        """The filtered bytes, as items, in `out`. out, spare: of at least the size of raw, which is whole items."""
        unsigned, columns = np.dtype(f"<u{self.item_size}"), self.row_size // self.item_size
        items = np.frombuffer(raw, unsigned)
        filtered = out[: len(raw)].view(unsigned)
        filtered[:columns] = items[:columns]
        if self.difference == Difference.XOR:
            np.bitwise_xor(items[columns:], items[:-columns], out=filtered[columns:])
            return filtered
        np.subtract(items[columns:], items[:-columns], out=filtered[columns:])
        signed = np.dtype(f"<i{self.item_size}")
        signs = spare[: len(raw)].view(signed)
        np.right_shift(filtered.view(signed), 8 * self.item_size - 1, out=signs)
        np.add(filtered, filtered, out=filtered)  # half the time of a shift
        np.bitwise_xor(filtered, signs.view(unsigned), out=filtered)
        return filtered

    def undo(self, filtered: NDArray[np.uint8], out: memoryview, spare: NDArray[np.uint8]) -> None:
        """Fill `out` with the raw bytes. filtered, spare: MARGIN zeros, which stay, and then as many bytes as out, which are
        overwritten; filtered has the filtered bytes there."""
        unsigned, columns = np.dtype(f"<u{self.item_size}"), self.row_size // self.item_size
        items, signs = filtered[MARGIN:].view(unsigned), spare[MARGIN:].view(unsigned)
        if self.difference == Difference.SUBTRACT:
            np.bitwise_and(items, 1, out=signs)
            np.negative(signs, out=signs)
            np.right_shift(items, 1, out=items)
            np.bitwise_xor(items, signs, out=items)
        combine = np.add if self.difference == Difference.SUBTRACT else np.bitwise_xor
        _accumulate(combine, filtered.view(unsigned), columns, np.frombuffer(out, unsigned), spare.view(unsigned))


def buffers(size: int) -> NDArray[np.uint8]:
    """Two buffers of so many zeros, for `apply` and `undo`. Each begins with a cache line: else a pass over it takes a quarter
    longer."""
    apart = -(-size // _CACHE_LINE) * _CACHE_LINE
    memory = np.zeros(2 * apart + _CACHE_LINE, np.uint8)
    first = -memory.ctypes.data % _CACHE_LINE
    return memory[first : first + 2 * apart].reshape(2, apart)[:, :size]


def decode_row_delta(parameters: bytes, size: int) -> RowDelta:
    """The filter of a payload of so many raw bytes. Raises ValueError for parameters that cannot be."""
    if len(parameters) != _PARAMETERS.size:
        raise ValueError(f"row delta has {_PARAMETERS.size} bytes of parameters, not {len(parameters)}")
    difference, item_size, row_size = _PARAMETERS.unpack(parameters)
    if difference not in Difference._value2member_map_ or item_size not in _ITEM_SIZES:
        raise ValueError(f"row delta of kind {difference} on items of {item_size} bytes is unknown")
    if not row_size or row_size % item_size or size % item_size:
        raise ValueError(f"{size} bytes in rows of {row_size} are no items of {item_size} bytes")
    return RowDelta(Difference(difference), item_size, row_size)


def _accumulate(combine: np.ufunc, items: NDArray[Any], columns: int, out: NDArray[Any], spare: NDArray[Any]) -> None:
    """Fill `out` with each item combined with all above it; items and spare, which have margins, are overwritten.

    NumPy's accumulate takes one item at a time. Here each pass combines every item with the one 1, 2, 4... rows above, so
    that it then holds 2, 4, 8... of them. When so many rows are as long as the margin, the rest is one pass from vector to
    vector. Few calls matter more than few passes: between them threads wait for one another. With half the
    margin one thread is a tenth quicker, and two are slower.
    """
    distance, source, other = columns, items, spare
    margin = MARGIN // items.itemsize
    while distance < len(out) and distance <= margin:
        combine(source[margin:], source[margin - distance : -distance], out=other[margin:])
        source, other, distance = other, source, 2 * distance
    source = source[margin:]
    out[:distance] = source[:distance]
    for start in range(distance, len(out), distance):
        stop = min(start + distance, len(out))
        combine(out[start - distance : stop - distance], source[start:stop], out=out[start:stop])
