"""Decoded chunks that are kept for a while: who reads a part of a chunk often reads the next part soon."""

from __future__ import annotations

import mmap
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable

from kacas.disk.forked import Forked

_MAPPED_FROM = 64 * 1024  # bytes; what is smaller is filled as quickly in memory of the heap


class _Kept:
    """A chunk, and how many threads read it."""

    __slots__ = ("raw", "readers")

    def __init__(self, raw: memoryview) -> None:
        self.raw = raw
        self.readers = 0


class DecodedChunks:
    """Verified chunks by digest, of at most `budget` bytes together, the least recently used dropped first. Thread-safe.

    Buffers of dropped chunks are filled again: fresh memory would cost as much as the decoding. So beside the budget there
    are as many buffers as are being filled at once.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._forget()
        self._forked = Forked(self._forget)  # another thread of the parent may have held the lock, or been at work

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._chunks: OrderedDict[bytes, _Kept] = OrderedDict()
        self._spare: list[memoryview] = []
        self.size = 0  # bytes of all chunks here

    def use(self, digest: bytes, size: int, use: Callable[[memoryview], None]) -> bool:
        """Call `use` with the chunk, which must not be touched when it has returned. False if it is not here, or has another
        size than is said."""
        self._forked.check()
        with self._lock:
            kept = self._chunks.get(digest)
            if kept is None or len(kept.raw) != size:
                return False
            self._chunks.move_to_end(digest)
            kept.readers += 1
        try:
            use(kept.raw)
        finally:
            with self._lock:
                kept.readers -= 1
        return True

    def buffer(self, size: int) -> memoryview:
        """A buffer of exactly that size for a chunk, which belongs to the caller until it is kept."""
        if size <= self.budget:
            with self._lock:
                while self._spare or (self._chunks and self.size + size > self.budget):
                    if not self._spare:
                        self._drop()
                    elif len(found := self._spare.pop()) == size:
                        return found
        return _fresh(size)

    def keep(self, digest: bytes, raw: memoryview) -> None:
        """Take a verified chunk in its buffer, which the caller must not touch any more."""
        with self._lock:
            if len(raw) > self.budget:
                return
            if digest in self._chunks:  # another thread was quicker
                self._spare.append(raw)
                return
            while self._chunks and self.size + len(raw) > self.budget:
                self._drop()
            self._chunks[digest] = _Kept(raw)
            self.size += len(raw)

    def _drop(self) -> None:
        _, kept = self._chunks.popitem(last=False)
        self.size -= len(kept.raw)
        if not self._chunks:
            self.size = 0  # Ctrl-C may have come between the two lines above
        if not kept.readers:  # else it goes with the last of them
            self._spare.append(kept.raw)


def _fresh(size: int) -> memoryview:
    """Memory whose pages are taken in one call: one by one, as they are filled, those of 256 KiB would cost up to twice as much."""
    if sys.platform == "linux" and size >= _MAPPED_FROM:
        try:
            return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE))
        except OSError:
            pass  # no room for another map: the heap may have some, and else says so
    return memoryview(bytearray(size))
