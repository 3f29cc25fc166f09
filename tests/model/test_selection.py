"""A selection equals NumPy's indexing exactly, and reads only what it needs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kacas.errors import UnsupportedDataError
from kacas.model import selection
from kacas.model.selection import read_selection

Array = np.ndarray[Any, Any]

DTYPES = [
    "i2", ">i4", "f8", "?", "c16", "S3", "U2", "V5", "M8[25us]", ">m8[s]", "S0", "V0",
    [("a", "i2"), ("b", ">f8", (2,))],
    {"names": ["a"], "formats": ["f4"], "offsets": [1], "itemsize": 7},
]  # fmt: skip


class Bytes:
    """An array's data bytes, and which of them were read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[int, int]] = []

    def read_into(self, start: int, out: memoryview) -> None:
        assert start >= 0
        assert 0 < len(out) <= len(self.data) - start
        assert out.format == "B"
        assert not out.readonly
        out[:] = self.data[start : start + len(out)]
        self.reads.append((start, start + len(out)))

    @property
    def size(self) -> int:
        return sum(stop - start for start, stop in self.reads)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.just(()) | hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7))
    count = math.prod(shape)
    size = count * dtype.itemsize
    data = np.arange(size).astype("u1").tobytes()
    if dtype.kind == "U":
        data = np.arange(count * 2).astype("u4").tobytes()
    if dtype.kind == "b":
        data = (np.arange(count) % 3 == 0).tobytes()
    return np.ndarray(shape, dtype, buffer=bytearray(data), order=draw(st.sampled_from("CF")))


@st.composite
def slices_of(draw: st.DrawFn, length: int) -> slice:
    bound = st.none() | st.integers(-length - 2, length + 2)
    return slice(draw(bound), draw(bound), draw(st.none() | st.integers(-4, 4).filter(bool)))


@st.composite
def integers_of(draw: st.DrawFn, length: int, shape: tuple[int, ...]) -> Any:
    values = st.integers(-length, length - 1) if length else st.just(0)
    array = draw(hnp.arrays(draw(st.sampled_from(["i8", "i4", "i2"])), shape, elements=values))
    if length and draw(st.booleans()):
        array = np.abs(array) % length
        array = array.astype(draw(st.sampled_from(["u1", ">u8"])))
    if array.ndim == 1 and draw(st.booleans()):
        array = np.sort(array)
    return array.tolist() if draw(st.booleans()) else array


@st.composite
def mixed_indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Any legal mix of everything that can be in an index."""
    common = draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=4))
    items: list[Any] = []
    axis = 0
    has_ellipsis = False
    while len(items) < 9 and (axis < len(shape) or draw(st.integers(0, 3)) == 0):
        kinds = ["none", "bool"] + ([] if has_ellipsis else ["ellipsis"])
        if axis < len(shape):
            kinds += ["slice", "slice", "ints", "mask", "full", "stop"] + (["int"] if shape[axis] else [])
        kind = draw(st.sampled_from(kinds))
        length = shape[axis] if axis < len(shape) else 0
        if kind == "stop":
            break
        if kind == "none":
            items.append(None)
            continue
        if kind == "bool":
            items.append(draw(st.sampled_from([True, False, np.True_, np.array(False)])))
            continue
        if kind == "ellipsis":
            items.append(...)
            has_ellipsis = True
            axis = draw(st.integers(axis, len(shape)))
            # The axes after the ellipsis are the last ones: those before may be fewer than chosen here.
            continue
        if kind == "mask":
            ndim = draw(st.integers(1, len(shape) - axis))
            items.append(draw(hnp.arrays(bool, shape[axis : axis + ndim])))
            axis += ndim
            continue
        if kind == "int":
            number = draw(st.integers(-length, length - 1))
            items.append(draw(st.sampled_from([int, np.int16, np.array]))(number))
        elif kind == "slice":
            items.append(draw(slices_of(length)))
        elif kind == "full":
            items.append(slice(None))
        else:
            items.append(draw(integers_of(length, draw(hnp.broadcastable_shapes(common, max_dims=2, max_side=4)))))
        axis += 1
    return tuple(items) if len(items) != 1 or draw(st.booleans()) else items[0]


def indices(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    kinds: list[st.SearchStrategy[Any]] = [
        hnp.basic_indices(shape, allow_newaxis=True),
        mixed_indices(shape),
        mixed_indices(shape),
        hnp.arrays(bool, shape),
    ]
    if shape and math.prod(shape):
        kinds.append(hnp.integer_array_indices(shape))
    return st.one_of(kinds)


def order_of(array: Array) -> bool:
    return not array.flags.c_contiguous


def stored(array: Array) -> Bytes:
    return Bytes(array.tobytes("F" if order_of(array) else "C"))


def select(array: Array, index: Any, data: Bytes | None = None, **options: Any) -> Any:
    data = data or stored(array)
    return read_selection(index, array.shape, array.dtype, order_of(array), data.read_into, **options)


def assert_same(result: Any, expected: Any) -> None:
    assert type(result) is type(expected)
    assert result.shape == expected.shape
    if not result.dtype.itemsize:
        return  # NumPy makes S1 of some copies of S0, with whatever was in memory
    assert result.dtype == expected.dtype
    assert result.dtype.str == expected.dtype.str
    if result.dtype.names == ("a",):  # and copies whatever was in memory as padding
        assert repr(result.tolist()) == repr(expected.tolist())
    else:
        assert result.tobytes() == expected.tobytes()


@settings(max_examples=600, deadline=None)
@given(data=st.data(), array=arrays(), chunk_size=st.sampled_from([1, 8, 24, 100, 256 * 1024]))
def test_a_selection_equals_numpy(data: st.DataObject, array: Array, chunk_size: int) -> None:
    index = data.draw(indices(array.shape))
    try:
        expected = array[index]
    except IndexError as exc:
        with pytest.raises(IndexError) as caught:
            select(array, index, chunk_size=chunk_size)
        assert str(caught.value).strip() == str(exc).strip()
        return
    assert_same(select(array, index, chunk_size=chunk_size), expected)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), array=arrays())
def test_integers_slices_and_bools_alone_equal_numpy(data: st.DataObject, array: Array) -> None:
    """Most of them have a short way."""
    axes = array.shape[: data.draw(st.integers(0, array.ndim))]
    items = [data.draw(slices_of(size) | st.integers(-size - 1, size) | st.booleans()) for size in axes]
    index = items[0] if len(items) == 1 else tuple(items)
    try:
        expected = array[index]
    except IndexError as exc:
        with pytest.raises(IndexError) as caught:
            select(array, index)
        assert str(caught.value).strip() == str(exc).strip()
    else:
        assert_same(select(array, index), expected)


@settings(deadline=None)
@given(data=st.data(), array=arrays(), chunk_size=st.sampled_from([1, 8, 24]), block=st.sampled_from([1, 16, 70]))
def test_blocks_of_any_size_give_the_same(data: st.DataObject, array: Array, chunk_size: int, block: int) -> None:
    index = data.draw(hnp.basic_indices(array.shape) | mixed_indices(array.shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "BLOCK_SIZE", block)
        try:
            expected = array[index]
        except IndexError:
            return
        assert_same(select(array, index, chunk_size=chunk_size), expected)


def test_the_result_is_writable_and_no_small_view_of_something_large() -> None:
    array = np.arange(10_000).reshape(100, 100)
    for index in [
        slice(3, 5),
        (slice(None, None, 50), 3),
        [1, 2],
        (slice(None), [7]),
        (3, ...),
        np.arange(100) < 2,
    ]:
        result = select(array, index)
        assert result.flags.writeable
        base = result if result.base is None else result.base
        assert base.nbytes <= 2 * result.nbytes


def test_padding_is_read_as_it_is_and_not_as_memory_happens_to_be() -> None:
    dtype = np.dtype({"names": ["a"], "formats": ["f4"], "offsets": [1], "itemsize": 7})
    array = np.frombuffer(bytes(range(70)), dtype)
    for index in ([3, 1, 1], slice(None, None, -3), array["a"] > 0):
        assert select(array, index).view("V7").tobytes() == array.view("V7")[index].tobytes()


def test_an_item_of_records_is_a_record() -> None:
    array = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")])
    result = select(array, 1)
    assert type(result) is np.void
    assert result == array[1]
    assert type(select(array, (..., 1))) is np.ndarray


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_empty_arrays_are_not_read(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape)
    data = stored(array)
    assert select(array, ..., data).shape == shape
    assert select(array, slice(0, 0), data).shape == (0, *shape[1:])
    assert data.reads == []


def test_items_of_no_bytes_are_not_read() -> None:
    def refuse(start: int, out: memoryview) -> None:
        raise AssertionError

    for name in ("S0", "U0", "V0"):
        assert read_selection(slice(1, 3), (5,), np.dtype(name), False, refuse).shape == (2,)  # type: ignore[union-attr]
        assert read_selection(slice(1, 3), (5,), np.dtype(name), False, refuse).dtype.itemsize == 0


class Huge:
    """Data too large to hold: byte i is i % 251. Counts what is read."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def read_into(self, start: int, out: memoryview) -> None:
        out[:] = (np.arange(start, start + len(out)) % 251).astype(np.uint8).data
        self.reads.append((start, start + len(out)))

    @property
    def size(self) -> int:
        return sum(stop - start for start, stop in self.reads)


def test_rows_are_read_exactly() -> None:
    data = Huge()
    read_selection(slice(10, 20), (1_000_000, 128), np.dtype("i2"), False, data.read_into)
    assert data.reads == [(10 * 256, 20 * 256)]
    data = Huge()
    read_selection((slice(10, 20), 3, 5), (1000, 8, 16), np.dtype("i2"), True, data.read_into)
    assert data.reads == [((5 * 8 + 3) * 2000 + 20, (5 * 8 + 3) * 2000 + 40)]


def test_one_item_is_read_exactly() -> None:
    data = Huge()
    read_selection((999_999, 5), (1_000_000, 128), np.dtype("i2"), False, data.read_into)
    assert data.reads == [(999_999 * 256 + 10, 999_999 * 256 + 12)]


def test_far_rows_are_read_alone() -> None:
    data = Huge()
    result = read_selection(slice(None, None, 100_000), (1_000_000, 128), np.dtype("i2"), False, data.read_into)
    assert result.shape == (10, 128)
    assert data.reads == [(row * 256, (row + 1) * 256) for row in range(0, 1_000_000, 100_000)]
    data = Huge()
    read_selection([0, 1, 700_000, 700_003], (1_000_000, 128), np.dtype("i2"), False, data.read_into)
    assert data.reads == [(0, 512), (700_000 * 256, 700_004 * 256)]


def test_a_column_of_long_rows_does_not_read_the_rows() -> None:
    data = Huge()
    result = read_selection((slice(None), 5), (4, 10_000_000), np.dtype("i2"), False, data.read_into)
    assert result.shape == (4,)
    assert data.size == 8
    data = Huge()
    read_selection((slice(None), slice(5, 10_000_000, 500_000)), (4, 10_000_000), np.dtype("i2"), False, data.read_into)
    assert data.size == 4 * 20 * 2


def test_a_giant_axis_costs_nothing() -> None:
    data = Huge()
    shape = (2**40, 2**10)
    result = read_selection((slice(None, None, -(2**36)), slice(3, 5)), shape, np.dtype("u1"), False, data.read_into)
    assert result.shape == (16, 2)
    assert data.size == 32
    assert read_selection((2**40 - 1, 2), shape, np.dtype("u1"), True, data.read_into) == (3 * 2**40 - 1) % 251


def test_a_column_of_short_rows_is_read_in_bounded_blocks() -> None:
    data = Huge()
    result = read_selection((slice(None), 5), (1_000_000, 32), np.dtype("u1"), False, data.read_into)
    assert np.array_equal(result, (np.arange(1_000_000) * 32 + 5) % 251)
    assert max(stop - start for start, stop in data.reads) <= selection.BLOCK_SIZE
    assert len(data.reads) == 4


def test_a_mask_over_rows_makes_no_second_copy() -> None:
    array = np.arange(1000).reshape(100, 10)
    result = select(array, np.arange(100) % 3 == 0)
    assert result.base is None or result.base.nbytes == result.nbytes
    assert np.array_equal(result, array[::3])


BAD = [
    5, -5, (0, 3), (0, 0, 0), (..., ...), 1.0, "a", b"a", ("a", 0), [1.5], ["a"], {}, object(), 1j,
    [[0], [1, 2]], (slice(0), [9]), ([9], np.zeros((0, 1), int)),
    [4], [[-5]], ([0, 1], [0, 1, 2]), np.zeros(3), np.zeros(0), np.zeros((4, 2), bool), np.zeros((5,), bool), np.zeros((0,), bool),
    np.zeros((4, 3, 1), bool), slice("a"), slice(None, None, 0), slice(1.0), np.array([2**63], "u8"), 2**70,
    (slice(None, None, 0), "a"), (9, np.zeros(4, bool)),
    (True, [9, 9]), (False, 9), ([], 9), (0, [], [9]), np.array(1.0), np.array("a"),
]  # fmt: skip


@pytest.mark.parametrize("index", BAD, ids=repr)
def test_a_wrong_index_is_wrong_as_in_numpy(index: Any) -> None:
    array = np.zeros((4, 3))
    data = stored(array)
    try:
        expected = array[index]
    except (IndexError, TypeError, ValueError, DeprecationWarning) as exc:
        kind = IndexError if isinstance(exc, DeprecationWarning) else type(exc)  # NumPy 2.0 and 2.1 only warn
        with pytest.raises(kind) as caught:
            select(array, index, data)
        assert type(caught.value) is kind
        assert data.reads == []  # no data is fetched for nothing
    else:
        assert_same(select(array, index, data), expected)


@pytest.mark.parametrize("index", ["a", ["a", "b"], (0, "a"), np.array(["a"])])
def test_a_field_name_says_to_load_rows_first(index: Any) -> None:
    array = np.zeros(3, [("a", "i4"), ("b", "i4")])
    with pytest.raises(IndexError, match="load the rows first"):
        select(array, index)


def test_python_objects_are_never_made_from_bytes() -> None:
    with pytest.raises(UnsupportedDataError):
        read_selection(0, (3,), np.dtype(object), False, lambda start, out: None)


@settings(deadline=None)
@given(array=arrays(), name=st.sampled_from(["numpy", "list", "index"]))
def test_integers_of_every_kind_select(array: Array, name: str) -> None:
    class Index:
        def __index__(self) -> int:
            return 0

    if array.ndim and array.shape[0]:
        index: Any = {"numpy": np.uint8(0), "list": [0], "index": Index()}[name]
        assert_same(select(array, index), array[index])


def test_of_two_errors_the_one_that_numpy_tells_is_told() -> None:
    array = np.zeros((0, 2, 1, 0), np.int16)
    index = (..., np.array(1), np.array([False]))
    with pytest.raises(IndexError) as expected:
        array[index]
    with pytest.raises(IndexError) as caught:
        select(array, index)
    assert str(caught.value) == str(expected.value)
