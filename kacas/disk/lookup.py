"""What this store holds and where: the index and the segments for hints, segments and tables for proof.

The index may be stale, damaged, or impossible on this host, and segments damaged; answers stay right, only slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from kacas.disk.durable import sync_directory, translate
from kacas.disk.holding import hold
from kacas.disk.index import Found, Index
from kacas.disk.index_places import place_in
from kacas.disk.index_user import IndexUser
from kacas.disk.log import Pages, newest_first, pages_of
from kacas.disk.pack_reader import OpenPacks
from kacas.disk.segment_reader import SegmentUnusableError
from kacas.disk.segments import Segments, SegmentSet, decoded
from kacas.disk.tables import Tables
from kacas.disk.volume import Volume
from kacas.errors import DamagedPackError
from kacas.model.entry import Entry, decode_layout
from kacas.model.location import Location
from kacas.model.merging import RULE
from kacas.model.pack_format import Table

_IMPORT_RECORDS = 1 << 19  # at once: bounds memory to some 100 MiB whatever the store's size
_MAX_LOOK_PAUSE_S = 0.5
_SHED_TRIES = 3
_SHED_ROWS = 1 << 16
_PROVED_LOG = 100_000  # entries that are read from the tables for one look at the log: about half a second

T = TypeVar("T")


class Lookup(IndexUser):
    """Index, tables and open packs of one volume. Thread-safe, safe after fork."""

    def __init__(self, volume: Volume, cache: Path) -> None:
        self._volume = volume
        self.cache = cache
        self.rule = RULE
        self.packs = OpenPacks(volume)
        self.tables = Tables(volume, self.packs, self._suspect)
        self.segments = Segments(volume)
        self._settled: set[bytes] = set()
        self._look_again = 0.0  # when, on the monotonic clock, `refresh_soon` looks at packs/ again
        super().__init__(place_in(cache))
        self.refresh()

    @property
    def store_path(self) -> Path:
        return self._volume.path

    def close(self) -> None:
        self._close_index()
        self.packs.close()

    def refresh_soon(self) -> None:
        """Refresh unless that was done just now: looking takes a tenth of the time at most, however many packs there are.

        For what may be noticed a little later. Packs of this host are in the index at once anyway.
        """
        if time.monotonic() >= self._look_again:
            self.refresh()

    def refresh(self) -> int:
        """Take in tables of packs that appeared, leave out those that went. Returns the chunk records taken in."""
        sheds = self._ask(Index.sheds, 0)
        if self._seen and not self.tables.problems:
            # The common case: nothing but our own packs is new. Names are compared as they come.
            names = self._list()
            if self._seen <= names:
                new = self._volume.pack_ids_of(names - self._seen)
                self._seen = names
                return self._import(self._unknown(new, names, sheds)) if new else 0
        known, covered = self._known()
        relied_on, suspects = self._ask(Index.held_ids, set[bytes]()), self._ask(Index.suspects, set[bytes]())
        # Known before listed: a pack published in between is never taken for gone. Nor is one for unknown whose rows
        # were dropped in between: the segment that has them was there before.
        names = self._list()
        listed = self._volume.pack_ids_of(names)
        segments = self._look_at_segments(listed, sheds, relied_on)
        self._reread(suspects, listed)
        self.tables.pardon(covered | segments.covered(self.tables.problems.keys()))
        # A pack whose table was found damaged serves loads as far as it can, but nothing new relies on it.
        if gone := ((known | covered) - listed) | (relied_on - listed) | (known & self.tables.problems.keys()):
            self._ask(lambda index: index.remove(gone), None)
            known, covered = self._known()  # without a merged pack, its sources count again
        self._seen = names
        spared = segments.spared(self.tables.problems.keys())
        return self._import(listed - known - covered - spared) if self._index is not None else 0

    def _unknown(self, new: set[bytes], names: set[str], sheds: int) -> set[bytes]:
        """Those that the index does not know, nor any segment: another host may have made one meanwhile."""
        unknown = self._ask(lambda index: index.unknown(new), new)
        if unknown:
            relied_on = self._ask(Index.held_ids, set[bytes]())
            unknown -= self._look_at_segments(self._volume.pack_ids_of(names), sheds, relied_on).spared()
        return unknown

    def _look_at_segments(self, listed: set[bytes], sheds: int, relied_on: set[bytes]) -> SegmentSet:
        """relied_on: the packs of which the index knows that segments hold them; it is told the others."""
        segments = self.segments.refresh(listed, sheds)
        if new := segments.held - relied_on:
            self._ask(lambda index: index.hold(new), None)
        return segments

    def _reread(self, suspects: set[bytes], listed: set[bytes]) -> None:
        """Suspects that are good, or gone, are none any more."""
        read = suspects & listed
        for pack_id in read:
            self.tables.read_whole(pack_id)
        if acquitted := (suspects - listed) | (read - self.tables.problems.keys()):
            self._ask(lambda index: index.acquit(acquitted), None)

    def _suspect(self, pack_id: bytes) -> None:
        """No process of this host may rely on the pack, now or later, before its table was found good."""
        self._ask(lambda index: index.suspect(pack_id), None)

    def serving(self) -> SegmentSet:
        """The segments that have what the index has not, as of now."""
        return self._serving(self._ask(Index.sheds, self.segments.current.sheds))

    def _serving(self, sheds: int) -> SegmentSet:
        """sheds: of the index, when it was asked."""
        if sheds != self.segments.current.sheds:
            self._seen = set()
            self.refresh()
        return self.segments.current

    def load(self) -> tuple[int, int]:
        """Rows and packs, but for small ones, that the index has: what no segment holds, or was not dropped yet."""
        return self._ask(Index.load, (0, 0))

    def in_no_segment(self) -> set[bytes]:
        """Packs that are there, and neither held by a segment nor covered by a merged pack."""
        return self._volume.list_packs() - self._known()[1] - self.segments.current.spared()

    def look_for_segments(self) -> SegmentSet:
        """Those that serve now, after some were made."""
        sheds, relied_on = self._ask(Index.sheds, 0), self._ask(Index.held_ids, set[bytes]())
        return self._look_at_segments(self._volume.list_packs(), sheds, relied_on)

    def shed(self) -> None:
        """Drop what the index has of packs that segments hold."""
        for _ in range(_SHED_TRIES):
            held = self.segments.current.held
            known = self._ask(Index.pack_ids, set[bytes]())
            if not known & held:
                return
            kept = [(pack_id, table) for pack_id in known - held if (table := self.tables.read_whole(pack_id))]
            if sum(len(table.records) + table.entry_count for _, table in kept) > _SHED_ROWS:
                return  # one transaction would take too much memory
            if self._ask(lambda index: index.shed(held, kept, self.rule), True):  # noqa: B023
                return

    def do_without(self, exc: SegmentUnusableError) -> None:
        """A segment was found damaged: the tables of its packs count again."""
        self.segments.drop(exc)
        self._seen = set()
        self.refresh()

    def _without_damage(self, work: Callable[[], T]) -> T:
        """The work's result; done again without the segment if one is found damaged."""
        while True:
            try:
                return work()
            except SegmentUnusableError as exc:
                self.do_without(exc)

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
                self._take_in_many(waiting)
                waiting, waiting_records = [], 0
        if waiting:
            self._add(waiting)
        return total

    def _take_in_many(self, tables: list[tuple[bytes, Table]]) -> None:
        small = [one for one in tables if self.rule.is_small(one[1])]
        large = [one for one in tables if not self.rule.is_small(one[1])]
        if large and hold(self._volume, self.cache, large):
            self.look_for_segments()
            tables = small
        self._add(tables)

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
        self._begin_anew()
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
        wanted = list(digests)
        found = self._without_damage(lambda: self._located(wanted))
        for locations in found.values():
            if len(locations) > 1:
                locations.sort(key=lambda location: location.damaged)
        return found

    def _located(self, wanted: list[bytes]) -> dict[bytes, list[Location]]:
        nothing = Found({}, set(), self.segments.current.sheds)
        found, bad, sheds = self._ask(lambda index: index.look(wanted), nothing)
        lacking = [one for one in wanted if one not in found or all(place.damaged for place in found[one])]
        if lacking and (segments := self._serving(sheds)).segments:
            for digest, places in segments.locate(lacking, bad).items():
                known = found.setdefault(digest, [])
                known += [place for place in places if place not in known]
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
        """Hints of index and segments; none is no proof."""
        return self.entries_of_many([sha1]).get(sha1, [])

    def entries_of_many(self, sha1s: Iterable[bytes]) -> dict[bytes, list[tuple[Entry, bytes]]]:
        """As `entries`, for many at once; what neither knows is left out."""
        wanted = list(sha1s)
        return self._without_damage(lambda: self._entries(wanted))

    def _entries(self, wanted: list[bytes]) -> dict[bytes, list[tuple[Entry, bytes]]]:
        none: dict[bytes, list[tuple[Entry, bytes]]] = {}
        found = self._ask(lambda index: index.entries_of_many(wanted), none)
        for sha1, told in self._told(wanted).items():
            known = {entry.entry_id: (entry, pack_id) for entry, pack_id in _decoded(told)}
            found[sha1] = list((known | {one[0].entry_id: one for one in found.get(sha1, ())}).values())
        return found

    def _told(self, sha1s: list[bytes]) -> dict[bytes, list[tuple[bytes, bytes]]]:
        """What the segments say, of packs whose tables are not found damaged: the claims in those may be lost."""
        found = self.serving().entries(sha1s)
        problems = self.tables.problems.keys()
        if problems:
            good = {sha1: [one for one in told if one[1] not in problems] for sha1, told in found.items()}
            return {sha1: told for sha1, told in good.items() if told}
        return found

    def roots(self, sizes: dict[bytes, int]) -> dict[bytes, bytes]:
        """A root of each SHA-1 whose content has the size that is given; what index and segments do not know so is left out."""
        return self._without_damage(lambda: self._roots(sizes))

    def _roots(self, sizes: dict[bytes, int]) -> dict[bytes, bytes]:
        none: dict[bytes, bytes] = {}
        found = self._ask(lambda index: index.roots(sizes), none)
        for sha1, told in self._told([sha1 for sha1 in sizes if sha1 not in found]).items():
            layouts = (decode_layout(encoded) for encoded, _ in told)
            roots = [layout.root for layout in layouts if layout and (layout.sha1, layout.size) == (sha1, sizes[sha1])]
            if roots:
                found[sha1] = roots[0]
        return found

    def proved_entries(self, sha1: bytes) -> list[tuple[Entry, bytes]]:
        """What every table that is there says: segments say it of those that they hold.

        Raises if a pack that cannot be read might know more.
        """
        self.refresh()
        return self._without_damage(lambda: self._proved(sha1))

    def _proved(self, sha1: bytes) -> list[tuple[Entry, bytes]]:
        segments = self.serving()
        known = {
            entry.entry_id: (entry, pack_id) for entry, pack_id in _decoded(segments.entries([sha1]).get(sha1, []))
        }
        read = {one[0].entry_id: one for one in self.tables.entries(sha1, segments.spared())}
        if not (known or read) and self.tables.problems.keys() - segments.held:
            raise self.tables.unreadable(sha1, segments.held)
        return list((known | read).values())

    def log(self, owner: bytes) -> Iterator[Entry]:
        """The owner's keep entries, newest first: from the tables, so that none is missing, unless they are very many."""
        self.refresh()
        others: tuple[SegmentSet, Pages] | None = None

        def page(before: bytes, count: int) -> list[Entry]:
            nonlocal others
            while True:
                segments = self.serving()
                if others is None or others[0] is not segments:
                    others = segments, self._log_of(owner, segments)
                rest = list(others[1](before, count))
                # Else rows may have gone in between from the index into a segment that is not among these.
                if self._ask(Index.sheds, segments.sheds) == segments.sheds:
                    return [*segments.log(owner, before, count), *rest]

        return newest_first(owner, lambda before, count: self._without_damage(lambda: page(before, count)))

    def _log_of(self, owner: bytes, segments: SegmentSet) -> Pages:
        """Of what no segment holds."""
        mine = self.tables.kept_by(
            owner, most=_PROVED_LOG if self._index is not None else None, spared=segments.spared()
        )
        if mine is not None:
            return pages_of(mine)
        nothing: tuple[list[Entry], bytes | None] = ([], None)
        return lambda before, count: self._ask(lambda index: index.log(owner, before, count), nothing)[0]


def _decoded(told: list[tuple[bytes, bytes]]) -> Iterator[tuple[Entry, bytes]]:
    return ((entry, pack_id) for encoded, pack_id in told if (entry := decoded(encoded)))
