"""What of a push the bucket has: by the tables of its packs, but for those that are condemned, and by what was sent just now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from kacas.errors import LeaseLostError
from kacas.model.entry import Entry
from kacas.model.manifest import Child
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.condemned import condemned_packs
from kacas_remote.push.sending import Landed
from kacas_remote.recipe import ChunkPlace
from kacas_remote.tables import Tables

_GROUP = 4096


class Inventory:
    """Used by one thread."""

    def __init__(self, blobs: BlobStore, tables: Tables) -> None:
        self._blobs = blobs
        self.tables = tables
        self._condemned: set[bytes] = set()
        self._relied: set[bytes] = set()
        self._flying: set[bytes] = set()
        self._removed: frozenset[bytes] = frozenset()

    def look(self) -> None:
        """See what is there now. Condemned packs are listed first: their record goes only after them."""
        self._condemned = condemned_packs(self._blobs)
        self.tables.refresh()
        self._removed = self.tables.removed()
        self._relied = set()

    def look_for_removals(self) -> bool:
        """See what was removed; whether anything was since it was looked for last."""
        before = self._removed
        self.tables.refresh_removed()
        self._removed = self.tables.removed()
        return self._removed != before

    @contextmanager
    def looking_again(self) -> Iterator[Callable[[], bool]]:
        """Lists condemned packs during the block; what it gives tells after it whether none was counted on since `look`."""
        with ThreadPoolExecutor(1, "kacas-condemned") as pool:
            condemned = pool.submit(condemned_packs, self._blobs)
            yield lambda: not (self._relied & condemned.result())

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        """Payloads that are not there, nor on their way. What is there is counted on from now on."""
        wanted = set(digests) - self._flying
        found = self.tables.locate(wanted)
        for digest, places in found.items():
            for place in places:
                if place.pack_id not in self._condemned:
                    self._relied.add(place.pack_id)
                    wanted.discard(digest)
                    break
        return wanted

    def sent(self, digest: bytes) -> None:
        """The payload is in a pack that will arrive."""
        self._flying.add(digest)

    def arrived(self, pack: Landed) -> None:
        """Its table counts as those of others."""
        self.tables.add(pack.pack_id, pack.table, pack.size)
        digests = pack.table.records["digest"]
        self._flying.difference_update(bytes(digest) for digest in digests.tolist())
        self._relied.add(pack.pack_id)

    def named(self, sha1s: Iterable[bytes]) -> dict[bytes, list[tuple[Entry, bytes]]]:
        """Entries by SHA-1, each with its pack."""
        wanted, found = list(sha1s), {}
        for at in range(0, len(wanted), _GROUP):
            for sha1, entries in self.tables.named(wanted[at : at + _GROUP]).items():
                if good := [one for one in entries if one[1] not in self._condemned]:
                    found[sha1] = good
        return found

    def count_on(self, pack_ids: Iterable[bytes]) -> None:
        """These packs must still be there when the push ends."""
        self._relied.update(pack_ids)

    def places(self, children: Sequence[Child], _at: int) -> list[ChunkPlace]:
        """Where the chunks are, for a recipe: all of them were found, or sent.

        Raises LeaseLostError if one is nowhere any more.
        """
        found = self.tables.locate([child.digest for child in children])
        places = []
        for child in children:
            good = [place for place in found.get(child.digest, ()) if place.pack_id not in self._condemned]
            if not good:
                raise LeaseLostError(
                    f"{self._blobs.name}: chunk {child.digest.hex()} was there, and is not there any more; push again"
                )
            self._relied.add(good[0].pack_id)
            places.append(ChunkPlace.of(good[0]))
        return places

    def packs_of(self, digests: Iterable[bytes], sha1s: Iterable[bytes]) -> set[bytes]:
        """Packs in which these payloads are, and in whose tables these contents are named."""
        return self.tables.packs_with(list(digests), list(sha1s)) - self._condemned
