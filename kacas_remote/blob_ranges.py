"""Ranges of blobs, many at once: what lies near together is read in one request, and the requests run side by side."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from operator import itemgetter
from typing import NamedTuple

from kacas.disk.forked import Forked
from kacas.model.codec import MIB
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobNotFoundError

_GAP = 64 * 1024  # bytes between two ranges that are read along: a request costs more
_BLOCK = 8 * MIB  # a longer run is cut at multiples of it, as services lay blobs in blocks, which would be read twice
_THREADS = 8  # blobs that are read at once; a blob store reads ranges of one side by side itself


class Place(NamedTuple):
    """Bytes start:stop of the blob at the key."""

    key: str
    start: int
    stop: int


class BlobRanges:
    """Reads places of one remote. Thread-safe, safe after fork."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self._renew()
        self._forked = Forked(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def read(self, places: Iterable[Place]) -> dict[Place, memoryview]:
        """What is at each place, fewer bytes where a blob ends; those of blobs that are not there are left out.

        Raises RemoteUnavailableError, RemoteRefusedError.
        """
        by_key: dict[str, list[Place]] = {}
        for place in places:
            by_key.setdefault(place.key, []).append(place)
        if len(by_key) <= 1:
            found = [self._read(key, wanted) for key, wanted in by_key.items()]
        else:
            found = self._side_by_side(by_key)
        return {place: data for one in found for place, data in one.items()}

    def _side_by_side(self, by_key: dict[str, list[Place]]) -> list[dict[Place, memoryview]]:
        self._forked.check()
        with self._lock:  # `close` comes before or after
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, "kacas-ranges")
            reading = [self._pool.submit(self._read, key, wanted) for key, wanted in by_key.items()]
        try:
            return [one.result() for one in reading]
        finally:
            for one in reading:
                one.cancel()  # after a failure

    def _read(self, key: str, places: list[Place]) -> dict[Place, memoryview]:
        runs = runs_of(places)
        cuts = [cuts_of(run[0].start, max(one.stop for one in run)) for run in runs]
        try:
            parts = iter(self.blobs.get_ranges(key, [part for cut in cuts for part in cut]))
        except BlobNotFoundError:
            return {}
        found: dict[Place, memoryview] = {}
        for run, cut in zip(runs, cuts, strict=True):
            pieces = list(islice(parts, len(cut)))
            if len(pieces) == 1:
                (whole,), first = pieces, run[0].start
                found |= {place: whole[place.start - first : place.stop - first] for place in run}
            else:
                found |= {place: _within(place.start, place.stop, cut, pieces) for place in run}
        return found

    def close(self) -> None:
        """Let the threads end. What is read later has new ones."""
        self._forked.check()
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)


def runs_of(places: list[Place]) -> list[list[Place]]:
    """Places of one blob, in order, grouped so that those of each group lie near together."""
    runs: list[list[Place]] = []
    stop = 0
    for place in sorted(set(places)):
        if runs and place.start - stop <= _GAP:
            runs[-1].append(place)
            stop = max(stop, place.stop)
        else:
            runs.append([place])
            stop = place.stop
    return runs


def cuts_of(start: int, stop: int) -> list[tuple[int, int]]:
    """The ranges in which a run is asked for, side by side."""
    if stop - start <= _BLOCK:
        return [(start, stop)]
    bounds = [start, *range((start // _BLOCK + 1) * _BLOCK, stop, _BLOCK), stop]
    return list(pairwise(bounds))


def _within(start: int, stop: int, cut: list[tuple[int, int]], pieces: list[memoryview]) -> memoryview:
    """Of a run, bytes start:stop; fewer where the blob ends. Copied only where it was cut."""
    first = bisect_right(cut, start, key=itemgetter(0)) - 1
    found = pieces[first][start - cut[first][0] : stop - cut[first][0]]
    if stop <= cut[first][1]:
        return found
    return memoryview(bytes(found) + bytes(_within(cut[first][1], stop, cut, pieces)))
