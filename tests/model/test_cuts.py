"""Cuts: they cover all, rise, respect rows, and depend on the content alone."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.model.codec import MAX_CHUNK_SIZE
from kacas.model.cuts import CHUNK_TARGET, Cutter, PeriodicCutter, array_cutter

Shape = tuple[int, ...]
Array = tuple[Shape, int, int]  # shape, itemsize, target


@st.composite
def arrays(draw: st.DrawFn, min_ndim: int = 0) -> Array:
    """Targets of every relation to the shape: a chunk holds many rows, part of one, or part of an item."""
    shape = tuple(draw(st.lists(st.integers(0, 9), min_size=min_ndim, max_size=4)))
    itemsize = draw(st.sampled_from([1, 2, 4, 8, 100]))
    least = prod(shape) * itemsize // 300 + 1
    return shape, itemsize, draw(st.integers(least, least * 400))


def all_ends(cutter: Cutter, size: int, blocks: list[int] | None = None) -> list[int]:
    """Offer `size` bytes as a pipeline does: block after block, what is uncut is offered again."""
    data = memoryview(bytes(size))
    ends: list[int] = []
    arrived, start = 0, 0
    for block in [*(blocks or []), size]:
        arrived = min(size, arrived + block)
        final = arrived == size
        found = cutter.cut(data[start:arrived], final)
        assert found == sorted(set(found)), "ends do not rise"
        assert all(0 < end <= arrived - start for end in found)
        ends += [start + end for end in found]
        start = ends[-1] if ends else 0
        if final:
            break
    return ends


def sizes_of(ends: list[int]) -> list[int]:
    return [stop - start for start, stop in zip([0, *ends], ends, strict=False)]


@settings(max_examples=300, deadline=None)
@given(arrays())
def test_the_cuts_of_an_array_rise_cover_all_and_never_exceed_the_target(array: Array) -> None:
    shape, itemsize, target = array
    total = prod(shape) * itemsize
    ends = all_ends(array_cutter(shape, itemsize, target), total)
    assert ends == sorted(set(ends))
    assert (ends[-1] if ends else 0) == total
    assert all(0 < size <= target for size in sizes_of(ends))


@settings(max_examples=300, deadline=None)
@given(arrays(min_ndim=1))
def test_a_row_that_fits_is_never_split(array: Array) -> None:
    """On whichever axis: every slab that fits in the target lies in one chunk, and so does every item."""
    shape, itemsize, target = array
    ends = all_ends(array_cutter(shape, itemsize, target), prod(shape) * itemsize)
    fitting = [size for axis in range(len(shape)) if 0 < (size := itemsize * prod(shape[axis + 1 :])) <= target]
    for row in fitting:
        assert all(end % row == 0 for end in ends), f"a row of {row} bytes is split"


@settings(max_examples=300, deadline=None)
@given(arrays(min_ndim=2))
def test_no_chunk_reaches_into_the_next_slab(array: Array) -> None:
    """Where one index of an axis exceeds the target, its slab begins and ends with a cut."""
    shape, itemsize, target = array
    total = prod(shape) * itemsize
    ends = set(all_ends(array_cutter(shape, itemsize, target), total))
    for axis in range(1, len(shape)):
        slab = itemsize * prod(shape[axis:])
        if slab > target:
            assert set(range(slab, total + 1, slab)) <= ends


@settings(max_examples=300, deadline=None)
@given(st.data(), arrays())
def test_the_cuts_do_not_depend_on_how_the_stream_is_split(data: st.DataObject, array: Array) -> None:
    shape, itemsize, target = array
    total = prod(shape) * itemsize
    blocks = data.draw(st.lists(st.integers(1, max(1, total)), max_size=20))
    whole = all_ends(array_cutter(shape, itemsize, target), total)
    assert all_ends(array_cutter(shape, itemsize, target), total, blocks) == whole


@settings(max_examples=300, deadline=None)
@given(arrays(min_ndim=1), st.integers(1, 12))
def test_an_array_that_grew_along_its_first_axis_keeps_the_cuts_of_what_it_was(array: Array, more: int) -> None:
    shape, itemsize, target = array
    grown = (shape[0] + more, *shape[1:])
    before = all_ends(array_cutter(shape, itemsize, target), prod(shape) * itemsize)
    after = all_ends(array_cutter(grown, itemsize, target), prod(grown) * itemsize)
    # The last chunk of the shorter one may have been cut off by its end.
    assert after[: max(0, len(before) - 1)] == before[:-1]


@pytest.mark.parametrize(
    "shape, itemsize, sizes",
    [
        ((), 8, [8]),
        ((0,), 8, []),
        ((3, 0, 4), 8, []),
        ((1000, 128), 2, [256_000]),
        ((1_000_000,), 2, [CHUNK_TARGET] * 7 + [164_992]),
        ((3000, 100), 4, [648 * 400] * 4 + [163_200]),  # 655 rows would do, 648 are a multiple of 8
        # A row of 400,000 bytes exceeds the target: two equal halves of each.
        ((3, 100_000), 4, [200_000] * 6),
        # 500 frames of 1,000 bytes make a slab; two groups of 250 rather than 262 and 238.
        ((2, 500, 1000), 1, [250_000] * 4),
        # An item larger than the target is cut in pieces that start anew with each item.
        ((2,), 300_000, [CHUNK_TARGET, 300_000 - CHUNK_TARGET] * 2),
    ],
    ids=str,
)
def test_the_cuts_of_known_arrays_are_frozen(shape: Shape, itemsize: int, sizes: list[int]) -> None:
    assert sizes_of(all_ends(array_cutter(shape, itemsize), prod(shape) * itemsize)) == sizes


@settings(deadline=None)
@given(
    st.integers(1, 10**7),
    st.lists(st.integers(0, 10**6), max_size=3).map(tuple),
    st.sampled_from([1, 8, 400_000]),
)
def test_a_mebibyte_of_data_always_gives_a_cut(first: int, rest: Shape, itemsize: int) -> None:
    cutter = array_cutter((first, *rest), itemsize)
    ends = cutter.cut(memoryview(bytes(1 << 20)), False)
    assert ends
    assert max(sizes_of(ends)) <= MAX_CHUNK_SIZE


@pytest.mark.parametrize("itemsize, target", [(0, 100), (-1, 100), (1, 0), (1, -5)])
def test_sizes_that_cannot_cut_are_refused(itemsize: int, target: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        array_cutter((3, 4), itemsize, target)


@pytest.mark.parametrize("step, period", [(0, None), (-1, None), (10, 9), (1, 0)])
def test_a_period_shorter_than_its_step_is_refused(step: int, period: int | None) -> None:
    with pytest.raises(ValueError, match="do not cut"):
        PeriodicCutter(step, period)
