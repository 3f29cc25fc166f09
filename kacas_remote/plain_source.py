"""A plain object as a source: read front to back by ranges, several in flight, in bounded memory."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from kacas.model.codec import MIB
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobChangedError

_PART_SIZE = 4 * MIB
_IN_FLIGHT = 8


class PlainSource:
    """See Source. Its threads end with the last byte, or with it."""

    def __init__(self, blobs: BlobStore, key: str, size: int) -> None:
        """size: of the object, as it was looked at."""
        self.size = size
        self._blobs = blobs
        self._key = key
        self._next = 0
        self._part = memoryview(b"")
        self._pool = ThreadPoolExecutor(_IN_FLIGHT, "kacas-plain")
        self._flying: deque[tuple[int, Future[memoryview]]] = deque()

    def readinto(self, buffer: memoryview) -> int:
        """See Source. Raises BlobChangedError if the object is shorter than it was said to be."""
        if not self._part:
            self._part = self._taken()
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        return count

    def _taken(self) -> memoryview:
        while len(self._flying) < _IN_FLIGHT and self._next < self.size:
            stop = min(self._next + _PART_SIZE, self.size)
            self._flying.append((stop - self._next, self._pool.submit(self._read, self._next, stop)))
            self._next = stop
        if not self._flying:
            self._pool.shutdown(wait=False)
            return memoryview(b"")
        size, reading = self._flying.popleft()
        data = reading.result()
        if len(data) != size:
            raise BlobChangedError(
                f"{self._blobs.name}: {self._key} ended early: it was cut short, or replaced", path=self._key
            )
        return data

    def _read(self, start: int, stop: int) -> memoryview:
        return self._blobs.get_ranges(self._key, [(start, stop)])[0]

    def check_unchanged(self) -> None:
        """See Source: the SHA-1 tells."""
