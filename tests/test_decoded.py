"""Decoded chunks: bounded, counted, and never another chunk's bytes."""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.decoded import DecodedChunks
from tests.faults.children import limit_memory, run

BUDGET = 1000
sizes = st.sampled_from([1, 100, 300, 400, 1000, 1001])


def digest_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def part(decoded: DecodedChunks, number: int, size: int, skip: int) -> bytes | None:
    found: list[bytes] = []
    there = decoded.use(digest_of(number), size, lambda raw: found.append(bytes(raw[skip:])))
    return found[0] if there else None


@given(st.lists(st.tuples(st.integers(0, 9), sizes)))
def test_it_has_the_chunks_used_last_within_its_budget_and_counts_them_to_the_byte(
    steps: list[tuple[int, int]],
) -> None:
    decoded = DecodedChunks(BUDGET)
    expected: OrderedDict[int, bytes] = OrderedDict()
    for number, size in steps:
        if number in expected:
            whole = expected[number]
            assert part(decoded, number, len(whole), 0) == whole
            expected.move_to_end(number)
            continue
        chunk = decoded.buffer(size)
        assert len(chunk) == size
        chunk[:] = bytes([number + 1]) * size
        decoded.keep(digest_of(number), chunk)
        if size <= BUDGET:
            expected[number] = bytes(chunk)
        while sum(map(len, expected.values())) > BUDGET:
            expected.popitem(last=False)
        assert decoded.size == sum(map(len, expected.values())) <= BUDGET
    for number, whole in expected.items():
        skip = len(whole) // 2
        assert part(decoded, number, len(whole), skip) == whole[skip:]


def test_a_chunk_that_was_not_kept_is_not_there() -> None:
    decoded = DecodedChunks(BUDGET)
    decoded.buffer(100)
    assert part(decoded, 1, 100, 0) is None
    assert decoded.size == 0


def test_a_chunk_of_another_size_than_is_said_is_not_there() -> None:
    decoded = DecodedChunks(BUDGET)
    decoded.keep(digest_of(1), memoryview(bytearray(b"a" * 100)))
    assert part(decoded, 1, 99, 0) is None
    assert part(decoded, 1, 100, 98) == b"aa"


def test_a_count_that_was_interrupted_mends_itself() -> None:
    decoded = DecodedChunks(BUDGET)
    decoded.keep(digest_of(1), memoryview(bytearray(b"a" * 100)))
    decoded.size += 900  # as if Ctrl-C had come where a chunk is dropped
    decoded.keep(digest_of(2), decoded.buffer(200))
    assert decoded.size == 200
    assert len(decoded.buffer(1000)) == 1000


def test_buffers_of_dropped_chunks_are_filled_again_however_many_are_filled_at_once() -> None:
    decoded = DecodedChunks(BUDGET)
    known: dict[int, memoryview] = {}
    for turn in range(20):
        lent = [decoded.buffer(100) for _ in range(3)]
        known.update((id(one.obj), one) for one in lent)
        for number, raw in enumerate(lent):
            decoded.keep(digest_of(3 * turn + number), raw)
    assert len(known) <= BUDGET // 100 + 3


def test_a_chunk_that_is_dropped_while_it_is_used_is_not_filled_with_another() -> None:
    decoded = DecodedChunks(BUDGET)
    decoded.keep(digest_of(0), memoryview(bytearray(b"a" * 500)))

    def use(raw: memoryview) -> None:
        for number in range(1, 9):
            other = decoded.buffer(500)
            other[:] = b"b" * 500
            decoded.keep(digest_of(number), other)
        assert part(decoded, 0, 500, 0) is None
        assert bytes(raw) == b"a" * 500

    assert decoded.use(digest_of(0), 500, use)


def test_in_a_forked_child_it_is_empty_and_its_lock_is_free() -> None:
    decoded = DecodedChunks(BUDGET)
    decoded.keep(digest_of(1), memoryview(bytearray(b"a" * 100)))
    with decoded._lock:  # as another thread would hold it
        child = os.fork()
        if child == 0:
            found = part(decoded, 1, 100, 0) is None and decoded.size == 0
            decoded.keep(digest_of(2), memoryview(bytearray(b"b" * 100)))
            os._exit(0 if found and part(decoded, 2, 100, 98) == b"bb" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert part(decoded, 1, 100, 99) == b"a"


def test_a_large_buffer_is_private_to_a_forked_child() -> None:
    decoded = DecodedChunks(1 << 20)
    raw = decoded.buffer(256 << 10)
    raw[:] = b"a" * len(raw)
    child = os.fork()
    if child == 0:
        raw[:] = b"b" * len(raw)
        os._exit(0)
    os.waitpid(child, 0)
    assert bytes(raw) == b"a" * len(raw)


def test_a_buffer_is_of_the_heap_where_there_is_no_room_for_another_map() -> None:
    size = 100 << 10  # large enough for a map of its own, small enough to be of the heap if it has none

    def without_room() -> int:
        decoded = DecodedChunks(1 << 30)
        blocks = [bytearray(size) for _ in range(30)]
        del blocks[:-1]  # the last one keeps the heap from being given back
        limit_memory(0)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            mmap.mmap(-1, size)
        with pytest.raises(MemoryError):
            decoded.buffer(1 << 30)
        chunk = decoded.buffer(size)
        chunk[:] = bytes([7]) * size
        return sum(chunk)

    assert run(without_room).get() == 7 * size
