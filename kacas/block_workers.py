"""Threads that hash and encode the blocks of one content: whoever is free hashes the next block, if nobody does; else encodes.

SHA-1 is one chain of steps, the longest there is, so it goes first and never waits for a processor; when it is far enough
ahead, its thread helps with encoding. There are as many threads as work at once, none in each other's way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple

from kacas.model.manifest import Child

Hash = Callable[[memoryview], None]
Encode = Callable[[memoryview, Sequence[int]], list[Child]]


class _Flight:
    """A block on its way. fresh: the bytes that SHA-1 has not seen; data: those that end at the last of `ends`."""

    def __init__(self, block: bytearray, fresh: memoryview, data: memoryview, ends: Sequence[int]) -> None:
        self.block = block
        self.fresh = fresh
        self.data = data
        self.ends = ends
        self.hashed = False
        self.children: list[Child] | None = None


class Landed(NamedTuple):
    """A block that is hashed and encoded: free again."""

    block: bytearray
    children: list[Child]


class BlockWorkers:
    """`with BlockWorkers(...) as workers:` give blocks, in order; land them, in order. Used by one thread.

    Leaving the block drops what nobody has begun, and waits for what somebody has.
    """

    def __init__(self, threads: int, hash_bytes: Hash, encode: Encode) -> None:
        self._hash = hash_bytes
        self._encode = encode
        self._condition = threading.Condition()
        self._flying: deque[_Flight] = deque()
        self._to_hash: deque[_Flight] = deque()
        self._to_encode: deque[_Flight] = deque()
        self._hashing = self._closed = False
        self._failure: BaseException | None = None
        # Daemons, as Ctrl-C may come just before the `with` block, where nobody would end them: they would wait for ever.
        self._threads = [
            threading.Thread(target=self._work, name=f"kacas-block-{number}", daemon=True) for number in range(threads)
        ]

    def __enter__(self) -> BlockWorkers:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        with self._condition:
            self._closed = True
            self._to_hash.clear()
            self._to_encode.clear()
            self._condition.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    @property
    def flying(self) -> int:
        """Blocks that have not landed."""
        return len(self._flying)

    def give(self, block: bytearray, fresh: memoryview, data: memoryview, ends: Sequence[int]) -> None:
        """Let `fresh` be hashed and the chunks of `data` be encoded; the block must not change until it has landed."""
        flight = _Flight(block, fresh, data, ends)
        with self._condition:
            self._flying.append(flight)
            self._to_hash.append(flight)
            self._to_encode.append(flight)
            self._condition.notify_all()

    def land(self) -> Landed:
        """Wait for the oldest block. Raises what went wrong with any."""
        with self._condition:
            first = self._flying[0]
            while self._failure is None and (not first.hashed or first.children is None):
                self._condition.wait()
            if self._failure is not None:
                raise self._failure
            self._flying.popleft()
        assert first.children is not None
        return Landed(first.block, first.children)

    def _work(self) -> None:
        while True:
            with self._condition:
                while not (self._closed or self._failure or self._next_is_there()):
                    self._condition.wait()
                if self._closed or self._failure:
                    return
                hashing = bool(self._to_hash) and not self._hashing
                flight = (self._to_hash if hashing else self._to_encode).popleft()
                self._hashing |= hashing
            try:
                if hashing:
                    self._hash(flight.fresh)
                else:
                    flight.children = self._encode(flight.data, flight.ends)
            except BaseException as exc:  # noqa: BLE001 - raised in the thread that lands the block
                with self._condition:
                    self._failure = self._failure or exc
                    self._condition.notify_all()
                return
            with self._condition:
                if hashing:
                    self._hashing, flight.hashed = False, True
                self._condition.notify_all()

    def _next_is_there(self) -> bool:
        return bool(self._to_encode or (self._to_hash and not self._hashing))
