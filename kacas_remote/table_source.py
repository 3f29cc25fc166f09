"""Payloads by the tables of a bucket's packs: of small contents, which no recipe names, and of what a recipe says wrongly."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from itertools import islice

from kacas.errors import KacasError
from kacas.model.codec import MIB
from kacas.model.location import Declared
from kacas_remote.blob_ranges import BlobRanges, Place
from kacas_remote.errors import DamagedRemoteError
from kacas_remote.layout import pack_key
from kacas_remote.recipe import most_stored
from kacas_remote.tables import Tables

_MOST = 64 * MIB  # bytes that are given at once: far more than anybody asks for, but of tables that lie about sizes
_GROUP = 4096  # payloads that are looked up together
_GIVEN, _BAD = 1 << 16, 1 << 12  # digests whose places are remembered, so that they can be rejected, and were
# A place: the id of a pack, where a payload begins in it, and its size. In the order of these bytes payloads lie. Tens of
# thousands are kept, and Python's garbage collector goes through all named tuples again and again, but never through bytes.
_PACKED = struct.Struct(">16sQQ")


class TableSource:
    """See PartSource. A payload that is in several packs is had from the next one when it is rejected."""

    def __init__(self, ranges: BlobRanges, tables: Tables) -> None:
        self._ranges = ranges
        self._tables = tables
        self._bad: dict[bytes, list[tuple[bytes, str]]] = {}  # places as _PACKED, these and the next
        self._given: dict[bytes, bytes] = {}
        self._foreseen: dict[bytes, bytes] = {}

    def foresee(self, digests: Collection[bytes]) -> list[bytes]:
        """These will be asked for soon: where they are is looked up now, and not again for the first time. Returns those that are
        somewhere, as they lie there."""
        wanted = sorted(set(digests))  # neighbours are looked up together
        places: dict[bytes, bytes] = {}
        for at in range(0, len(wanted), _GROUP):
            places |= self._look_up(wanted[at : at + _GROUP])
        self._foreseen = dict(islice(places.items(), _GIVEN))
        return sorted(places, key=places.__getitem__)

    def get_many(self, digests: Sequence[bytes]) -> dict[bytes, memoryview]:
        """See ChunkSource."""
        return self._read(digests, is_first=True)

    def _read(self, digests: Sequence[bytes], *, is_first: bool) -> dict[bytes, memoryview]:
        places: dict[bytes, Place] = {}
        room = _MOST
        located = self._located(digests)
        keys: dict[bytes, str] = {}
        for digest, packed in located.items():
            pack_id, start, size = _PACKED.unpack(packed)
            if size <= room:
                key = keys.get(pack_id) or keys.setdefault(pack_id, pack_key(pack_id))
                places[digest] = Place(key, start, start + size)
                room -= size
        data = self._ranges.read(places.values())
        if len(self._given) + len(places) > _GIVEN:
            self._given = {}
        self._given |= {digest: located[digest] for digest in places}
        gone = [digest for digest, place in places.items() if place not in data]
        if gone and is_first:
            self._tables.refresh()  # a collector moved it
            return {digest: data[place] for digest, place in places.items() if place in data} | self._read(
                gone, is_first=False
            )
        return {digest: data[place] for digest, place in places.items() if place in data}

    def _located(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        foreseen = {digest: place for digest in digests if (place := self._foreseen.pop(digest, None))}
        left = [digest for digest in digests if digest not in foreseen]
        return foreseen | self._look_up(left) if left else foreseen

    def _look_up(self, digests: Collection[bytes]) -> dict[bytes, bytes]:
        """Of each the first place that can be true and was not rejected."""
        found: dict[bytes, bytes] = {}
        for digest, locations in self._tables.locate(digests).items():
            bad = [place for place, _ in self._bad.get(digest, ())]
            for location in locations:
                size = location.stop - location.offset
                if size <= most_stored(location.raw_size):
                    place = _PACKED.pack(location.pack_id, location.offset, size)
                    if place not in bad:
                        found[digest] = place
                        break
        return found

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
            self._foreseen.pop(digest, None)

    def error(self, digest: bytes) -> KacasError:
        """See PartSource."""
        place, why = self._bad[digest][-1] if self._bad.get(digest) else (None, "no pack of it has that")
        where = f"{pack_key(_PACKED.unpack(place)[0])}: " if place is not None else ""
        return DamagedRemoteError(
            f"remote {self._ranges.blobs.name}, {where}{why} (chunk {digest.hex()[:16]}…); it was not used. Look at the "
            "remote with: kacas remote verify --deep. What is lost there is removed (kacas remote rm), and pushed again from "
            "where it is whole"
        )
