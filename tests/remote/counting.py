"""A blob store that writes down what is asked of it: what a promise of requests and bytes is checked with."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kacas_remote.blobs.blob_store import BlobInfo, BlobStore

Data = bytes | bytearray | memoryview


class Asked(NamedTuple):
    """One call. ranges: how many were asked for at once; they are one round trip. size: bytes that moved."""

    call: str
    key: str
    size: int
    ranges: int = 0


class CountingBlobs:
    """As the store that it stands before. Each list, head, get, get_ranges and put is one round trip."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._asked: list[Asked] = []

    @property
    def name(self) -> str:
        return self._blobs.name

    def take(self) -> list[Asked]:
        """What was asked since this was last asked."""
        with self._lock:
            taken, self._asked = self._asked, []
        return taken

    def clear(self) -> None:
        """As `take`, of what nobody looks at."""
        self.take()

    @property
    def asked(self) -> list[Asked]:
        """What was asked since."""
        with self._lock:
            return list(self._asked)

    @property
    def count(self) -> int:
        """Requests since, each range for itself."""
        return sum(max(1, one.ranges) for one in self.asked if one.call)

    @property
    def moved(self) -> int:
        """Bytes since, both ways."""
        return moved(self.asked)

    def put_if_absent(self, key: str, data: Data) -> bool:
        self._note("put", key, len(data))
        return self._blobs.put_if_absent(key, data)

    def put(self, key: str, data: Data) -> None:
        self._note("put", key, len(data))
        self._blobs.put(key, data)

    def put_parts(self, key: str, parts: Iterable[Data], *, size: int = 0) -> None:
        def noted() -> Iterator[Data]:
            for part in parts:
                self._note("put", key, len(part))
                yield part

        self._blobs.put_parts(key, noted(), size=size)

    def get(self, key: str, limit: int) -> bytes:
        self._note("get", key, 0)
        data = self._blobs.get(key, limit)
        self._note("", key, len(data))
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        self._note("get", key, 0, len(ranges))
        found = self._blobs.get_ranges(key, ranges)
        self._note("", key, sum(map(len, found)))
        return found

    def head(self, key: str) -> BlobInfo | None:
        self._note("head", key, 0)
        return self._blobs.head(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        self._note("list", prefix, 0)
        return self._blobs.list(prefix, after=after)

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        self._note("delete", ",".join(wanted), 0)
        self._blobs.delete(wanted)

    def sign(self, key: str, method: str, expires_s: int) -> str:
        return self._blobs.sign(key, method, expires_s)

    def close(self) -> None:
        self._blobs.close()

    def _note(self, call: str, key: str, size: int, ranges: int = 0) -> None:
        with self._lock:
            self._asked.append(Asked(call, key, size, ranges))


def calls(asked: Iterable[Asked], call: str = "", prefix: str = "") -> int:
    """How many of this call, of all calls if none is named, with keys that begin so."""
    return sum(one.call != "" and call in ("", one.call) and one.key.startswith(prefix) for one in asked)


def moved(asked: Iterable[Asked], prefix: str = "") -> int:
    """Bytes, both ways."""
    return sum(one.size for one in asked if one.key.startswith(prefix))
