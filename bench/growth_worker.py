"""One look at a store of synthetic packs, by a process that does nothing else: python -m bench.growth_worker REQUEST.

The request is JSON: what to do, where the store and the host's cache are, and how large it is. The answer is JSON.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.machine import anonymous_memory, disk_size
from kacas import Store
from kacas.disk import segment_maker
from kacas.model.digest import chunk_digest
from kacas.model.entry import Entry, Kind
from kacas.model.pack_format import (
    CHUNK_RECORD,
    FOOTER_SIZE,
    HEADER_SIZE,
    PAYLOAD_HEADER_SIZE,
    Footer,
    PackHeader,
    Records,
)
from kacas.model.segment_rule import SegmentRule
from kacas.settings import Settings

RAW_SIZE, PAYLOAD_SIZE = 256 << 10, 120_000
MISSING = "sha1://" + "12" * 20
_NEVER = SegmentRule(rows=1 << 62, packs=1 << 62)
_SAMPLE, _GROUP, _OPENS, _REBUILDS = 2000, 4096, 3, 3


def records_of(number: int, count: int) -> Records:
    """The chunk records of pack `number`: the same at each call."""
    rng = np.random.Generator(np.random.PCG64(number))
    digests = rng.integers(1 << 64, size=(count, 4), dtype=np.uint64)
    records: Records = np.zeros(count, CHUNK_RECORD)
    records["digest"] = digests.view("V32").ravel()
    records["payload_size"], records["raw_size"], records["codec"] = PAYLOAD_SIZE, RAW_SIZE, 1
    records["offset"] = HEADER_SIZE + np.arange(count, dtype=np.uint64) * (PAYLOAD_HEADER_SIZE + PAYLOAD_SIZE)
    return records[np.argsort(digests[:, 0].byteswap(), kind="stable")]


def write_pack(store: Store, number: int, count: int) -> None:
    """A pack of so many payloads, all of them a hole in the file, and an entry; its table is right in every byte."""
    pack_id = chunk_digest(b"pack %d" % number)[:16]
    header = PackHeader(pack_id, bytes.fromhex(store.store_id)).encode()
    seed = chunk_digest(b"entry %d" % number)
    entry = Entry(seed[:16], seed[12:], seed, count * RAW_SIZE, number, Kind.NPY, b"bench", b"%d.npy" % number).encode()
    table = records_of(number, count).tobytes() + entry
    at = HEADER_SIZE + count * (PAYLOAD_HEADER_SIZE + PAYLOAD_SIZE)
    footer = Footer(pack_id, at, len(table), count, 1, at + len(table) + FOOTER_SIZE, chunk_digest(table))
    fd = os.open(store.repository.volume.pack_path(pack_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    try:
        os.pwrite(fd, header, 0)
        os.pwrite(fd, table + footer.encode(header), at)
    finally:
        os.close(fd)


class Look:
    """What one request is about."""

    def __init__(self, store: str, cache: str, packs: int, pack_records: int, segments: bool) -> None:
        """segments: whether they may be made without being asked, as they are for users."""
        self._path, self._cache = Path(store), Path(cache)
        self._packs, self._pack_records = packs, pack_records
        if not segments:
            segment_maker.SEGMENT_RULE = _NEVER  # type: ignore[attr-defined]

    def _open(self) -> Store:
        settings = replace(Settings.from_environment(), cache_directory=self._cache, owner="bench")
        store = Store.open(self._path, settings=settings)
        store.repository.segment_maker.patience_s = (
            math.inf
        )  # its merges end, as in a process that is open for long enough
        return store

    def make(self) -> dict[str, float]:
        """A store of synthetic packs."""
        with Store.open(self._path, durability="relaxed") as store:
            for number in range(self._packs):
                write_pack(store, number, self._pack_records)
        return {}

    def open_cold(self) -> dict[str, float]:
        """As a host that has no index: open, and find one chunk. With what its index takes in."""
        begun = time.perf_counter()
        store = self._open()
        opened = time.perf_counter() - begun
        with store:
            assert store.repository.lookup.locate([self._present(1)[0]])
            found = time.perf_counter() - begun
            rows = store.repository.lookup.load()[0]
        return {"open_s": opened, "found_s": found, "rows": rows, "index_size": disk_size(self._cache)}

    def settle(self) -> dict[str, float]:
        """Open, let segments be made if they are due, and wait for it."""
        begun = time.perf_counter()
        self._open().close()
        with self._open() as store:
            stats = store.segment_stats()
        seconds = time.perf_counter() - begun
        return {"settle_s": seconds, "segments": stats.segments, "held": stats.chunks, "segment_size": stats.size}

    def rebuild(self) -> dict[str, float]:
        """`kacas index rebuild` of a store that has no segments."""
        rates = []
        with self._open() as store:
            for _ in range(_REBUILDS):
                for segment in store.path.glob("segments/*.seg"):
                    segment.unlink()
                begun = time.perf_counter()
                records = store.rebuild_index()
                rates.append(records / (time.perf_counter() - begun))
        return {"rate": statistics.median(rates)}

    def look(self) -> dict[str, float]:
        """Open with the index there, and look for chunks and contents."""
        opens = []
        for _ in range(_OPENS):
            begun = time.perf_counter()
            store = self._open()
            opens.append(time.perf_counter() - begun)
            store.close()
        with self._open() as store:
            lookup = store.repository.lookup
            present = self._present(_SAMPLE + _GROUP)
            absent = [secrets.token_bytes(32) for _ in range(_SAMPLE + _GROUP)]
            figures = {"first_open_s": opens[0], "open_s": statistics.median(opens)}
            for name, digests in (("present", present), ("absent", absent)):
                expected = len(digests) if name == "present" else 0
                assert len(lookup.locate(digests)) == expected
                singly = [seconds(lambda one=one: lookup.locate([one])) for one in digests[:_SAMPLE]]  # type: ignore[misc]
                groups = [seconds(lambda: lookup.locate(digests[_SAMPLE:])) for _ in range(5)]  # noqa: B023
                figures[f"{name}_s"] = statistics.median(singly)
                figures[f"{name}_group_s"] = statistics.median(groups) / _GROUP
            figures["miss_s"] = seconds(lambda: store.exists(MISSING))
            figures["miss_again_s"] = statistics.median(seconds(lambda: store.exists(MISSING)) for _ in range(5))
            figures["memory"] = anonymous_memory(os.getpid())
        return figures

    def _present(self, count: int) -> list[bytes]:
        """Digests of random packs."""
        rng = np.random.Generator(np.random.PCG64(7))

        def digests() -> Iterator[bytes]:
            for number in rng.integers(self._packs, size=64).tolist():
                records = records_of(number, self._pack_records)["digest"].tolist()
                yield from (records[at] for at in rng.integers(len(records), size=-(-count // 64)).tolist())

        found = list(dict.fromkeys(digests()))
        rng.shuffle(found)
        return found[:count]


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main(request: str) -> None:
    asked = json.loads(request)
    do = asked.pop("do")
    print(json.dumps(getattr(Look(**asked), do)()))


if __name__ == "__main__":
    main(sys.argv[1])
