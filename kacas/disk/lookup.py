"""What this store holds and where: the index for hints, the tables for proof.

The index may be stale, damaged, or impossible on this host; answers stay right, only slower.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from kacas.disk import index_environment
from kacas.disk.durable import sync_directory, translate
from kacas.disk.forked import Forked
from kacas.disk.index import Index
from kacas.disk.index_environment import IndexUnusableError
from kacas.disk.pack_reader import OpenPacks
from kacas.disk.tables import Tables
from kacas.disk.volume import Volume
from kacas.errors import DamagedPackError, KacasError, NewerFormatError
from kacas.model.entry import Entry
from kacas.model.location import Location
from kacas.model.merging import RULE
from kacas.model.pack_format import Table

_IMPORT_RECORDS = 1 << 19  # per transaction: bounds memory to some 100 MiB whatever the store's size
_MAX_RENEWALS = 3
_MAX_LOOK_PAUSE_S = 0.5
_PROVED_LOG = 100_000  # entries that are read from the tables for one look at the log: about half a second

T = TypeVar("T")


class Lookup:
    """Index, tables and open packs of one volume. Thread-safe, safe after fork."""

    def __init__(self, volume: Volume, cache: Path) -> None:
        self._volume = volume
        self.cache = cache
        self.rule = RULE
        self.packs = OpenPacks(volume)
        self.tables = Tables(volume, self.packs)
        self._place = index_environment.place_in(cache)
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._forked = Forked(self._after_fork)
        self._renewals = 0
        self._settled: set[bytes] = set()
        self._seen: set[str] = set()  # packs' names whose tables are in the index, as far as they can be
        self._look_again = 0.0  # when, on the monotonic clock, `refresh_soon` looks at packs/ again
        self._index: Index | None = None
        self._open_index()
        self.refresh()

    @property
    def store_path(self) -> Path:
        return self._volume.path

    def close(self) -> None:
        index, self._index = self._index, None
        if index is not None and self._pid == os.getpid():
            index.close()
        self.packs.close()

    # --- the index, as far as it can help ---------------------------------------------------

    def _open_index(self) -> None:
        try:
            self._index = Index(self._place)
        except IndexUnusableError as exc:
            self._index = None
            warnings.warn(
                f"the index cannot be used ({exc}); everything works, but slowly. Set KACAS_CACHE_DIR to a local disk",
                RuntimeWarning,
                stacklevel=2,
            )

    def _ask(self, question: Callable[[Index], T], otherwise: T) -> T:
        """Ask the index; a broken one is renewed and asked again; one that cannot be renewed is done without."""
        self._forked.check()
        while (index := self._index) is not None:
            try:
                return question(index)
            except IndexUnusableError as exc:
                self._renew(index, exc)
        return otherwise

    def _after_fork(self) -> None:
        # LMDB must not cross a fork, and another thread of the parent may have held the lock.
        self._lock, self._pid = threading.RLock(), os.getpid()
        self._seen = set()
        self._open_index()

    def _renew(self, broken: Index, why: IndexUnusableError) -> None:
        with self._lock:
            if self._index is not broken:
                return  # another thread did
            self._renewals += 1
            if self._renewals > _MAX_RENEWALS:
                self._index = None
                warnings.warn(
                    f"the index fails again and again ({why}); going on without", RuntimeWarning, stacklevel=2
                )
                return
            try:
                self._seen = set()
                broken.renew()
                self._index = Index(self._place)
            except IndexUnusableError as exc:
                self._index = None
                warnings.warn(f"the index cannot be renewed ({exc}); going on without", RuntimeWarning, stacklevel=2)
        self.refresh()

    def refresh_soon(self) -> None:
        """Refresh unless that was done just now: looking takes a tenth of the time at most, however many packs there are.

        For what may be noticed a little later. Packs of this host are in the index at once anyway.
        """
        if time.monotonic() >= self._look_again:
            self.refresh()

    def refresh(self) -> int:
        """Take in tables of packs that appeared, leave out those that went. Returns the chunk records taken in."""
        if self._seen and not self.tables.problems:
            # The common case: nothing but our own packs is new. Names are compared as they come.
            names = self._list()
            if self._seen <= names:
                new = self._volume.pack_ids_of(names - self._seen)
                self._seen = names
                return self._import(self._ask(lambda index: index.unknown(new), new)) if new else 0
        known, covered = self._known()
        # Known before listed: a pack published in between is never taken for gone.
        names = self._list()
        listed = self._volume.pack_ids_of(names)
        self.tables.pardon(covered)
        # A pack whose table was found damaged serves loads as far as it can, but nothing new relies on it.
        if gone := ((known | covered) - listed) | (known & self.tables.problems.keys()):
            self._ask(lambda index: index.remove(gone), None)
            known, covered = self._known()  # without a merged pack, its sources count again
        self._seen = names
        return self._import(listed - known - covered) if self._index is not None else 0

    def _known(self) -> tuple[set[bytes], set[bytes]]:
        none: set[bytes] = set()
        return self._ask(Index.pack_ids, none), self._ask(Index.covered_ids, none)

    def _list(self) -> set[str]:
        begun = time.monotonic()
        names = self._volume.list_pack_names()
        ended = time.monotonic()
        self._look_again = ended + min(_MAX_LOOK_PAUSE_S, 10 * (ended - begun))
        return names

    def _import(self, pack_ids: set[bytes]) -> int:
        total, waiting, waiting_records = 0, [], 0
        covered: set[bytes] = set()
        for pack_id in sorted(pack_ids, reverse=True):  # merged packs before what they cover
            table = self.tables.read_whole(pack_id) if pack_id not in covered else None
            if table is None:
                continue
            covered |= self.tables.sources(pack_id)
            waiting.append((pack_id, table))
            waiting_records += len(table.records) + table.entry_count
            total += len(table.records)
            if waiting_records >= _IMPORT_RECORDS:
                self._add(waiting)
                waiting, waiting_records = [], 0
        if waiting:
            self._add(waiting)
        return total

    def _add(self, tables: list[tuple[bytes, Table]]) -> None:
        self._ask(lambda index: index.add(tables, self.rule), None)

    def published(self, pack_id: bytes, table: Table) -> None:
        """A pack of ours was published: other processes of this host see it at once."""
        self._add([(pack_id, table)])
        if self._seen:
            self._seen.add(self._volume.pack_path(pack_id).name)

    def settled(self, pack_ids: Iterable[bytes]) -> None:
        """These packs' names are durable: their directory was synced after they were given."""
        self._settled.update(pack_ids)

    def settle(self, pack_ids: set[bytes]) -> None:
        """Make the names of packs durable that another writer may have given and died before the sync. Raises StoreError."""
        if not self._volume.durable or pack_ids <= self._settled:
            return
        listed = self._volume.list_packs()
        try:
            sync_directory(self._volume.packs)
        except OSError as exc:
            raise translate(exc, self._volume.packs, "syncing") from exc
        self._settled = listed

    def rebuild(self) -> int:
        """Throw the index away and read every table again. Returns the chunk records taken in."""
        with self._lock:
            if self._index is not None:
                broken, self._index = self._index, None
                try:
                    broken.renew()
                except IndexUnusableError:
                    pass  # _open_index warns if the place is really unusable
            self._renewals = 0
            self._seen = set()
            self._open_index()
        return self.refresh()

    # --- small packs ------------------------------------------------------------------------

    def piled_up(self) -> list[bytes]:
        """Small packs that are due to be merged into one; none if there are too few, or without an index."""
        return self._ask(lambda index: index.piled_up(self.rule.fan_in), [])

    def set_aside(self, pack_ids: set[bytes]) -> None:
        """These cannot be merged: do not name them again."""
        self._ask(lambda index: index.set_aside(pack_ids), None)

    # --- payloads ---------------------------------------------------------------------------

    def locate(self, digests: Iterable[bytes]) -> dict[bytes, list[Location]]:
        """Hints, the good ones first; what the index does not know is left out."""
        none: dict[bytes, list[Location]] = {}
        wanted = list(digests)
        found = self._ask(lambda index: index.locate(wanted), none)
        for locations in found.values():
            if len(locations) > 1:
                locations.sort(key=lambda location: location.damaged)
        return found

    def confirmed(self, digests: Iterable[bytes]) -> dict[bytes, Location]:
        """Payloads that deduplication may count on: the payload header was seen at the place just now."""
        sure = {}
        for digest, locations in self.locate(digests).items():
            for location in locations:
                trusted = not location.damaged and location.pack_id not in self.tables.problems
                if trusted and self._confirms(location, digest):
                    sure[digest] = location
                    break
        return sure

    def _confirms(self, location: Location, digest: bytes) -> bool:
        try:
            return self.packs.get(location.pack_id).confirms(location, digest)
        except (FileNotFoundError, DamagedPackError):
            return False  # then a second copy is stored: it costs space, never data

    def mark_damaged(self, digest: bytes, location: Location) -> None:
        """A load found no good bytes there: storing the content again must not count on it."""
        self._ask(lambda index: index.mark_damaged(digest, location), None)

    def mark_whole(self, roots: set[bytes]) -> None:
        """Every payload below these roots was seen in packs just now."""
        if new := roots - self.whole(roots):
            self._ask(lambda index: index.mark_whole(new), None)

    def whole(self, roots: set[bytes]) -> set[bytes]:
        """Those below which every payload was seen in packs of this store, with no damage found and no pack lost since."""
        none: set[bytes] = set()
        if not roots or self.tables.problems:
            return none
        return self._ask(lambda index: index.whole(roots), none)

    def unmark_whole(self) -> None:
        """A payload is in no pack: what was taken for whole must be looked through again."""
        self._ask(Index.unmark_whole, None)

    # --- entries ----------------------------------------------------------------------------

    def entries(self, sha1: bytes) -> list[tuple[Entry, bytes]]:
        """Hints of the index; none is no proof."""
        none: list[tuple[Entry, bytes]] = []
        return self._ask(lambda index: index.entries(sha1), none)

    def entries_of_many(self, sha1s: Iterable[bytes]) -> dict[bytes, list[tuple[Entry, bytes]]]:
        """As `entries`, for many at once; what the index does not know is left out."""
        wanted, none = list(sha1s), dict[bytes, list[tuple[Entry, bytes]]]()
        return self._ask(lambda index: index.entries_of_many(wanted), none)

    def roots(self, sizes: dict[bytes, int]) -> dict[bytes, bytes]:
        """A root of each SHA-1 whose content has the size that is given; what the index does not know so is left out."""
        none: dict[bytes, bytes] = {}
        return self._ask(lambda index: index.roots(sizes), none)

    def proved_entries(self, sha1: bytes) -> list[tuple[Entry, bytes]]:
        """What every table that is there says. Raises if a pack that cannot be read might know more."""
        self.refresh()
        found = self.tables.entries(sha1)
        if not found and self.tables.problems:
            raise self._unreadable(sha1)
        return found

    def _unreadable(self, sha1: bytes) -> KacasError:
        problems = self.tables.problems
        pack_id, first = next(iter(sorted(problems.items())))
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        message = f"whether sha1://{sha1.hex()} is here cannot be told: {first}{more}"
        if isinstance(first, NewerFormatError):
            return NewerFormatError(message, needed=first.needed, pack=first.pack)
        return DamagedPackError(message, pack=pack_id.hex())

    def log(self, owner: bytes) -> Iterator[Entry]:
        """The owner's keep entries, newest first: from the tables, so that none is missing, unless they are very many."""
        self.refresh()
        mine = self.tables.kept_by(owner, most=_PROVED_LOG if self._index is not None else None)
        if mine is not None:
            yield from sorted(mine, key=lambda entry: entry.time_ns, reverse=True)
            return
        before: bytes | None = None
        while True:
            nothing: tuple[list[Entry], bytes | None] = ([], None)
            start = before
            page, before = self._ask(lambda index: index.log(owner, start), nothing)  # noqa: B023
            yield from page
            if before is None:
                return
