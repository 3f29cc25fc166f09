"""Payloads by the tables of a bucket's packs: of small contents, which no recipe names, and of what a recipe says wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from kacas.errors import KacasError
from kacas.model.codec import MIB
from kacas.model.location import Declared, Location
from kacas_remote.blob_ranges import BlobRanges, Place
from kacas_remote.errors import DamagedRemoteError
from kacas_remote.layout import pack_key
from kacas_remote.recipe import most_stored
from kacas_remote.tables import Tables

_MOST = 64 * MIB  # bytes that are given at once: far more than anybody asks for, but of tables that lie about sizes
_GIVEN, _BAD = 1 << 16, 1 << 12  # digests whose places are remembered, so that they can be rejected, and were


class TableSource:
    """See PartSource. A payload that is in several packs is had from the next one when it is rejected."""

    def __init__(self, ranges: BlobRanges, tables: Tables) -> None:
        self._ranges = ranges
        self._tables = tables
        self._bad: dict[bytes, list[tuple[Place, str]]] = {}
        self._given: dict[bytes, Place] = {}
        self._foreseen: dict[bytes, list[Location]] = {}

    def foresee(self, places: dict[bytes, list[Location]]) -> None:
        """These were looked up and will be asked for soon: they are not looked up again for the first time."""
        self._foreseen = dict(islice(places.items(), _GIVEN))

    def get_many(self, digests: Sequence[bytes]) -> dict[bytes, memoryview]:
        """See ChunkSource."""
        return self._read(digests, is_first=True)

    def _read(self, digests: Sequence[bytes], *, is_first: bool) -> dict[bytes, memoryview]:
        places: dict[bytes, Place] = {}
        room = _MOST
        for digest, locations in self._locate(digests).items():
            place = self._place(digest, locations)
            if place is not None and (size := place.stop - place.start) <= room:
                places[digest] = place
                room -= size
        data = self._ranges.read(places.values())
        if len(self._given) + len(places) > _GIVEN:
            self._given = {}
        self._given |= places
        gone = [digest for digest, place in places.items() if place not in data]
        if gone and is_first:
            self._tables.refresh()  # a collector moved it
            return {digest: data[place] for digest, place in places.items() if place in data} | self._read(
                gone, is_first=False
            )
        return {digest: data[place] for digest, place in places.items() if place in data}

    def _place(self, digest: bytes, locations: list[Location]) -> Place | None:
        """The first that can be true and was not rejected."""
        bad = [place for place, _ in self._bad.get(digest, ())]
        for location in locations:
            start, stop = location.offset, location.stop
            if stop - start <= most_stored(location.raw_size):
                place = Place(pack_key(location.pack_id), start, stop)
                if place not in bad:
                    return place
        return None

    def _locate(self, digests: Sequence[bytes]) -> dict[bytes, list[Location]]:
        foreseen = {digest: found for digest in digests if (found := self._foreseen.pop(digest, None))}
        left = [digest for digest in digests if digest not in foreseen]
        return foreseen | self._tables.locate(left) if left else foreseen

    def declared(self, digest: bytes) -> Declared | None:
        """See PartSource."""
        found = self._tables.locate([digest]).get(digest)
        return Declared(found[0].kind, found[0].raw_size) if found else None

    def expect(self, digest: bytes) -> None:
        """See PartSource: tables know every digest at once."""

    def read_tree(self) -> None:
        """See PartSource: nothing is to be read for it."""

    def lies(self, digest: bytes) -> tuple[str, int] | None:
        """See PartSource."""
        return None

    def reject(self, digest: bytes, why: str) -> None:
        """See PartSource."""
        if digest in self._given:
            if len(self._bad) >= _BAD:
                self._bad = {}
            self._bad.setdefault(digest, []).append((self._given[digest], why))

    def error(self, digest: bytes) -> KacasError:
        """See PartSource."""
        place, why = self._bad[digest][-1] if self._bad.get(digest) else (None, "no pack of it has that")
        where = f"{place.key}: " if place is not None else ""
        return DamagedRemoteError(
            f"remote {self._ranges.blobs.name}, {where}{why} (chunk {digest.hex()[:16]}…); it was not used. Look at the "
            "remote with: kacas remote verify --deep. What is lost there is removed (kacas remote rm), and pushed again from "
            "where it is whole"
        )
