"""Payloads as packs have them, encoded, read many at once: to be copied into another store."""

from __future__ import annotations

from collections.abc import Iterable

from kacas.disk.lookup import Lookup
from kacas.errors import DamagedPackError
from kacas.model.location import Piece
from kacas.spans import Place, runs_of

_NOTHING = memoryview(b"")


def encoded_payloads(lookup: Lookup, digests: Iterable[bytes]) -> dict[bytes, memoryview]:
    """Payload headers, parameters and payloads by digest, from the first place of each, unverified.

    What is not where the index says is left out.
    """
    places = [
        Place(first.pack_id, first.offset, first.stop, Piece(digest, first.raw_size, 0, _NOTHING))
        for digest, (first, *_) in lookup.locate(digests).items()
    ]
    found: dict[bytes, memoryview] = {}
    for run in runs_of(places):
        data = memoryview(bytearray(run.stop - run.start))
        try:
            lookup.packs.get(run.pack_id).read_into(data, run.start)
        except (FileNotFoundError, DamagedPackError):
            continue
        for place in run.places:
            found[place.wanted.digest] = data[place.start - run.start : place.stop - run.start]
    return found
