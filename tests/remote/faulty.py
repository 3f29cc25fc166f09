"""A blob store that drops, delays, truncates, flips, duplicates and reorders, when told so: no network needed.

faulty = FaultyBlobs(MemoryBlobs())
faulty.fault("flip", call="get", prefix="packs/")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.errors import RemoteUnavailableError

Data = bytes | bytearray | memoryview
Found = TypeVar("Found")
FAULTS = ("drop", "lose", "delay", "truncate", "flip", "duplicate", "reorder")


@dataclass
class _Rule:
    kind: str
    call: str
    prefix: str
    times: int | None
    spare: int
    met: int = 0


class FaultyBlobs:
    """Calls are put, get, head, list and delete.

    drop: the call does nothing and raises. lose: it does it and raises. delay: by 50 ms. truncate: of what is got the last
    byte is missing. flip: a bit of it is another. duplicate: it is done twice. reorder: ranges come in another order; a whole
    blob is that which was got before.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._before = b""

    @property
    def name(self) -> str:
        return self._blobs.name

    def fault(self, kind: str, *, call: str = "", prefix: str = "", times: int | None = 1, spare: int = 0) -> _Rule:
        """Do so to the next `times` calls (None: all) on keys that begin so, but `spare` the first; `.met` tells how many."""
        assert kind in FAULTS
        rule = _Rule(kind, call, prefix, times, spare)
        self._rules.append(rule)
        return rule

    def heal(self) -> None:
        self._rules.clear()

    def put_if_absent(self, key: str, data: Data) -> bool:
        return self._do("put", key, lambda: self._blobs.put_if_absent(key, data))

    def put(self, key: str, data: Data) -> None:
        self._do("put", key, lambda: self._blobs.put(key, data))

    def put_parts(self, key: str, parts: Iterable[Data], *, size: int = 0) -> None:
        whole = [bytes(part) for part in parts]
        self._do("put", key, lambda: self._blobs.put_parts(key, whole, size=size))

    def get(self, key: str, limit: int) -> bytes:
        kind = self._kind("get", key)
        data = self._done(kind, key, lambda: self._blobs.get(key, limit))
        before, self._before = self._before, data
        return before if kind == "reorder" else bytes(_broken(kind, data))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        kind = self._kind("get", key)
        found = self._done(kind, key, lambda: self._blobs.get_ranges(key, ranges))
        if kind == "reorder":
            found.reverse()
        if found:
            found[-1] = memoryview(_broken(kind, bytes(found[-1])))
        return found

    def head(self, key: str) -> BlobInfo | None:
        return self._do("head", key, lambda: self._blobs.head(key))

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        return self._do("list", prefix, lambda: self._blobs.list(prefix, after=after))

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        self._do("delete", wanted[0] if wanted else "", lambda: self._blobs.delete(wanted))

    def sign(self, key: str, method: str, expires_s: int) -> str:
        return self._blobs.sign(key, method, expires_s)

    def close(self) -> None:
        self._blobs.close()

    def _do(self, call: str, key: str, action: Callable[[], Found]) -> Found:
        return self._done(self._kind(call, key), key, action)

    def _done(self, kind: str, key: str, action: Callable[[], Found]) -> Found:
        if kind == "drop":
            raise RemoteUnavailableError(f"{self.name}: {key}: the connection was dropped; try again", path=self.name)
        if kind == "delay":
            time.sleep(0.05)
        if kind == "duplicate":
            action()
        found = action()
        if kind == "lose":
            raise RemoteUnavailableError(f"{self.name}: {key}: the reply was lost; try again", path=self.name)
        return found

    def _kind(self, call: str, key: str) -> str:
        with self._lock:
            for rule in self._rules:
                if rule.times == 0 or rule.call not in ("", call) or not key.startswith(rule.prefix):
                    continue
                if rule.spare:
                    rule.spare -= 1
                    continue
                if rule.times is not None:
                    rule.times -= 1
                rule.met += 1
                return rule.kind
        return ""


def _broken(kind: str, data: bytes) -> bytes:
    if kind == "truncate":
        return data[:-1]
    if kind == "flip" and data:
        return data[:-1] + bytes([data[-1] ^ 0x10])
    return data
