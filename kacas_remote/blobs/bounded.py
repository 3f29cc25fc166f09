"""Bounded: so many requests at the same time and no more, whoever makes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.blobs.per_process import PerProcess

AT_ONCE = 16


class Bounded:
    """Of the threads of one process. Listings are not counted: their reader may be slow."""

    def __init__(self, inner: BlobStore, at_once: int = AT_ONCE) -> None:
        self._inner, self._at_once = inner, at_once
        self._slots = PerProcess(lambda: threading.BoundedSemaphore(at_once))

    def __reduce__(self) -> tuple[Callable[[BlobStore, int], Bounded], tuple[BlobStore, int]]:
        return Bounded, (self._inner, self._at_once)

    def __repr__(self) -> str:
        return f"Bounded({self._inner!r}, {self._at_once})"

    @property
    def name(self) -> str:
        return self._inner.name

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        with self._slots.get():
            return self._inner.put_if_absent(key, data)

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        with self._slots.get():
            self._inner.put(key, data)

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        with self._slots.get():
            self._inner.put_parts(key, parts, size=size)

    def get(self, key: str, limit: int) -> bytes:
        with self._slots.get():
            return self._inner.get(key, limit)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        with self._slots.get():
            return self._inner.get_ranges(key, ranges)

    def head(self, key: str) -> BlobInfo | None:
        with self._slots.get():
            return self._inner.head(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        return self._inner.list(prefix, after=after)

    def delete(self, keys: Iterable[str]) -> None:
        with self._slots.get():
            self._inner.delete(keys)

    def sign(self, key: str, method: str, expires_s: int) -> str:
        return self._inner.sign(key, method, expires_s)

    def close(self) -> None:
        self._inner.close()
