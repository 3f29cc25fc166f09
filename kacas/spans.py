"""Spans: chunks that one thread looks up, reads and decodes before it takes more, and how they lie in the packs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

from kacas.model.codec import MIB
from kacas.model.location import Piece

_RUN_SIZE = 1 * MIB  # neighbouring payloads are read in one call up to this size: they fit in the cache
_RUN_GAP = 64 * 1024  # and what lies between them is read along


class Part(NamedTuple):
    """A chunk of which only a part is wanted, or that is scattered: it is decoded beside.

    use: is called with all of its bytes, verified, which are others' when it returns. size, at: as of a Piece. keep: whether
    the chunk may be kept for whoever wants another part.
    """

    digest: bytes
    size: int
    use: Callable[[memoryview], None]
    keep: bool
    at: int = 0


Wanted = Piece | Part
"""A piece here is a whole chunk, which is decoded where it is wanted."""


class Place(NamedTuple):
    """Where a chunk that is wanted may be: the payload's header to its end in a pack."""

    pack_id: bytes
    start: int
    stop: int
    wanted: Wanted


class Run(NamedTuple):
    """Payloads of one pack that are read in one call."""

    pack_id: bytes
    start: int
    stop: int
    places: list[Place]


class Spans:
    """An iterator of spans that several threads share, each of about so many raw bytes and of one chunk at least."""

    def __init__(self, wanted: Iterable[Wanted], size: int) -> None:
        self._lock = threading.Lock()
        self._spans = _cut(wanted, size)

    def next(self) -> list[Wanted] | None:
        """None if there is nothing left to do."""
        with self._lock:
            return next(self._spans, None)

    def stop(self) -> None:
        """Nothing is left to do."""
        with self._lock:
            self._spans = iter(())


def _cut(wanted: Iterable[Wanted], size: int) -> Iterator[list[Wanted]]:
    span: list[Wanted] = []
    left = size
    for one in wanted:
        if span and one.size > left:
            yield span
            span, left = [], size
        span.append(one)
        left -= one.size
    if span:
        yield span


def runs_of(places: list[Place]) -> list[Run]:
    """Group neighbours of one pack, so that they are read in one call."""
    places.sort(key=_PACK_AND_START)
    runs: list[Run] = []
    near: list[Place] = []
    pack_id, start, stop = b"", 0, 0
    for place in places:
        here, begin, end, _ = place
        if near and here == pack_id and begin - stop <= _RUN_GAP and end - start <= _RUN_SIZE:
            near.append(place)
            stop = max(stop, end)
            continue
        if near:
            runs.append(Run(pack_id, start, stop, near))
        pack_id, start, stop, near = here, begin, end, [place]
    if near:
        runs.append(Run(pack_id, start, stop, near))
    return runs


_PACK_AND_START = itemgetter(0, 1)
