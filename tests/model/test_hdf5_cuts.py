"""Where HDF5 files are cut, whatever their outline says."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.model.content_cuts import ContentCutter
from kacas.model.cuts import CHUNK_TARGET, Cutter, array_cutter
from kacas.model.hdf5_cuts import (
    MIN_RUN,
    SIGNATURE,
    Extents,
    Hdf5Cutter,
    Order,
    Spans,
    is_in_order,
    mixed,
    order_of,
    places,
    signature_at,
    spans_of,
)

MIB = 1 << 20
DATA = random.Random(7).randbytes(3 * MIB)
GROUPED = Order()


def ends_of(cutter: Cutter, data: bytes, feed: list[int]) -> list[int]:
    """All ends, where the data comes in parts of these sizes, again and again, and what is not cut is offered again."""
    ends, start, stop, turn = [], 0, 0, 0
    while stop < len(data) or not ends or ends[-1] < len(data):
        stop = min(len(data), max(stop, start) + feed[turn % len(feed)])
        turn += 1
        found = cutter.cut(memoryview(data)[start:stop], stop == len(data))
        ends += [start + end for end in found]
        start = ends[-1] if ends else 0
        if not data:
            break
    return ends


def cut(spans: Spans, data: bytes = DATA, feed: list[int] | None = None) -> list[int]:
    return ends_of(Hdf5Cutter(spans, ContentCutter()), data, feed or [4 * MIB])


def extents(*rows: tuple[int, int, int, int]) -> Extents:
    return np.array(rows, np.int64).reshape(-1, 4)


def orders(*of: Order) -> np.ndarray:
    return np.array(of, np.int64)


def chunks(start: int, count: int, size: int, dataset: int = 0) -> Extents:
    """So many chunks one behind the other, with one coordinate each."""
    numbers = np.arange(count)
    starts = start + numbers * size
    return np.column_stack([starts, starts + size, np.full(count, dataset), mixed(numbers[:, np.newaxis])])


place = st.integers(-(1 << 62), 1 << 62) | st.integers(-10, 3 * MIB + 10)
rows = st.lists(st.tuples(place, place, st.integers(-1, 3), st.integers(-1, 1 << 32)), max_size=40)


@given(
    rows=rows,
    steps=st.lists(
        st.sampled_from([GROUPED, order_of((100, 1000), 4), order_of((5, 3, 400_000), 2), order_of((3,), 3 * MIB)]),
        min_size=3,
        max_size=3,
    ),
    feed=st.lists(st.integers(MIB, 4 * MIB), min_size=1, max_size=5),
)
def test_whatever_the_outline_says_all_bytes_are_cut_in_order_and_no_chunk_is_too_large(
    rows: list[tuple[int, int, int, int]], steps: list[Order], feed: list[int]
) -> None:
    spans = spans_of(extents(*rows), orders(*steps), len(DATA))
    ends = cut(spans, feed=feed)
    assert ends == sorted(set(ends))
    assert ends[-1] == len(DATA)
    assert max(np.diff([0, *ends])) <= MIB
    assert ends == cut(spans), "cuts depend on the parts that the data comes in"


@given(starts=st.lists(st.integers(0, 2 * MIB), min_size=1, max_size=8), sizes=st.randoms(use_true_random=False))
def test_cuts_are_where_large_chunks_begin_and_end(starts: list[int], sizes: random.Random) -> None:
    starts = sorted({start // MIN_RUN * MIN_RUN for start in starts})
    found = [(start, start + sizes.randint(MIN_RUN, MIN_RUN), 0, 0) for start in starts]
    spans = spans_of(extents(*found), orders(GROUPED), len(DATA))
    ends = {0, *cut(spans)}
    for start, stop, _, _ in found:
        neighbour_joins = any(other[0] == stop for other in found) or any(other[1] == start for other in found)
        assert neighbour_joins or {start, stop} <= ends


@pytest.mark.parametrize("size", [CHUNK_TARGET, CHUNK_TARGET + 1, MIB])
def test_a_chunk_from_256_kib_to_1_mib_is_one_chunk_of_ours(size: int) -> None:
    spans = spans_of(chunks(1000, 2, size), orders(GROUPED), len(DATA))
    assert {1000, 1000 + size, 1000 + 2 * size} <= set(cut(spans))
    assert not [end for end in cut(spans) if 1000 < end < 1000 + 2 * size and end != 1000 + size]


def test_a_chunk_from_256_kib_on_is_never_joined_to_small_ones_before_it() -> None:
    small = chunks(0, 40, 2_000)
    large = extents((80_000, 80_000 + CHUNK_TARGET, 0, 0))
    assert 80_000 in cut(spans_of(np.concatenate([small, large]), orders(GROUPED), len(DATA)))


@given(skipped=st.integers(0, 5_000))
def test_a_part_of_an_array_is_cut_where_the_whole_is(skipped: int) -> None:
    shape, item_size = (12_000, 50), 2
    begin = skipped * 100
    extent = extents((0, 12_000 * 100 - begin, 0, begin))
    spans = spans_of(extent, orders(order_of(shape, item_size)), 12_000 * 100 - begin)
    whole = ends_of(array_cutter(shape, item_size), DATA[: 12_000 * 100], [4 * MIB])
    assert cut(spans, DATA[begin : 12_000 * 100]) == [end - begin for end in whole if end > begin]


def test_a_larger_chunk_is_cut_in_equal_parts_from_its_start() -> None:
    spans = spans_of(extents((777, 777 + MIB + 5, 0, 0)), orders(GROUPED), len(DATA))
    inside = [end for end in cut(spans) if 777 <= end <= 777 + MIB + 5]
    assert inside == [777, *(777 + part * CHUNK_TARGET for part in range(1, 5)), 777 + MIB + 5]


def test_small_chunks_are_joined_to_256_kib_on_average_and_never_above_1_mib() -> None:
    for size in (100, 3_000, 40_000):
        count = 64 * MIB // size
        spans = spans_of(chunks(0, count, size), orders(GROUPED), count * size)
        lengths = spans[:, 1] - spans[:, 0]
        assert lengths.sum() == count * size
        assert 150_000 < lengths.mean() < 400_000
        assert lengths.max() <= MIB


def test_which_chunks_are_joined_depends_neither_on_their_place_nor_on_later_chunks() -> None:
    def groups(spans: Spans, first: int) -> set[tuple[int, int]]:
        return {(int(start) - first, int(stop) - first) for start, stop in spans[:, :2]}

    before = groups(spans_of(chunks(0, 4000, 5000), orders(GROUPED), 1 << 30), 0)
    moved = groups(spans_of(chunks(12_345, 5000, 5000), orders(GROUPED), 1 << 30), 12_345)
    assert len(before - moved) <= 1, "only the last group may have grown"


def test_metadata_between_chunks_costs_only_the_group_around_it() -> None:
    whole = spans_of(chunks(0, 4000, 5000), orders(GROUPED), 1 << 30)
    torn = chunks(0, 4000, 5000)
    torn[2000:, :2] += 2048
    split = spans_of(torn, orders(GROUPED), 1 << 30)
    split[split[:, 0] > 2000 * 5000, :2] -= 2048
    kept = {tuple(span) for span in whole[:, :2].tolist()} & {tuple(span) for span in split[:, :2].tolist()}
    assert len(kept) >= len(whole) - 1
    assert len(split) <= len(whole) + 1


def test_small_runs_that_lie_alone_are_cut_by_content() -> None:
    alone = extents((5000, 5000 + MIN_RUN - 1, 0, 0), (MIB, MIB + 100, 1, 0))
    assert not len(spans_of(alone, orders(GROUPED, GROUPED), len(DATA)))
    assert cut(np.empty((0, 5), np.int64)) == ends_of(ContentCutter(), DATA, [4 * MIB])


@given(columns=st.integers(1, 3000), item_size=st.sampled_from([1, 2, 8]), offset=st.integers(0, MIB))
def test_contiguous_data_is_cut_like_the_array(columns: int, item_size: int, offset: int) -> None:
    length = (2 * MIB) // (columns * item_size)
    size = length * columns * item_size
    shape = (length, columns)
    spans = spans_of(extents((offset, offset + size, 0, 0)), orders(order_of(shape, item_size)), len(DATA))
    inside = [end - offset for end in cut(spans) if offset < end <= offset + size]
    assert inside == ends_of(array_cutter(shape, item_size), DATA[offset : offset + size], [4 * MIB])


def test_chunks_of_whole_rows_are_joined_and_cut_like_the_array() -> None:
    shape, rows_each, item_size = (9000, 100), 70, 2
    numbers = np.arange(0, 9000, rows_each)
    at = places(shape, item_size, np.column_stack([numbers, np.zeros_like(numbers)]))
    size = rows_each * 200
    starts = 4000 + np.arange(len(numbers)) * size
    found = np.column_stack([starts, starts + size, np.zeros_like(numbers), at])
    spans = spans_of(found, orders(order_of(shape, item_size)), len(DATA))
    ours = {end - 4000 for end in cut(spans) if end > 4000}
    assert set(ends_of(array_cutter(shape, item_size), DATA[: 9000 * 200], [4 * MIB])[:-1]) <= ours


@pytest.mark.parametrize(
    "shape, chunk, most, ordered",
    [
        ((100, 8), (10, 8), (100, 8), True),
        ((100, 8), (1, 8), (100, 8), True),
        ((100, 8), (1, 4), (100, 8), True),
        ((100, 8), (10, 4), (100, 8), False),
        ((100, 8), (10, 16), (100, 8), False),
        ((100,), (7,), (100,), True),
        ((5, 6, 7), (1, 2, 7), (5, 6, 7), True),
        ((5, 6, 7), (2, 2, 7), (5, 6, 7), False),
        ((5, 6, 7), (1, 1, 1), (5, 6, 7), True),
        ((5, 1), (2, 1), (5, 1), True),
        ((100, 8), (10, 8), (-1, 8), True),
        ((100, 8), (10, 8), (-1, -1), True),
        ((100, 8), (1, 4), (-1, 8), True),
        ((100, 8), (1, 4), (100, -1), False),
        ((5, 6, 7), (1, 2, 7), (5, -1, 7), False),
    ],
)
def test_chunks_are_in_order_when_each_is_and_stays_one_range_of_the_array(
    shape: tuple[int, ...], chunk: tuple[int, ...], most: tuple[int, ...], ordered: bool
) -> None:
    assert is_in_order(shape, chunk, most) is ordered


def test_the_signature_is_found_at_the_start_and_behind_a_user_block() -> None:
    for at in (0, 512, 1024, 32768):
        assert signature_at(bytes(at) + SIGNATURE + bytes(100)) == at
    for at in (1, 511, 513, 1536):
        assert signature_at(bytes(at) + SIGNATURE + bytes(5000)) is None
    assert signature_at(b"") is None
    assert signature_at(SIGNATURE[:-1]) is None


@pytest.mark.parametrize(
    "span",
    [(5, 5, 1, 1, 0), (0, 9, 0, 1, 0), (0, 9, 2 * MIB, 2 * MIB, 0), (0, 9, 4, 3, 0), (0, 9, 4, 4, 4), (-1, 9, 4, 4, 0)],
)
def test_spans_that_cannot_be_cut_are_refused(span: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        Hdf5Cutter(np.array([span], np.int64), ContentCutter())
    with pytest.raises(ValueError, match="overlap"):
        Hdf5Cutter(np.array([(0, 9, 9, 9, 0), (8, 12, 4, 4, 0)], np.int64), ContentCutter())
