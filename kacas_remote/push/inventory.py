"""What of a push the bucket has: by the tables of its packs, but for those that are condemned, and by what was sent just now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from kacas.errors import LeaseLostError
from kacas.model.entry import Entry
from kacas.model.location import Location
from kacas.model.manifest import Child
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.condemned import condemned_packs
from kacas_remote.layout import PACKS, pack_id_of, pack_key
from kacas_remote.push.sending import Landed
from kacas_remote.recipe import ChunkPlace
from kacas_remote.tables import Tables

_GROUP = 4096
_REMEMBERED = 1 << 15  # places, some 350 bytes each


class Inventory:
    """Used by one thread."""

    def __init__(self, blobs: BlobStore, tables: Tables) -> None:
        self._blobs = blobs
        self.tables = tables
        self._fit: set[bytes] = set()  # packs that may be counted on
        self._own: set[bytes] = set()
        self._relied: set[bytes] = set()
        self._places: dict[bytes, Location] = {}  # of what was found lately: a recipe names them soon
        self._flying: set[bytes] = set()
        self._removed: frozenset[bytes] = frozenset()

    def look(self) -> None:
        """See what is there now: condemned packs, packs and removals at once. What is counted on after it is to be `confirmed`."""
        with ThreadPoolExecutor(1, "kacas-condemned") as pool:
            condemned = pool.submit(condemned_packs, self._blobs)
            self.tables.refresh()
            self._fit = self.tables.packs().keys() - condemned.result()
        self._removed = self.tables.removed()
        self._relied = set()
        self._places = {}

    @contextmanager
    def confirmed(self) -> Iterator[Callable[[], bool]]:
        """During the block packs are listed again; what it gives tells after it whether all are there that are counted on.

        Of a pack that was listed by `look` it is not known whether that was before or after condemned packs were: all of a
        collection may lie in between. A record goes only after its packs, so who is there now was not condemned then.
        """
        if self._relied <= self._own:
            yield lambda: True
            return
        with ThreadPoolExecutor(1, "kacas-packs") as pool:
            listing = pool.submit(lambda: {pack_id_of(info.key) for info in self._blobs.list(PACKS)})
            yield lambda: self._are_there(listing.result())

    def _are_there(self, listed: set[bytes | None]) -> bool:
        """From now on nobody counts on what is not there."""
        self._fit &= listed | self._own
        return self._relied <= self._fit

    def check(self) -> None:
        """Raises LeaseLostError if a pack that was counted on was condemned since `look`."""
        if condemned := self._relied & condemned_packs(self._blobs):
            raise LeaseLostError(
                f"{self._blobs.name}: {len(condemned)} packs that were counted on were condemned meanwhile; push again"
            )

    def take_back(self) -> None:
        """Delete what was sent: the bucket has another id now, in whose name nobody believes it, and collectors stop at it."""
        self._blobs.delete(map(pack_key, self._own))

    def look_for_removals(self) -> bool:
        """See what was removed; whether anything was since it was looked for last."""
        before = self._removed
        self.tables.refresh_removed()
        self._removed = self.tables.removed()
        return self._removed != before

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        """Payloads that are not there, nor on their way. What is there is counted on from now on."""
        wanted = set(digests) - self._flying
        found = self._find(wanted)
        if len(self._places) > _REMEMBERED:
            self._places = {}
        self._places |= found
        return wanted - found.keys()

    def _find(self, digests: Collection[bytes]) -> dict[bytes, Location]:
        """Places that may be counted on; they are from now on."""
        found: dict[bytes, Location] = {}
        if not digests or not self._fit:
            return found
        for digest, places in self.tables.locate(digests).items():
            for place in places:
                if place.pack_id in self._fit:
                    self._relied.add(place.pack_id)
                    found[digest] = place
                    break
        return found

    def sent(self, digests: Iterable[bytes]) -> None:
        """The payloads are in packs that will arrive."""
        self._flying.update(digests)

    def arrived(self, pack: Landed) -> None:
        """Its table counts as those of others."""
        self.tables.add(pack.pack_id, pack.table, pack.size)
        self._flying.difference_update(pack.table.records["digest"].tolist())
        self._own.add(pack.pack_id)
        self._fit.add(pack.pack_id)
        self._relied.add(pack.pack_id)

    def named(self, sha1s: Iterable[bytes]) -> dict[bytes, list[tuple[Entry, bytes]]]:
        """Entries by SHA-1, each with its pack."""
        wanted, found = list(sha1s) if self._fit else [], {}
        for at in range(0, len(wanted), _GROUP):
            for sha1, entries in self.tables.named(wanted[at : at + _GROUP]).items():
                if good := [one for one in entries if one[1] in self._fit]:
                    found[sha1] = good
        return found

    def count_on(self, pack_ids: Iterable[bytes]) -> None:
        """These packs must still be there when the push ends."""
        self._relied.update(pack_ids)

    def places(self, children: Sequence[Child], _at: int) -> list[ChunkPlace]:
        """Where the chunks are, for a recipe: all of them were found, or sent.

        Raises LeaseLostError if one is nowhere any more.
        """
        known = {child.digest: place for child in children if (place := self._places.get(child.digest)) is not None}
        known |= self._find({child.digest for child in children} - known.keys())
        try:
            return [ChunkPlace.of(known[child.digest]) for child in children]
        except KeyError as exc:
            raise LeaseLostError(
                f"{self._blobs.name}: chunk {exc.args[0].hex()} was there, and is not there any more; push again"
            ) from exc

    def packs_of(self, digests: Iterable[bytes], sha1s: Iterable[bytes]) -> set[bytes]:
        """Packs in which these payloads are, and in whose tables these contents are named."""
        return self.tables.packs_with(list(digests), list(sha1s)) & self._fit
