"""The threads that hash and encode blocks: in order, as many as may work, and never for ever."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.block_workers import BlockWorkers
from kacas.model.manifest import Child


def child(data: memoryview, ends: Sequence[int]) -> list[Child]:
    return [Child(bytes(data[start:stop]), stop - start) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]


def give(workers: BlockWorkers, data: bytes) -> None:
    view = memoryview(data)
    workers.give(bytearray(), view, view, [len(data)])


@settings(max_examples=50, deadline=None)
@given(blocks=st.lists(st.binary(min_size=1, max_size=20), max_size=12), threads=st.integers(1, 4))
def test_blocks_are_hashed_and_landed_in_the_order_in_which_they_were_given(blocks: list[bytes], threads: int) -> None:
    sha1, landed = hashlib.sha1(), []
    with BlockWorkers(threads, sha1.update, child) as workers:
        for block in blocks:
            give(workers, block)
        assert workers.flying == len(blocks)
        while workers.flying:
            landed += [found.digest for found in workers.land().children]
    assert landed == blocks
    assert sha1.digest() == hashlib.sha1(b"".join(blocks)).digest()


def test_hashing_goes_first_and_one_thread_does_both() -> None:
    begun: list[str] = []
    gate = threading.Event()

    def hash_bytes(data: memoryview) -> None:
        gate.wait(10)
        begun.append(f"hash {bytes(data).decode()}")

    def encode(data: memoryview, ends: Sequence[int]) -> list[Child]:
        begun.append(f"encode {bytes(data).decode()}")
        return []

    with BlockWorkers(1, hash_bytes, encode) as workers:
        for block in (b"1", b"2", b"3"):
            give(workers, block)
        gate.set()
        while workers.flying:
            workers.land()
    assert begun == ["hash 1", "hash 2", "hash 3", "encode 1", "encode 2", "encode 3"]


def test_no_more_threads_are_at_work_than_were_asked_for_and_only_one_hashes() -> None:
    lock, working, hashing, most = threading.Lock(), [0], [0], [0, 0]

    def work(counts: list[list[int]]) -> None:
        with lock:
            for count in counts:
                count[0] += 1
            most[:] = max(most[0], working[0]), max(most[1], hashing[0])
        time.sleep(0.001)
        with lock:
            for count in counts:
                count[0] -= 1

    def encode(data: memoryview, ends: Sequence[int]) -> list[Child]:
        work([working])
        return []

    with BlockWorkers(3, lambda _: work([working, hashing]), encode) as workers:
        for _ in range(50):
            give(workers, b"x")
        while workers.flying:
            workers.land()
    assert most == [3, 1]


@pytest.mark.parametrize("part", ["hash", "encode"])
def test_what_goes_wrong_with_any_block_is_raised_and_the_threads_end(part: str) -> None:
    def fail(*_: object) -> list[Child]:
        raise OSError("the disk is gone")

    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):  # noqa: PT012, SIM117
        with BlockWorkers(
            2, fail if part == "hash" else lambda _: None, fail if part == "encode" else child
        ) as workers:
            for _ in range(5):
                give(workers, b"x")
            while workers.flying:
                workers.land()
    assert threading.active_count() == before


def test_leaving_by_an_exception_waits_for_what_was_begun_and_drops_the_rest() -> None:
    begun, done = [], []

    def encode(data: memoryview, ends: Sequence[int]) -> list[Child]:
        begun.append(1)
        time.sleep(0.05)
        done.append(1)
        return []

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with BlockWorkers(2, lambda _: None, encode) as workers:
            for _ in range(100):
                give(workers, b"x")
            while not begun:
                time.sleep(0.001)
            raise KeyboardInterrupt
    assert len(begun) == len(done) < 100


def test_a_process_ends_although_ctrl_c_came_before_the_block() -> None:
    code = """
from kacas.block_workers import BlockWorkers
workers = BlockWorkers(2, lambda data: None, lambda data, ends: [])
workers.__enter__()
raise KeyboardInterrupt
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False)
    assert b"KeyboardInterrupt" in ended.stderr
