"""Decoded chunks that are kept for a while: who reads a part of a chunk often reads the next part soon."""

from __future__ import annotations

import threading
from collections import OrderedDict

from kacas.disk.forked import Forked
from kacas.model.location import Piece


class DecodedChunks:
    """Verified chunks by digest, of at most `budget` bytes together, the least recently used dropped first. Thread-safe.

    Buffers of dropped chunks are filled again: fresh memory would cost as much as the decoding.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._forget()
        self._forked = Forked(self._forget)  # another thread of the parent may have held the lock, or been at work

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._chunks: OrderedDict[bytes, bytearray] = OrderedDict()
        self.size = 0  # bytes of all buffers here

    def copy(self, piece: Piece) -> bool:
        """Fill the piece from here. False if its chunk is not here."""
        self._forked.check()
        with self._lock:
            chunk = self._chunks.get(piece.digest)
            if chunk is None:
                return False
            self._chunks.move_to_end(piece.digest)
            # Under the lock: as soon as the chunk is dropped its buffer may be filled with another.
            copy_part(chunk, piece)
            return True

    def buffer(self, size: int) -> bytearray:
        """A buffer of exactly that size for a chunk, which belongs to the caller until it is kept."""
        if size > self.budget:
            return bytearray(size)
        found: bytearray | None = None
        with self._lock:
            while found is None and self.size + size > self.budget:
                dropped = self._drop()
                found = dropped if len(dropped) == size else None
        return bytearray(size) if found is None else found

    def keep(self, digest: bytes, chunk: bytearray) -> None:
        """Take a verified chunk, which the caller must not touch any more."""
        with self._lock:
            if len(chunk) > self.budget or digest in self._chunks:
                return
            while self.size + len(chunk) > self.budget:
                self._drop()
            self._chunks[digest] = chunk
            self.size += len(chunk)

    def _drop(self) -> bytearray:
        _, chunk = self._chunks.popitem(last=False)
        self.size -= len(chunk)
        return chunk


def copy_part(chunk: bytearray, piece: Piece) -> None:
    """Fill a piece from its whole chunk."""
    piece.out[:] = memoryview(chunk)[piece.skip : piece.skip + len(piece.out)]
