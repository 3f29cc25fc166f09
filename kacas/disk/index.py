"""The index: hints in LMDB on a host-local disk. A cache of the packs' tables, never a truth.

Every value carries a checksum over key and value; one that does not match is as if it were not there.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lmdb

from kacas.disk import index_environment
from kacas.disk.index_entries import entries_of, log_page, root_of
from kacas.disk.index_environment import IndexUnusableError
from kacas.disk.index_intake import COUNTER, Intake
from kacas.disk.index_marks import Place, mark_of, marked, unmark
from kacas.disk.index_rows import KEY_SIZE, TAIL_STOP, VALUE_SIZE, Row, decode_rows
from kacas.disk.index_tables import rows_of
from kacas.model.entry import Entry
from kacas.model.location import Location
from kacas.model.merging import RULE, MergeRule
from kacas.model.pack_format import Table

_PER_TRANSACTION = 16_384  # rows: 128 MiB of changed pages at the very worst, when each is in a page of its own

T = TypeVar("T")


class Found(NamedTuple):
    """places: of digests that the index knows. bad: places of any of them that are marked as damaged. sheds: see `sheds`."""

    places: dict[bytes, list[Location]]
    bad: set[Place]
    sheds: int


class Index:
    """Thread-safe; several Index objects and processes may use one directory. Every method may raise IndexUnusableError."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._shared = index_environment.acquire(place)
        self._end = weakref.finalize(self, index_environment.abandon, place, self._shared)
        self._end.atexit = False
        tables = self._shared.tables
        self._chunks, self._entries, self._log = tables["chunks"], tables["entries"], tables["log"]
        self._packs, self._pack_numbers = tables["packs"], tables["pack_numbers"]
        self._covered, self._small = tables["covered"], tables["small"]
        self._whole, self._damaged = tables["whole"], tables["damaged"]
        self._held, self._suspects = tables["held"], tables["suspects"]
        self._intake = Intake(tables)

    def _run(self, work: Callable[[lmdb.Environment], T]) -> T:
        """LMDB's complaints (damage, full map, full disk) are all one thing to us: no help from the index."""
        with index_environment.operation_lock():
            try:
                return work(index_environment.opened(self._shared))
            except (lmdb.Error, OSError, struct.error) as exc:
                raise IndexUnusableError(str(exc)) from exc

    def close(self) -> None:
        if self._end.detach():
            index_environment.release(self._place, self._shared)

    def renew(self) -> None:
        """Start anew, empty; this object is closed."""
        self._end.detach()
        index_environment.renew(self._place, self._shared)

    def pack_ids(self) -> set[bytes]:
        """Packs whose tables are in the index."""
        return self._keys(self._pack_numbers)

    def _keys(self, table: Any) -> set[bytes]:
        def read(environment: lmdb.Environment) -> set[bytes]:
            with environment.begin(table) as txn:
                return set(txn.cursor().iternext(keys=True, values=False))

        return self._run(read)

    def held_ids(self) -> set[bytes]:
        """Packs that segments hold, as far as it was told: what is whole may rely on them."""
        return self._keys(self._held)

    def hold(self, pack_ids: Iterable[bytes]) -> None:
        """Segments hold these packs, which are there: from now on, what is whole may rely on them until one is removed."""

        def write(environment: lmdb.Environment) -> None:
            with self._shared.writing(self._held) as txn:
                txn.cursor().putmulti([(pack_id, b"") for pack_id in sorted(pack_ids)])

        self._run(write)

    def suspects(self) -> set[bytes]:
        """Packs whose tables were found damaged: whoever begins looks at them again before it relies on them."""
        return self._keys(self._suspects)

    def suspect(self, pack_id: bytes) -> None:
        """The pack's table was found damaged. If that is new, `sheds` changes, so that all processes look again."""
        if pack_id in self.suspects():
            return

        def write(environment: lmdb.Environment) -> None:
            with self._shared.writing() as txn:
                if txn.put(pack_id, b"", overwrite=False, db=self._suspects):
                    self._intake.set_sheds(txn, self._intake.sheds(txn) + 1)

        self._run(write)

    def acquit(self, pack_ids: Iterable[bytes]) -> None:
        """These tables are good, or gone."""

        def write(environment: lmdb.Environment) -> None:
            with self._shared.writing(self._suspects) as txn:
                for pack_id in pack_ids:
                    txn.delete(pack_id)

        self._run(write)

    def covered_ids(self) -> set[bytes]:
        """Packs that a merged pack covers whose table is in the index: theirs need not be."""

        def read(environment: lmdb.Environment) -> set[bytes]:
            with environment.begin() as txn:
                numbers = set(txn.cursor(self._packs).iternext(keys=True, values=False)) - {COUNTER}
                return {bytes(source) for source, number in txn.cursor(self._covered) if number in numbers}

        return self._run(read)

    def unknown(self, pack_ids: Iterable[bytes]) -> set[bytes]:
        """Those whose tables are not in the index, and need to be."""

        def read(environment: lmdb.Environment) -> set[bytes]:
            with environment.begin() as txn:
                return {one for one in pack_ids if not self._intake.is_known(txn, one)}

        return self._run(read)

    def add(self, tables: Iterable[tuple[bytes, Table]], rule: MergeRule = RULE) -> None:
        """Take in tables; a pack that is there already, or covered, is skipped.

        What a merged pack covers is taken out. rule: which of them are small.
        """

        given = list(tables)

        def write(environment: lmdb.Environment) -> None:
            while not self._added(environment, given, rule):
                pass  # rows were shed meanwhile, these too

        self._run(write)

    def _added(self, environment: lmdb.Environment, tables: list[tuple[bytes, Table]], rule: MergeRule) -> bool:
        with self._shared.writing() as txn:
            numbered = self._intake.number(txn, tables)
            rows = rows_of((number, table) for number, _, table in numbered)
            if len(rows) <= _PER_TRANSACTION:
                self._intake.put_rows(txn, rows)
                self._intake.enter(txn, numbered, rule)
                return True
            sheds = self._intake.sheds(txn)
        # A transaction keeps the pages that it changes in memory. Rows of a pack that was not entered are no hints.
        for part in rows.parts(_PER_TRANSACTION):
            with self._shared.writing() as txn:
                self._intake.put_rows(txn, part)
        with self._shared.writing() as txn:
            if self._intake.sheds(txn) != sheds:
                return False
            self._intake.enter(txn, numbered, rule)
            return True

    def sheds(self) -> int:
        """Rises when rows are dropped because segments have them, or a pack becomes suspect: then look what there is."""

        def read(environment: lmdb.Environment) -> int:
            with environment.begin() as txn:
                return self._intake.sheds(txn)

        return self._run(read)

    def counts(self) -> dict[str, int]:
        """The rows of each table."""

        def read(environment: lmdb.Environment) -> dict[str, int]:
            with environment.begin() as txn:
                return {name: txn.stat(table)["entries"] for name, table in self._shared.tables.items()}

        return self._run(read)

    def load(self) -> tuple[int, int]:
        """Rows of chunks and entries, and packs that are not small: what the segments do not have yet."""
        rows = self.counts()
        return rows["chunks"] + rows["entries"], rows["pack_numbers"] - rows["small"]

    def shed(self, held: Set[bytes], kept: Sequence[tuple[bytes, Table]], rule: MergeRule = RULE) -> bool:
        """Drop the rows of the packs that segments hold; marks stay. kept: the tables of all others that are in the index.

        At once for all processes, which learn of it from `sheds`. False if another pack came meanwhile: then nothing was done.
        """

        def write(environment: lmdb.Environment) -> bool:
            with self._shared.writing() as txn:
                left = set(txn.cursor(self._pack_numbers).iternext(keys=True, values=False)) - held
                if not left <= {pack_id for pack_id, _ in kept}:
                    return False
                counter, sheds = txn.get(COUNTER, b"", db=self._packs), self._intake.sheds(txn)
                for table in (self._chunks, self._entries, self._log, self._packs, self._pack_numbers, self._small):
                    txn.drop(table, delete=False)
                txn.drop(self._covered, delete=False)
                txn.put(COUNTER, counter, db=self._packs)
                self._intake.set_sheds(txn, sheds + 1)
                numbered = self._intake.number(txn, [one for one in kept if one[0] in left])
                self._intake.put_rows(txn, rows_of((number, table) for number, _, table in numbered))
                self._intake.enter(txn, numbered, rule)
            self._intake.forget_numbers()
            return True

        return self._run(write)

    def remove(self, pack_ids: Iterable[bytes]) -> None:
        """Packs that are gone, or unreadable: what points to them is ignored from now on, what they cover is not covered."""

        def write(environment: lmdb.Environment) -> None:
            gone = set(pack_ids)
            with self._shared.writing() as txn:
                for pack_id in gone:
                    self._intake.take_out(txn, pack_id)
                    txn.delete(pack_id, db=self._covered)
                    txn.delete(pack_id, db=self._held)
                unmark(txn, self._damaged, gone)
                txn.drop(self._whole, delete=False)
            self._intake.forget_numbers()

        self._run(write)

    def piled_up(self, count: int) -> list[bytes]:
        """The `count` oldest small packs of one tier that nothing covers; none if no tier has so many."""

        def read(environment: lmdb.Environment) -> list[bytes]:
            found: list[bytes] = []
            tier = b""
            with environment.begin() as txn:
                for key, pack_id in txn.cursor(self._small):
                    if key[:1] != tier:
                        tier, found = key[:1], []
                    found.append(bytes(pack_id))
                    if len(found) == count:
                        return found
            return []

        return self._run(read)

    def set_aside(self, pack_ids: set[bytes]) -> None:
        """These are not small packs to be merged, whatever their size."""

        def write(environment: lmdb.Environment) -> None:
            with self._shared.writing() as txn:
                for key, pack_id in list(txn.cursor(self._small)):
                    if pack_id in pack_ids:
                        txn.delete(key, db=self._small)

        self._run(write)

    def locate(self, digests: Iterable[bytes]) -> dict[bytes, list[Location]]:
        """Where the payloads may be; digests that are not known are left out."""
        return self.look(digests).places

    def look(self, digests: Iterable[bytes]) -> Found:
        """As `locate`, with what is needed to ask the segments."""
        wanted = {digest[:KEY_SIZE]: digest for digest in digests}

        def read(environment: lmdb.Environment) -> Found:
            places: dict[bytes, list[Location]] = {}
            with environment.begin() as txn:
                cursor = txn.cursor(self._chunks)
                try:
                    rows = cursor.getmulti(list(wanted), dupdata=True, dupfixed_bytes=VALUE_SIZE, keyfixed=True)
                    decoded = decode_rows(rows)
                except (ValueError, OverflowError) as exc:  # keys or values of another size: damage
                    raise IndexUnusableError(str(exc)) from exc
                for row in decoded:
                    digest = wanted.get(row[0])
                    if digest and (location := self._location(txn, digest, row)):
                        places.setdefault(digest, []).append(location)
                bad = marked(txn, self._damaged, wanted.values())
                for digest, pack_id, offset in bad:
                    if digest in places:
                        places[digest] = [
                            place._replace(damaged=place.damaged or place[:2] == (pack_id, offset))
                            for place in places[digest]
                        ]
                return Found(places, bad, self._intake.sheds(txn))

        return self._run(read)

    def _location(self, txn: lmdb.Transaction, digest: bytes, row: Row) -> Location | None:
        """None if the row is another digest's, or the pack is gone."""
        _, tail, pack, offset, payload_size, raw_size, parameters_size, kind, codec = row
        if tail != digest[KEY_SIZE:TAIL_STOP] or (pack_id := self._intake.pack_id(txn, pack)) is None:
            return None
        return Location(pack_id, offset, payload_size, raw_size, parameters_size, kind, codec)

    def mark_damaged(self, digest: bytes, location: Location) -> None:
        """Remember that the payload at this place is not good, so that storing the content again heals it."""

        def write(environment: lmdb.Environment) -> None:
            with self._shared.writing() as txn:
                txn.drop(self._whole, delete=False)
                txn.put(*mark_of(digest, location), db=self._damaged)

        self._run(write)

    def mark_whole(self, roots: Iterable[bytes]) -> None:
        """Every payload below these roots was seen in packs just now. Holds until something is found damaged or gone."""

        def write(environment: lmdb.Environment) -> None:
            with self._shared.writing(self._whole) as txn:
                txn.cursor().putmulti([(root, b"") for root in sorted(roots)])

        self._run(write)

    def whole(self, roots: Iterable[bytes]) -> set[bytes]:
        """Those that are marked and nothing was found amiss since."""

        def read(environment: lmdb.Environment) -> set[bytes]:
            with environment.begin(self._whole) as txn:
                return {root for root in roots if txn.get(root) is not None}

        return self._run(read)

    def unmark_whole(self) -> None:
        """Something is missing: what was whole may not be."""

        def write(environment: lmdb.Environment) -> None:
            with self._shared.writing() as txn:
                txn.drop(self._whole, delete=False)

        self._run(write)

    def entries(self, sha1: bytes) -> list[tuple[Entry, bytes]]:
        """All entries of the SHA-1, keep and forget, each with the pack that holds it."""
        return self.entries_of_many([sha1]).get(sha1, [])

    def entries_of_many(self, sha1s: Iterable[bytes]) -> dict[bytes, list[tuple[Entry, bytes]]]:
        """As `entries`, in one transaction; what is not known is left out."""

        def read(environment: lmdb.Environment) -> dict[bytes, list[tuple[Entry, bytes]]]:
            found: dict[bytes, list[tuple[Entry, bytes]]] = {}
            with environment.begin() as txn:
                cursor, pack_of = txn.cursor(self._entries), partial(self._intake.pack_id, txn)
                for sha1 in sha1s:
                    if entries := entries_of(cursor, sha1, pack_of):
                        found[sha1] = entries
            return found

        return self._run(read)

    def roots(self, sizes: Mapping[bytes, int]) -> dict[bytes, bytes]:
        """A root of each SHA-1, as an entry says that gives it this size; others are left out."""

        def read(environment: lmdb.Environment) -> dict[bytes, bytes]:
            with environment.begin() as txn:
                cursor, pack_of = txn.cursor(self._entries), partial(self._intake.pack_id, txn)
                # In order: neighbours are in one page, which is in the processor's cache then.
                found = {sha1: root_of(cursor, sha1, size, pack_of) for sha1, size in sorted(sizes.items())}
            return {sha1: root for sha1, root in found.items() if root}

        return self._run(read)

    def log(self, owner: bytes, before: bytes | None = None, count: int = 1000) -> tuple[list[Entry], bytes | None]:
        """The owner's keep entries, newest first, a page at a time: (entries, where the next page begins)."""

        def read(environment: lmdb.Environment) -> tuple[list[Entry], bytes | None]:
            with environment.begin() as txn:
                cursor, entries = txn.cursor(self._log), txn.cursor(self._entries)
                return log_page(cursor, entries, owner, before, count, partial(self._intake.pack_id, txn))

        return self._run(read)
