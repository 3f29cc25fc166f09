"""What the index takes in and lets go: rows of packs' tables, under numbers that it gives to packs.

Within transactions of the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lmdb

from kacas.disk.index_entries import ENTRY_KEY_SIZE, NUMBER, same_entry
from kacas.disk.index_rows import pack_number_of
from kacas.disk.index_tables import TableRows, rows_of
from kacas.model.merging import MergeRule, sources_of, tier_of
from kacas.model.pack_format import Table

# Holds the last number given to a pack: a number is never given twice, or what still points to a pack
# that is gone would point to another.
COUNTER = NUMBER.pack(0)
SHEDS = b"sheds"  # beside it: how often rows were dropped because segments have them, or a pack became suspect


class Intake:
    """tables: those of the index, by name."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self._chunks, self._entries, self._log = tables["chunks"], tables["entries"], tables["log"]
        self._packs, self._pack_numbers = tables["packs"], tables["pack_numbers"]
        self._covered, self._small = tables["covered"], tables["small"]
        self._pack_of: dict[int, bytes] = {}

    def forget_numbers(self) -> None:
        """Packs went: ask the tables again which are there."""
        self._pack_of.clear()

    def is_known(self, txn: lmdb.Transaction, pack_id: bytes) -> bool:
        return txn.get(pack_id, db=self._pack_numbers) is not None or any(
            txn.get(number, db=self._packs) is not None for number in self.coverers(txn, pack_id)
        )

    def coverers(self, txn: lmdb.Transaction, pack_id: bytes) -> list[bytes]:
        cursor = txn.cursor(self._covered)
        return [bytes(number) for number in cursor.iternext_dup()] if cursor.set_key(pack_id) else []

    def number(self, txn: lmdb.Transaction, tables: Iterable[tuple[bytes, Table]]) -> list[tuple[bytes, bytes, Table]]:
        """Those that are not there, each with a new number for its pack."""
        counter = txn.get(COUNTER, db=self._packs)
        number = NUMBER.unpack(counter)[0] if counter else 0
        numbered = []
        for pack_id, table in tables:
            if not self.is_known(txn, pack_id):
                number += 1
                numbered.append((NUMBER.pack(number), pack_id, table))
        txn.put(COUNTER, NUMBER.pack(number), db=self._packs)
        return numbered

    def put_rows(self, txn: lmdb.Transaction, rows: TableRows) -> None:
        chunks = txn.cursor(self._chunks)
        # Sorted append packs the pages full: 47-64 bytes a record instead of 312.
        append = bool(rows.chunks) and (not chunks.last() or bytes(chunks.key()) < rows.chunks[0][0])
        chunks.putmulti(rows.chunks, append=append)
        txn.cursor(self._entries).putmulti(rows.entries)
        txn.cursor(self._log).putmulti(rows.log)

    def enter(self, txn: lmdb.Transaction[Any], numbered: list[tuple[bytes, bytes, Table]], rule: MergeRule) -> None:
        """Rows of these packs count from now on."""
        for number, pack_id, table in numbered:
            if self.is_known(txn, pack_id):
                continue  # another process entered it meanwhile, or one of these covers it
            txn.put(number, pack_id, db=self._packs)
            txn.put(pack_id, number, db=self._pack_numbers)
            if rule.is_small(table):
                txn.put(_small_key(pack_id, number), pack_id, db=self._small)
            if sources := sources_of(table) - {pack_id}:
                dead = self.cover(txn, number, sources)
                self.drop_rows(txn, rows_of([(number, table)]), dead)

    def cover(self, txn: lmdb.Transaction, key: bytes, sources: frozenset[bytes]) -> set[bytes]:
        """Returns the numbers of those that were there."""
        dead = {number for source in sources if (number := self.take_out(txn, source))}
        for source in sorted(sources):
            for other in self.coverers(txn, source):
                if txn.get(other, db=self._packs) is None:
                    txn.delete(source, other, db=self._covered)
            txn.put(source, key, db=self._covered)
        self.forget_numbers()
        return dead

    def take_out(self, txn: lmdb.Transaction, pack_id: bytes) -> bytes | None:
        """Returns the pack's number if it was there."""
        number = txn.pop(pack_id, db=self._pack_numbers)
        if number is None:
            return None
        txn.delete(number, db=self._packs)
        txn.delete(_small_key(pack_id, bytes(number)), db=self._small)
        return bytes(number)

    def drop_rows(self, txn: lmdb.Transaction[Any], rows: TableRows, dead: set[bytes]) -> None:
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

    def sheds(self, txn: lmdb.Transaction[Any]) -> int:
        return int.from_bytes(txn.get(SHEDS, b"", db=self._packs), "big")

    def set_sheds(self, txn: lmdb.Transaction[Any], sheds: int) -> None:
        txn.put(SHEDS, sheds.to_bytes(8, "big"), db=self._packs)

    def pack_id(self, txn: lmdb.Transaction, number: int) -> bytes | None:
        known = self._pack_of.get(number)
        if known is None:
            stored = txn.get(NUMBER.pack(number), db=self._packs)
            # Both tables must say so: a flipped bit in one would send readers and writers to a pack that never was.
            if stored is None or txn.get(stored, db=self._pack_numbers) != NUMBER.pack(number):
                return None
            known = self._pack_of[number] = bytes(stored)
        return known


def _small_key(pack_id: bytes, key: bytes) -> bytes:
    return bytes((tier_of(pack_id),)) + key
