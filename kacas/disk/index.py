"""The index: hints in LMDB on a host-local disk. A cache of the packs' tables, never a truth.

Every value carries a checksum over key and value; one that does not match is as if it were not there.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from kacas.disk import index_environment
from kacas.disk.index_entries import (
    ENTRY_KEY_SIZE,
    NUMBER,
    end_of_log,
    entries_of,
    owner_hash,
    read_entry,
    root_of,
    same_entry,
)
from kacas.disk.index_environment import IndexUnusableError
from kacas.disk.index_rows import (
    KEY_SIZE,
    TAIL_STOP,
    VALUE_SIZE,
    Row,
    as_damaged,
    decode_rows,
    pack_number_of,
)
from kacas.disk.index_tables import TableRows, rows_of
from kacas.model.digest import ID_SIZE
from kacas.model.entry import Entry
from kacas.model.location import Location
from kacas.model.merging import RULE, MergeRule, sources_of, tier_of
from kacas.model.pack_format import Table

# Holds the last number given to a pack: a number is never given twice, or what still points to a pack
# that is gone would point to another.
_COUNTER = NUMBER.pack(0)
_PER_TRANSACTION = 16_384  # rows: 128 MiB of changed pages at the very worst, when each is in a page of its own

T = TypeVar("T")


class Index:
    """Thread-safe; several Index objects and processes may use one directory. Every method may raise IndexUnusableError."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._shared = index_environment.acquire(place)
        self._end = weakref.finalize(self, index_environment.abandon, place, self._shared)
        self._end.atexit = False
        if not self._shared.tables:
            self._shared.tables = self._open_tables()
        tables = self._shared.tables
        self._chunks, self._entries, self._log = tables["chunks"], tables["entries"], tables["log"]
        self._packs, self._pack_numbers = tables["packs"], tables["pack_numbers"]
        self._covered, self._small = tables["covered"], tables["small"]
        self._whole = tables["whole"]
        self._pack_of: dict[int, bytes] = {}

    def _open_tables(self) -> dict[str, Any]:
        def create(environment: lmdb.Environment) -> dict[str, Any]:
            tables = {
                name: environment.open_db(name.encode())
                for name in ("entries", "log", "packs", "pack_numbers", "small", "whole")
            }  # fmt: skip
            for name in ("chunks", "covered"):
                tables[name] = environment.open_db(name.encode(), dupsort=True, dupfixed=True)
            return tables

        return self._run(create)

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

        def read(environment: lmdb.Environment) -> set[bytes]:
            with environment.begin(self._pack_numbers) as txn:
                return {bytes(key) for key in txn.cursor().iternext(keys=True, values=False)}

        return self._run(read)

    def covered_ids(self) -> set[bytes]:
        """Packs that a merged pack covers whose table is in the index: theirs need not be."""

        def read(environment: lmdb.Environment) -> set[bytes]:
            with environment.begin() as txn:
                numbers = set(txn.cursor(self._packs).iternext(keys=True, values=False)) - {_COUNTER}
                return {bytes(source) for source, number in txn.cursor(self._covered) if number in numbers}

        return self._run(read)

    def unknown(self, pack_ids: Iterable[bytes]) -> set[bytes]:
        """Those whose tables are not in the index, and need to be."""

        def read(environment: lmdb.Environment) -> set[bytes]:
            with environment.begin() as txn:
                return {one for one in pack_ids if not self._is_known(txn, one)}

        return self._run(read)

    def _is_known(self, txn: lmdb.Transaction, pack_id: bytes) -> bool:
        return txn.get(pack_id, db=self._pack_numbers) is not None or any(
            txn.get(number, db=self._packs) is not None for number in self._coverers(txn, pack_id)
        )

    def _coverers(self, txn: lmdb.Transaction, pack_id: bytes) -> list[bytes]:
        cursor = txn.cursor(self._covered)
        return [bytes(number) for number in cursor.iternext_dup()] if cursor.set_key(pack_id) else []

    def add(self, tables: Iterable[tuple[bytes, Table]], rule: MergeRule = RULE) -> None:
        """Take in tables; a pack that is there already, or covered, is skipped.

        What a merged pack covers is taken out. rule: which of them are small.
        """

        def write(environment: lmdb.Environment) -> None:
            with environment.begin(write=True) as txn:
                numbered = self._number(txn, tables)
                rows = rows_of((number, table) for number, _, table in numbered)
                if len(rows) <= _PER_TRANSACTION:
                    self._put_rows(txn, rows)
                    self._enter(txn, numbered, rule)
                    return
            # A transaction keeps the pages that it changes in memory. Rows of a pack that was not entered are no hints.
            for part in rows.parts(_PER_TRANSACTION):
                with environment.begin(write=True) as txn:
                    self._put_rows(txn, part)
            with environment.begin(write=True) as txn:
                self._enter(txn, numbered, rule)

        self._run(write)

    def _number(self, txn: lmdb.Transaction, tables: Iterable[tuple[bytes, Table]]) -> list[tuple[bytes, bytes, Table]]:
        """Those that are not there, each with a new number for its pack."""
        counter = txn.get(_COUNTER, db=self._packs)
        number = NUMBER.unpack(counter)[0] if counter else 0
        numbered = []
        for pack_id, table in tables:
            if not self._is_known(txn, pack_id):
                number += 1
                numbered.append((NUMBER.pack(number), pack_id, table))
        txn.put(_COUNTER, NUMBER.pack(number), db=self._packs)
        return numbered

    def _put_rows(self, txn: lmdb.Transaction, rows: TableRows) -> None:
        chunks = txn.cursor(self._chunks)
        # Sorted append packs the pages full: 47-64 bytes a record instead of 312.
        append = bool(rows.chunks) and (not chunks.last() or bytes(chunks.key()) < rows.chunks[0][0])
        chunks.putmulti(rows.chunks, append=append)
        txn.cursor(self._entries).putmulti(rows.entries)
        txn.cursor(self._log).putmulti(rows.log)

    def _enter(self, txn: lmdb.Transaction[Any], numbered: list[tuple[bytes, bytes, Table]], rule: MergeRule) -> None:
        """Rows of these packs count from now on."""
        for number, pack_id, table in numbered:
            if self._is_known(txn, pack_id):
                continue  # another process entered it meanwhile, or one of these covers it
            txn.put(number, pack_id, db=self._packs)
            txn.put(pack_id, number, db=self._pack_numbers)
            if rule.is_small(table):
                txn.put(_small_key(pack_id, number), pack_id, db=self._small)
            if sources := sources_of(table) - {pack_id}:
                dead = self._cover(txn, number, sources)
                self._drop_rows(txn, rows_of([(number, table)]), dead)

    def _cover(self, txn: lmdb.Transaction, key: bytes, sources: frozenset[bytes]) -> set[bytes]:
        """Returns the numbers of those that were there."""
        dead = {number for source in sources if (number := self._take_out(txn, source))}
        for source in sorted(sources):
            for other in self._coverers(txn, source):
                if txn.get(other, db=self._packs) is None:
                    txn.delete(source, other, db=self._covered)
            txn.put(source, key, db=self._covered)
        self._pack_of.clear()
        return dead

    def _take_out(self, txn: lmdb.Transaction, pack_id: bytes) -> bytes | None:
        """Returns the pack's number if it was there."""
        number = txn.pop(pack_id, db=self._pack_numbers)
        if number is None:
            return None
        txn.delete(number, db=self._packs)
        txn.delete(_small_key(pack_id, bytes(number)), db=self._small)
        return bytes(number)

    def _drop_rows(self, txn: lmdb.Transaction[Any], rows: TableRows, dead: set[bytes]) -> None:
        """Rows of a merged pack were added: those of its sources, of the dead numbers, would only lie about."""
        cursor = txn.cursor(self._chunks)
        for key, _ in rows.chunks:
            for value in list(cursor.iternext_dup()) if cursor.set_key(key) else ():
                if NUMBER.pack(pack_number_of(bytes(value))) in dead:
                    txn.delete(key, value, db=self._chunks)
        for key, _ in rows.entries:
            for other in list(same_entry(txn.cursor(self._entries), key[:ENTRY_KEY_SIZE])):
                if other[ENTRY_KEY_SIZE:] in dead:
                    txn.delete(other, db=self._entries)

    def remove(self, pack_ids: Iterable[bytes]) -> None:
        """Packs that are gone, or unreadable: what points to them is ignored from now on, what they cover is not covered."""

        def write(environment: lmdb.Environment) -> None:
            with environment.begin(write=True) as txn:
                for pack_id in pack_ids:
                    self._take_out(txn, pack_id)
                    txn.delete(pack_id, db=self._covered)
                txn.drop(self._whole, delete=False)
            self._pack_of.clear()

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
            with environment.begin(write=True) as txn:
                for key, pack_id in list(txn.cursor(self._small)):
                    if pack_id in pack_ids:
                        txn.delete(key, db=self._small)

        self._run(write)

    def locate(self, digests: Iterable[bytes]) -> dict[bytes, list[Location]]:
        """Where the payloads may be; digests that are not known are left out."""

        def read(environment: lmdb.Environment) -> dict[bytes, list[Location]]:
            found: dict[bytes, list[Location]] = {}
            wanted = {digest[:KEY_SIZE]: digest for digest in digests}
            with environment.begin() as txn:
                cursor = txn.cursor(self._chunks)
                try:
                    rows = cursor.getmulti(list(wanted), dupdata=True, dupfixed_bytes=VALUE_SIZE, keyfixed=True)
                    decoded = list(decode_rows(rows))
                except (ValueError, OverflowError) as exc:  # keys or values of another size: damage
                    raise IndexUnusableError(str(exc)) from exc
                for row in decoded:
                    digest = wanted.get(row.key)
                    if digest and (location := self._location(txn, digest, row)):
                        found.setdefault(digest, []).append(location)
            return found

        return self._run(read)

    def _location(self, txn: lmdb.Transaction, digest: bytes, row: Row) -> Location | None:
        """None if the row is another digest's, or the pack is gone."""
        if row.tail != digest[KEY_SIZE:TAIL_STOP] or (pack_id := self._pack_id(txn, row.pack)) is None:
            return None
        return Location(pack_id, *row[3:])

    def _pack_id(self, txn: lmdb.Transaction, number: int) -> bytes | None:
        if number not in self._pack_of:
            stored = txn.get(NUMBER.pack(number), db=self._packs)
            # Both tables must say so: a flipped bit in one would send readers and writers to a pack that never was.
            if stored is None or txn.get(stored, db=self._pack_numbers) != NUMBER.pack(number):
                return None
            self._pack_of[number] = bytes(stored)
        return self._pack_of[number]

    def mark_damaged(self, digest: bytes, location: Location) -> None:
        """Remember that the payload at this place is not good, so that storing the content again heals it."""

        def write(environment: lmdb.Environment) -> None:
            with environment.begin(write=True) as txn:
                txn.drop(self._whole, delete=False)
                cursor = txn.cursor(self._chunks)
                for key, value in cursor.getmulti([digest[:KEY_SIZE]], dupdata=True):
                    rows = decode_rows(key + value) if len(value) == VALUE_SIZE else ()
                    if any(self._location(txn, digest, row) == location for row in rows):
                        txn.delete(key, value, db=self._chunks)
                        txn.put(key, as_damaged(digest, value), db=self._chunks)

        self._run(write)

    def mark_whole(self, roots: Iterable[bytes]) -> None:
        """Every payload below these roots was seen in packs just now. Holds until something is found damaged or gone."""

        def write(environment: lmdb.Environment) -> None:
            with environment.begin(self._whole, write=True) as txn:
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
            with environment.begin(write=True) as txn:
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
                cursor, pack_of = txn.cursor(self._entries), partial(self._pack_id, txn)
                for sha1 in sha1s:
                    if entries := entries_of(cursor, sha1, pack_of):
                        found[sha1] = entries
            return found

        return self._run(read)

    def roots(self, sizes: Mapping[bytes, int]) -> dict[bytes, bytes]:
        """A root of each SHA-1, as an entry says that gives it this size; others are left out."""

        def read(environment: lmdb.Environment) -> dict[bytes, bytes]:
            with environment.begin() as txn:
                cursor, pack_of = txn.cursor(self._entries), partial(self._pack_id, txn)
                found = {sha1: root_of(cursor, sha1, size, pack_of) for sha1, size in sizes.items()}
            return {sha1: root for sha1, root in found.items() if root}

        return self._run(read)

    def log(self, owner: bytes, before: bytes | None = None, count: int = 1000) -> tuple[list[Entry], bytes | None]:
        """The owner's keep entries, newest first, a page at a time: (entries, where the next page begins)."""

        def read(environment: lmdb.Environment) -> tuple[list[Entry], bytes | None]:
            page: list[Entry] = []
            prefix = owner_hash(owner)
            position = before
            with environment.begin() as txn:
                cursor, pack_of = txn.cursor(self._log), partial(self._pack_id, txn)
                more = cursor.prev() if cursor.set_range(before or end_of_log(owner)) else cursor.last()
                while more and len(page) < count:
                    key, sha1 = cursor.item()
                    if key[: len(prefix)] != prefix:
                        return page, None
                    position = bytes(key)
                    for same in same_entry(txn.cursor(self._entries), sha1 + key[-ID_SIZE:]):
                        known = read_entry(same, txn.get(same, b"", db=self._entries), pack_of)
                        if known and known[0].owner == owner:
                            page.append(known[0])
                            break
                    more = cursor.prev()
            return page, position if more else None

        return self._run(read)


def _small_key(pack_id: bytes, key: bytes) -> bytes:
    return bytes((tier_of(pack_id),)) + key
