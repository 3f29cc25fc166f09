"""MemoryBlobs: blobs in the memory of this process, for tests and for looking around."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from kacas.errors import SizeLimitError
from kacas_remote.blobs.blob_store import BlobInfo
from kacas_remote.blobs.keys import check_key, check_prefix
from kacas_remote.errors import BlobNotFoundError, NotSupportedError


class _Blob(NamedTuple):
    data: bytes
    modified_s: float
    e_tag: str


_Place = dict[str, _Blob]
_BY_NAME: dict[str, _Place] = {}


class MemoryBlobs:
    """Blobs of one name are shared within the process; a forked child has its own copy from then on.

    Without a lock, as that may be held while a process forks: each change is one operation of a dict.
    """

    def __init__(self, name: str = "", prefix: str = "") -> None:
        """name: of what is shared; "" is shared with nobody. prefix: "" or `a/b/`, before every key."""
        self._memory_name, self._prefix = name, prefix
        self._blobs: _Place = _BY_NAME.setdefault(name, {}) if name else {}

    def __reduce__(self) -> tuple[Callable[..., MemoryBlobs], tuple[str, str]]:
        if not self._memory_name:
            raise TypeError("blobs in memory that have no name cannot be pickled: open memory://NAME")
        return MemoryBlobs, (self._memory_name, self._prefix)

    def __repr__(self) -> str:
        return f"MemoryBlobs({self.name!r})"

    @property
    def name(self) -> str:
        return f"memory://{self._memory_name}/{self._prefix}".rstrip("/") if self._memory_name else "memory://"

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        blob = _blob(data)
        kept = self._blobs.setdefault(self._full(key), blob)
        return kept is blob or kept.data == blob.data

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self._blobs[self._full(key)] = _blob(data)

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        full = self._full(key)
        self._blobs[full] = _blob(b"".join(parts))

    def get(self, key: str, limit: int) -> bytes:
        data = self._found(key).data
        if len(data) > limit:
            raise SizeLimitError(
                f"{self.name}: {key} has {len(data)} bytes, and at most {limit} were expected; it was not read"
            )
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        data = memoryview(self._found(key).data)
        return [data[start:stop] for start, stop in ranges]

    def head(self, key: str) -> BlobInfo | None:
        blob = self._blobs.get(self._full(key))
        return blob and BlobInfo(key, len(blob.data), blob.modified_s, blob.e_tag)

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        start = self._prefix + check_prefix(prefix)
        skip = len(self._prefix)
        for full, blob in sorted(self._blobs.copy().items()):
            if full.startswith(start) and full[skip:] > after:
                yield BlobInfo(full[skip:], len(blob.data), blob.modified_s, blob.e_tag)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._blobs.pop(self._full(key), None)

    def sign(self, key: str, method: str, expires_s: int) -> str:
        raise NotSupportedError(
            f"{self.name} has no URLs: nobody else sees the memory of this process. Use a bucket", path=self.name
        )

    def close(self) -> None:
        pass

    def _full(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _found(self, key: str) -> _Blob:
        blob = self._blobs.get(self._full(key))
        if blob is None:
            raise BlobNotFoundError(f"{self.name} has no {key}; perhaps it was removed")
        return blob


def _blob(data: bytes | bytearray | memoryview) -> _Blob:
    kept = bytes(data)
    return _Blob(kept, time.time(), hashlib.md5(kept, usedforsecurity=False).hexdigest())
