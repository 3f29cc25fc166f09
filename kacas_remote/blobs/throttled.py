"""Throttled: no more bytes in a second than a user grants, up and down together, over all threads of the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.blobs.per_process import PerProcess


class Throttled:
    """What is moved at once goes at the speed of the line, and is waited for afterwards: the limit holds over the parts."""

    def __init__(self, inner: BlobStore, limit_bytes_s: float) -> None:
        if not limit_bytes_s > 0:
            raise ValueError(f"a limit of {limit_bytes_s} bytes per second lets nothing through")
        self._inner, self._limit_bytes_s = inner, limit_bytes_s
        self._turn = PerProcess(lambda: _Turn(limit_bytes_s))

    def __reduce__(self) -> tuple[Callable[[BlobStore, float], Throttled], tuple[BlobStore, float]]:
        return Throttled, (self._inner, self._limit_bytes_s)

    def __repr__(self) -> str:
        return f"Throttled({self._inner!r}, {self._limit_bytes_s})"

    @property
    def name(self) -> str:
        return self._inner.name

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        self._turn.get().take(memoryview(data).nbytes)
        return self._inner.put_if_absent(key, data)

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self._turn.get().take(memoryview(data).nbytes)
        self._inner.put(key, data)

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        self._inner.put_parts(key, self._slowly(parts), size=size)

    def get(self, key: str, limit: int) -> bytes:
        self._turn.get().take(0)
        data = self._inner.get(key, limit)
        self._turn.get().took(len(data))
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        self._turn.get().take(0)
        answers = self._inner.get_ranges(key, ranges)
        self._turn.get().took(sum(map(len, answers)))
        return answers

    def head(self, key: str) -> BlobInfo | None:
        return self._inner.head(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        return self._inner.list(prefix, after=after)

    def delete(self, keys: Iterable[str]) -> None:
        self._inner.delete(keys)

    def sign(self, key: str, method: str, expires_s: int) -> str:
        return self._inner.sign(key, method, expires_s)

    def close(self) -> None:
        self._inner.close()

    def _slowly(self, parts: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes | bytearray | memoryview]:
        for part in parts:
            self._turn.get().take(memoryview(part).nbytes)
            yield part


class _Turn:
    """When the bytes granted so far are used up."""

    def __init__(self, limit_bytes_s: float) -> None:
        self._limit_bytes_s = limit_bytes_s
        self._lock = threading.Lock()
        self._free_s = 0.0

    def take(self, size: int) -> None:
        """Wait for all that was taken before, then take these bytes."""
        time.sleep(max(0.0, self._reserved_s(size) - time.monotonic()))

    def took(self, size: int) -> None:
        """Bytes that have come already: whoever takes some next waits for them."""
        self._reserved_s(size)

    def _reserved_s(self, size: int) -> float:
        with self._lock:
            start_s = max(self._free_s, time.monotonic())
            self._free_s = start_s + size / self._limit_bytes_s
            return start_s
