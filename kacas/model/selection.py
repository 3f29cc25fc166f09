"""Indexing an array that lies somewhere as bytes, reading only what the index needs.

NumPy's indexing has many rules. None is rewritten here: the index is reduced to the sorted positions that
it needs along each axis, the *box* of these positions is read, and NumPy itself applies the index, renumbered
to the box, to the box.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kacas.errors import UnsupportedDataError

ReadInto = Callable[[int, memoryview], None]
"""read_into(start, out) fills `out` with the data bytes [start, start + len(out))."""

Positions = range | NDArray[np.intp]
"""Sorted, distinct, non-negative positions along an axis. A range has a positive step, and stays a range."""

ReadBox = Callable[[Sequence[Positions], NDArray[Any]], None]
"""See `select`."""

BLOCK_SIZE = 8 * 1024 * 1024  # bytes; the buffer for data that is not wanted whole

_PLAIN = frozenset([slice, int])  # by type: a bool is an int that takes no axis
_NOT_AN_INDEX = (
    "only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) and integer or boolean arrays "
    "are valid indices"
)


def read_selection(
    index: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fortran_order: bool,
    read_into: ReadInto,
    *,
    chunk_size: int = 256 * 1024,
    check_size: Callable[[int], None] = lambda size: None,
) -> NDArray[Any] | np.generic:
    """What `array[index]` of NumPy is, for the array of this shape, dtype and order that read_into reads.

    index: anything that NumPy takes except field names: integers, slices, Ellipsis, None, integer arrays,
    boolean masks, and tuples of them. chunk_size: bytes; a gap of that size or more between wanted bytes
    is not read. check_size: is told the bytes of the box before they are taken, and may raise.

    The result is a copy and may be written to. Memory: the box (the result itself, unless an index array is
    unsorted or repeats) and at most BLOCK_SIZE. With several index arrays the box is the product of the
    positions along their axes, as with np.ix_, even if NumPy pairs them up.

    Raises IndexError as NumPy does (before anything is read), also for field names; UnsupportedDataError for
    a dtype with Python objects.
    """
    return select(
        index,
        shape,
        dtype,
        fortran_order,
        lambda positions, box: fill_box(
            box, positions, shape[::-1] if fortran_order else shape, read_into, chunk_size=chunk_size
        ),
        check_size=check_size,
    )


def select(
    index: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fortran_order: bool,
    read_box: ReadBox,
    *,
    check_size: Callable[[int], None] = lambda size: None,
) -> NDArray[Any] | np.generic:
    """As `read_selection`, of an array that is read box by box: read_box(positions, box) fills a C-contiguous array that is
    not empty with the items at these positions along each axis in memory order."""
    if dtype.hasobject:
        raise UnsupportedDataError(f"an array of {dtype} cannot be read from bytes: it has Python objects")
    positions, renumbered = _plan(index, shape, dtype)
    check_size(math.prod(map(len, positions)) * dtype.itemsize)
    in_order = positions[::-1] if fortran_order else positions  # Fortran order is C order of the reversed axes
    # Not np.empty, which makes a string of length 0 one longer.
    box: NDArray[Any] = np.ndarray(tuple(map(len, in_order)), dtype)
    if box.nbytes:
        read_box(in_order, box)
    if fortran_order:
        box = box.T
    result: NDArray[Any] | np.generic
    if dtype.names is not None or not dtype.itemsize:
        # As opaque items. NumPy's copies of records have, for padding, whatever was in memory there, and
        # its copies of S0 are S1 of whatever was in memory.
        items = box.view(f"V{dtype.itemsize}")[renumbered]
        if isinstance(items, np.ndarray):
            return items.view(dtype)
    result = box[renumbered]
    return result


def fill_box(
    box: NDArray[Any],
    positions: Sequence[Positions],
    shape: tuple[int, ...],
    read_into: ReadInto,
    *,
    chunk_size: int = 256 * 1024,
) -> None:
    """Fill a C-contiguous array that is not empty with the given positions along each axis of C-ordered data."""
    first = _one_piece(positions, shape)
    if first is None:
        _Reading(box, positions, shape, read_into, chunk_size).fill(0, 0, 0)
    else:  # as there, without building the walk: small reads take 5 µs instead of 9
        read_into(first * box.itemsize, box.reshape(-1).view(np.uint8).data)


def _one_piece(positions: Sequence[Positions], shape: tuple[int, ...]) -> int | None:
    """The number of the first item if the box is one piece of the data: single positions, then a run, then
    whole axes. Else None."""
    first, in_run = 0, False
    for wanted, length in zip(positions, shape, strict=True):
        count = len(wanted)
        if in_run and count != length:
            return None
        if count > 1:
            if not isinstance(wanted, range) or wanted.step != 1:
                return None
            in_run = True
        first = first * length + int(wanted[0])
    return first


class _Reading:
    """One walk over the axes of a C-order array that fills a box from it."""

    def __init__(
        self,
        box: NDArray[Any],
        positions: Sequence[Positions],
        shape: tuple[int, ...],
        read_into: ReadInto,
        chunk_size: int,
    ) -> None:
        self.positions = positions
        self.shape = shape
        self.box_shape = box.shape
        self.read_into = read_into
        self.chunk_size = chunk_size
        self.target = box.reshape(-1).view(np.uint8)
        self.target_bytes = self.target.data
        # A record is copied as one opaque item: its padding too, and faster than field by field.
        self.item = np.dtype(f"V{box.itemsize}") if box.dtype.kind == "V" else box.dtype
        # Bytes of one step along each axis, in the data and in the box.
        self.rows = _row_sizes(shape, box.itemsize)
        self.box_rows = _row_sizes(box.shape, box.itemsize)
        # From this axis on everything is wanted, so that it lies in one piece in the data and in the box.
        self.whole_from = len(shape)
        while self.whole_from and box.shape[self.whole_from - 1] == shape[self.whole_from - 1]:
            self.whole_from -= 1
        self.buffer: NDArray[np.uint8] = np.empty(0, np.uint8)

    def fill(self, axis: int, start: int, at: int) -> None:
        """Fill the part of the box that begins at byte `at` from the part of the data that begins at byte
        `start`; both are one step along the axis before `axis`."""
        if axis == self.whole_from:
            size = self.rows[axis - 1] if axis else self.target.size
            self.read_into(start, self.target_bytes[at : at + size])
            return
        wanted, row, box_row = self.positions[axis], self.rows[axis], self.box_rows[axis]
        if axis + 1 == self.whole_from and isinstance(wanted, range) and wanted.step == 1:
            size = len(wanted) * row
            self.read_into(start + wanted.start * row, self.target_bytes[at : at + size])
            return
        for first, last in self.runs(wanted, row):
            if last - first == 1:
                self.fill(axis + 1, start + int(wanted[first]) * row, at + first * box_row)
            else:
                self.fill_rows(axis, wanted[first:last], start, at + first * box_row)

    def runs(self, wanted: Positions, row: int) -> Iterator[tuple[int, int]]:
        """Group positions that are read together: no gap of chunk_size, and BLOCK_SIZE at most in all.

        Rows larger than a chunk stay alone, so that what is not wanted inside of them can be left out.
        """
        count = len(wanted)
        most = BLOCK_SIZE // row
        if row > self.chunk_size or most < 2:
            yield from zip(range(count), range(1, count + 1), strict=True)
        elif isinstance(wanted, range):
            near = (wanted.step - 1) * row < self.chunk_size
            length = (most - 1) // wanted.step + 1 if near else 1
            for first in range(0, count, length):
                yield first, min(first + length, count)
        else:
            gaps = np.flatnonzero((np.diff(wanted) - 1) * row >= self.chunk_size)
            first = 0
            for end in [*(gaps + 1).tolist(), count]:
                while first < end:
                    last = min(int(np.searchsorted(wanted, wanted[first] + most)), end)
                    yield first, last
                    first = last

    def fill_rows(self, axis: int, wanted: Positions, start: int, at: int) -> None:
        """Read the rows from the first to the last wanted one into the buffer, and pick from them."""
        low, row = int(wanted[0]), self.rows[axis]
        count = int(wanted[-1]) - low + 1
        if self.buffer.size < count * row:
            self.buffer = np.empty(count * row, np.uint8)
        block_bytes = self.buffer[: count * row]
        self.read_into(start + low * row, block_bytes.data)
        block = block_bytes.view(self.item).reshape(count, *self.shape[axis + 1 :])
        relative = range(0, count, wanted.step) if isinstance(wanted, range) else wanted - low
        picks = [relative, *self.positions[axis + 1 :]]
        block = block[tuple(slice(p.start, p.stop, p.step) if isinstance(p, range) else slice(None) for p in picks)]
        for number, pick in enumerate(picks):
            if not isinstance(pick, range):
                block = block.take(pick, number)
        out = self.target[at : at + len(wanted) * self.box_rows[axis]].view(self.item)
        out.reshape(len(wanted), *self.box_shape[axis + 1 :])[...] = block


def _row_sizes(shape: tuple[int, ...], itemsize: int) -> list[int]:
    """Bytes of one step along each axis in C order."""
    sizes = [itemsize] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        sizes[axis - 1] = sizes[axis] * shape[axis]
    return sizes


def _plan(index: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[list[Positions], tuple[Any, ...]]:
    """The positions needed along each axis, and the index to apply to the box of these positions."""
    plain = _plan_plain(index if isinstance(index, tuple) else (index,), shape)
    if plain is not None:
        return plain
    items = [_read_item(item, dtype) for item in (index if isinstance(index, tuple) else (index,))]
    hidden = len(shape) - sum(map(_axes_taken, items))  # axes that only an Ellipsis, or nothing, stands for
    if hidden < 0:
        raise IndexError(
            f"too many indices for array: array is {len(shape)}-dimensional, but {len(shape) - hidden} were indexed"
        )
    if sum(item is Ellipsis for item in items) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    _check_masks(items, hidden, shape)  # before any other item, as NumPy does
    positions: list[Positions] = []
    renumbered: list[Any] = []
    arrays: list[tuple[int, int]] = []  # axis and place in `renumbered` of each index array
    paired: list[tuple[int, ...]] = []  # shapes of all that NumPy broadcasts to each other
    for item in items:
        axis = len(positions)
        if item is None:
            renumbered.append(None)
        elif item is Ellipsis:
            positions.extend(map(range, shape[axis : axis + hidden]))
            renumbered.append(Ellipsis)
        elif isinstance(item, slice):
            wanted = range(*item.indices(shape[axis]))
            positions.append(wanted if wanted.step > 0 else wanted[::-1])
            renumbered.append(slice(None) if wanted.step > 0 else slice(None, None, -1))
        elif isinstance(item, bool):  # not an int: it takes no axis, and makes one of length 0 or 1
            renumbered.append(item)
            paired.append((int(item),))
        elif isinstance(item, int):
            position = _in_bounds(item, axis, shape[axis])
            positions.append(range(position, position + 1))
            renumbered.append(0)
            paired.append(())
        else:
            for array in item.nonzero() if item.dtype == np.bool_ else (item,):
                arrays.append((len(positions), len(renumbered)))
                positions.append(range(0))
                renumbered.append(array)
                paired.append(array.shape)
    positions.extend(map(range, shape[len(positions) :]))
    # NumPy does not look at the values of index arrays that broadcast to nothing.
    if arrays and 0 not in _broadcast(paired):
        for axis, place in arrays:
            positions[axis], renumbered[place] = _renumber(renumbered[place], axis, shape[axis])
        if len(paired) == 1 and renumbered[place].ndim == 1 and _rises(renumbered[place]):
            renumbered[place] = slice(None)  # the box is the result: no second copy of it
    return positions, tuple(renumbered)


def _plan_plain(items: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[list[Positions], tuple[Any, ...]] | None:
    """The plan of rising slices and integers, one for each of the first axes, in a fifth of the time; None for all else."""
    if len(items) > len(shape) or not _PLAIN.issuperset(map(type, items)):
        return None
    positions: list[Positions] = []
    renumbered: list[Any] = []
    for axis, item in enumerate(items):
        if isinstance(item, slice):
            wanted = range(*item.indices(shape[axis]))
            if wanted.step < 0:
                return None
            positions.append(wanted)
            renumbered.append(slice(None))
        else:
            position = _in_bounds(item, axis, shape[axis])
            positions.append(range(position, position + 1))
            renumbered.append(0)
    positions.extend(map(range, shape[len(items) :]))
    return positions, tuple(renumbered)


def _read_item(item: Any, dtype: np.dtype[Any]) -> Any:
    """One item of an index as None, Ellipsis, slice, bool, int, or an array of integers or bools."""
    if item is None or item is Ellipsis or isinstance(item, slice | bool | int):
        return item
    if not isinstance(item, np.ndarray | np.bool_ | str | bytes) and hasattr(item, "__index__"):
        return operator.index(item)
    array = np.asarray(item)
    if array.dtype.kind == "U" and dtype.names is not None:
        raise IndexError("a field name cannot select from stored data; load the rows first: array[rows][name]")
    if array.size == 0 and not isinstance(item, np.ndarray) and array.ndim:
        return array.astype(np.intp)  # an empty list has no dtype of its own
    if array.dtype.kind not in "biu":
        if isinstance(item, np.ndarray):
            raise IndexError("arrays used as indices must be of integer (or boolean) type")
        raise IndexError(_NOT_AN_INDEX)
    return array if array.ndim else array.item()


def _axes_taken(item: Any) -> int:
    if isinstance(item, np.ndarray):
        return item.ndim if item.dtype == np.bool_ else 1
    return 0 if item is None or item is Ellipsis or isinstance(item, bool) else 1


def _in_bounds(position: int, axis: int, length: int) -> int:
    if not -length <= position < length:
        raise IndexError(f"index {position} is out of bounds for axis {axis} with size {length}")
    return position + length if position < 0 else position


def _check_masks(items: list[Any], hidden: int, shape: tuple[int, ...]) -> None:
    axis = 0
    for item in items:
        if isinstance(item, np.ndarray) and item.dtype == np.bool_:
            for number, (length, mask_length) in enumerate(zip(shape[axis:], item.shape, strict=False), axis):
                if mask_length not in (0, length):  # NumPy lets a mask of length 0 pass for any axis
                    raise IndexError(
                        f"boolean index did not match indexed array along axis {number}; size of axis is {length} "
                        f"but size of corresponding boolean axis is {mask_length}"
                    )
        axis += hidden if item is Ellipsis else _axes_taken(item)


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        words = " ".join(str(shape).replace(" ", "") for shape in shapes if shape)
        raise IndexError(
            f"shape mismatch: indexing arrays could not be broadcast together with shapes {words}"
        ) from None


def _renumber(array: NDArray[Any], axis: int, length: int) -> tuple[Positions, NDArray[np.intp]]:
    """The sorted positions that an index array names, and for each of its items the place among them."""
    low, high = int(array.min()), int(array.max())
    _in_bounds(low, axis, length)
    _in_bounds(high, axis, length)
    array = array.astype(np.intp, copy=False)
    if low < 0:
        array = np.where(array < 0, array + length, array)
    distinct = array if array.ndim == 1 and _rises(array) else np.unique(array)
    first, last = int(distinct[0]), int(distinct[-1])
    if last - first == len(distinct) - 1:
        return range(first, last + 1), array - first
    return distinct, np.searchsorted(distinct, array)


def _rises(array: NDArray[Any]) -> bool:
    """Whether each item is larger than the one before."""
    return bool((array[1:] > array[:-1]).all())
