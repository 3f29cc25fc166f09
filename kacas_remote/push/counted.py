"""A blob store that counts what is asked of it, for the summary of a push."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from kacas_remote.blobs.blob_store import BlobInfo, BlobStore

Data = bytes | bytearray | memoryview


class Counted:
    """requests: calls, each of which is one request or a few. sent_size: bytes of all that was put. Thread-safe."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self.requests = 0
        self.sent_size = 0

    def _count(self, size: int = 0) -> None:
        with self._lock:
            self.requests += 1
            self.sent_size += size

    @property
    def name(self) -> str:
        """See BlobStore."""
        return self._blobs.name

    def put_if_absent(self, key: str, data: Data) -> bool:
        """See BlobStore."""
        self._count()
        created = self._blobs.put_if_absent(key, data)
        with self._lock:
            self.sent_size += len(data)
        return created

    def put(self, key: str, data: Data) -> None:
        """See BlobStore."""
        self._count()
        self._blobs.put(key, data)
        with self._lock:
            self.sent_size += len(data)

    def put_parts(self, key: str, parts: Iterable[Data], *, size: int = 0) -> None:
        """See BlobStore."""
        self._blobs.put_parts(key, (self._part(part) for part in parts), size=size)

    def _part(self, part: Data) -> Data:
        self._count(len(part))
        return part

    def get(self, key: str, limit: int) -> bytes:
        """See BlobStore."""
        self._count()
        return self._blobs.get(key, limit)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """See BlobStore."""
        self._count()
        return self._blobs.get_ranges(key, ranges)

    def head(self, key: str) -> BlobInfo | None:
        """See BlobStore."""
        self._count()
        return self._blobs.head(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        """See BlobStore."""
        self._count()
        return self._blobs.list(prefix, after=after)

    def delete(self, keys: Iterable[str]) -> None:
        """See BlobStore."""
        self._count()
        self._blobs.delete(keys)

    def sign(self, key: str, method: str, expires_s: int) -> str:
        """See BlobStore."""
        return self._blobs.sign(key, method, expires_s)

    def close(self) -> None:
        """See BlobStore."""
        self._blobs.close()
