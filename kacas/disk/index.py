"""The index: hints in LMDB on a host-local disk. A cache of the packs' tables, never a truth.

Every value carries a checksum over key and value; one that does not match is as if it were not there.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable
from operator import mul
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import numpy as np
from numpy.typing import NDArray

from kacas.disk import index_environment
from kacas.disk.index_environment import IndexUnusableError
from kacas.model.digest import ID_SIZE, SHA1_SIZE, checksum
from kacas.model.entry import Action, Entry, EntryError, decode_entry
from kacas.model.location import Location
from kacas.model.pack_format import Records, Table

_KEY_SIZE = 16
_VALUE = np.dtype(
    [
        ("tail", "V8"), ("pack", "<u4"), ("payload_size", "<u4"), ("raw_size", "<u4"), ("offset_low", "<u4"),
        ("offset_high", "<u4"), ("parameters_size", "<u2"), ("kind", "u1"), ("codec", "u1"), ("check", "<u4"),
    ]
)  # fmt: skip
_VALUE_STRUCT = struct.Struct("<8sIIIIIHBBI")
_WORDS = struct.Struct("<13I")  # key and value, the check last
_DAMAGED = 0x80  # a bit of `kind`: a load found the payload damaged; not for dedup, and read only as a last resort
_NUMBER = struct.Struct(">I")
# Holds the last number given to a pack: a number is never given twice, or what still points to a pack
# that is gone would point to another.
_COUNTER = _NUMBER.pack(0)
_LOG = struct.Struct(">16sQ16s")  # owner hash, time, entry id
# Odd factors: the sum changes with any single flipped bit.
_FACTORS = [int(f) for f in np.random.Generator(np.random.PCG64(20261122)).integers(1 << 31, size=12) * 2 + 1]
assert _VALUE.itemsize == _VALUE_STRUCT.size == 36

T = TypeVar("T")


class Index:
    """Thread-safe; several Index objects and processes may use one directory. Every method may raise IndexUnusableError."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._shared = index_environment.acquire(place)
        if not self._shared.tables:
            self._shared.tables = self._open_tables()
        tables = self._shared.tables
        self._chunks, self._entries, self._log = tables["chunks"], tables["entries"], tables["log"]
        self._packs, self._pack_numbers = tables["packs"], tables["pack_numbers"]
        self._whole = tables["whole"]
        self._pack_of: dict[int, bytes] = {}

    def _open_tables(self) -> dict[str, Any]:
        def create(environment: lmdb.Environment) -> dict[str, Any]:
            tables = {
                name: environment.open_db(name.encode())
                for name in ("entries", "log", "packs", "pack_numbers", "whole")
            }  # fmt: skip
            tables["chunks"] = environment.open_db(b"chunks", dupsort=True, dupfixed=True)
            return tables

        return self._run(create)

    def _run(self, work: Callable[[lmdb.Environment], T]) -> T:
        """LMDB's complaints (damage, full map, full disk) are all one thing to us: no help from the index."""
        with index_environment.operation(self._shared) as environment:
            try:
                return work(environment)
            except (lmdb.Error, OSError, struct.error) as exc:
                raise IndexUnusableError(str(exc)) from exc

    def close(self) -> None:
        index_environment.release(self._place, self._shared)

    def renew(self) -> None:
        """Start anew, empty; this object is closed."""
        index_environment.renew(self._place, self._shared)

    def pack_ids(self) -> set[bytes]:
        """Packs whose tables are in the index."""

        def read(environment: lmdb.Environment) -> set[bytes]:
            with environment.begin(self._pack_numbers) as txn:
                return {bytes(key) for key in txn.cursor().iternext(keys=True, values=False)}

        return self._run(read)

    def add(self, tables: Iterable[tuple[bytes, Table]]) -> None:
        """Take in tables in one transaction; a pack that is there already is skipped."""

        def write(environment: lmdb.Environment) -> None:
            with environment.begin(write=True) as txn:
                rows: list[NDArray[np.void]] = []
                entries: list[tuple[bytes, bytes]] = []
                log: list[tuple[bytes, bytes]] = []
                counter = txn.get(_COUNTER, db=self._packs)
                number = _NUMBER.unpack(counter)[0] if counter else 0
                for pack_id, table in tables:
                    if txn.get(pack_id, db=self._pack_numbers) is not None:
                        continue
                    number += 1
                    key = _NUMBER.pack(number)
                    txn.put(key, pack_id, db=self._packs)
                    txn.put(pack_id, key, db=self._pack_numbers)
                    rows.append(_chunk_rows(table.records, number))
                    for entry, encoded in table.encoded_entries():
                        entries.append((entry.sha1 + entry.entry_id, key + encoded))
                        if entry.action == Action.KEEP:
                            log.append((_log_key(entry), entry.sha1))
                txn.put(_COUNTER, _NUMBER.pack(number), db=self._packs)
                self._put_chunks(txn, rows)
                txn.cursor(self._entries).putmulti(sorted(entries))
                txn.cursor(self._log).putmulti(sorted(log))

        self._run(write)

    def _put_chunks(self, txn: lmdb.Transaction, rows: list[NDArray[np.void]]) -> None:
        joined = np.concatenate(rows) if rows else np.empty(0, "V52")
        if not joined.size:
            return
        items = sorted(joined.tolist())
        pairs = [(item[:_KEY_SIZE], item[_KEY_SIZE:]) for item in items]
        # Sorted append packs the pages full: 47-64 bytes a record instead of 312.
        txn.cursor(self._chunks).putmulti(pairs, append=txn.stat(self._chunks)["entries"] == 0)

    def remove(self, pack_ids: Iterable[bytes]) -> None:
        """Packs that are gone: what points to them is ignored from now on."""

        def write(environment: lmdb.Environment) -> None:
            with environment.begin(write=True) as txn:
                for pack_id in pack_ids:
                    key = txn.pop(pack_id, db=self._pack_numbers)
                    if key is not None:
                        txn.delete(key, db=self._packs)
                txn.drop(self._whole, delete=False)
            self._pack_of.clear()

        self._run(write)

    def locate(self, digests: Iterable[bytes]) -> dict[bytes, list[Location]]:
        """Where the payloads may be; digests that are not known are left out."""

        def read(environment: lmdb.Environment) -> dict[bytes, list[Location]]:
            found: dict[bytes, list[Location]] = {}
            wanted = {digest[:_KEY_SIZE]: digest for digest in digests}
            with environment.begin() as txn:
                for key, value in txn.cursor(self._chunks).getmulti(list(wanted), dupdata=True):
                    digest = wanted[key]
                    location = self._location(txn, digest, value)
                    if location is not None:
                        found.setdefault(digest, []).append(location)
            return found

        return self._run(read)

    def _location(self, txn: lmdb.Transaction, digest: bytes, value: bytes) -> Location | None:
        if len(value) != _VALUE.itemsize:
            return None
        words = _WORDS.unpack(digest[:_KEY_SIZE] + value)
        tail, pack, payload_size, raw_size, low, high, parameters_size, kind, codec, check = _VALUE_STRUCT.unpack(value)
        if check != sum(map(mul, words[:12], _FACTORS)) & 0xFFFFFFFF or tail != digest[16:24]:
            return None
        pack_id = self._pack_id(txn, pack)
        if pack_id is None:
            return None
        return Location(
            pack_id, high << 32 | low, payload_size, raw_size, parameters_size, kind & ~_DAMAGED, codec,
            bool(kind & _DAMAGED),
        )  # fmt: skip

    def _pack_id(self, txn: lmdb.Transaction, number: int) -> bytes | None:
        if number not in self._pack_of:
            stored = txn.get(_NUMBER.pack(number), db=self._packs)
            if stored is None or len(stored) != ID_SIZE:
                return None
            self._pack_of[number] = bytes(stored)
        return self._pack_of[number]

    def mark_damaged(self, digest: bytes, location: Location) -> None:
        """Remember that the payload at this place is not good, so that storing the content again heals it."""

        def write(environment: lmdb.Environment) -> None:
            with environment.begin(write=True) as txn:
                txn.drop(self._whole, delete=False)
                cursor = txn.cursor(self._chunks)
                for _, value in cursor.getmulti([digest[:_KEY_SIZE]], dupdata=True):
                    if self._location(txn, digest, value) == location:
                        txn.delete(digest[:_KEY_SIZE], value, db=self._chunks)
                        row = np.frombuffer(digest[:_KEY_SIZE] + value, _ROW).copy()
                        row["kind"] |= _DAMAGED
                        marked = _seal(row).tobytes()[_KEY_SIZE:]
                        txn.put(digest[:_KEY_SIZE], marked, db=self._chunks)

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
                cursor = txn.cursor(self._entries)
                for sha1 in sha1s:
                    more = cursor.set_range(sha1)
                    while more and cursor.key()[:SHA1_SIZE] == sha1:
                        value = cursor.value()
                        entry = _decode(value)
                        pack_id = self._pack_id(txn, _NUMBER.unpack_from(value)[0]) if entry else None
                        if entry is not None and pack_id is not None and entry.sha1 == sha1:
                            found.setdefault(sha1, []).append((entry, pack_id))
                        more = cursor.next()
            return found

        return self._run(read)

    def log(self, owner: bytes, before: bytes | None = None, count: int = 1000) -> tuple[list[Entry], bytes | None]:
        """The owner's keep entries, newest first, a page at a time: (entries, where the next page begins)."""

        def read(environment: lmdb.Environment) -> tuple[list[Entry], bytes | None]:
            page: list[Entry] = []
            prefix = _owner_hash(owner)
            position = before
            with environment.begin() as txn:
                cursor = txn.cursor(self._log)
                start = before or prefix + b"\xff" * (_LOG.size - len(prefix))
                more = cursor.prev() if cursor.set_range(start) else cursor.last()
                while more and len(page) < count:
                    key, sha1 = cursor.item()
                    if key[: len(prefix)] != prefix:
                        return page, None
                    position = bytes(key)
                    value = txn.get(sha1 + key[-ID_SIZE:], db=self._entries)
                    entry = _decode(value) if value else None
                    if (
                        value
                        and entry is not None
                        and entry.owner == owner
                        and self._pack_id(txn, *_NUMBER.unpack_from(value))
                    ):
                        page.append(entry)
                    more = cursor.prev()
            return page, position if more else None

        return self._run(read)


_ROW = np.dtype([("key", "V16"), *((name, _VALUE.fields[name][0]) for name in _VALUE.names or ())])  # type: ignore[index]
assert _ROW.itemsize == _WORDS.size == 52


def _chunk_rows(records: Records, number: int) -> NDArray[np.void]:
    """The table's records as keys and values, one 52-byte row each."""
    rows = np.zeros(len(records), _ROW)
    digests = np.ascontiguousarray(records["digest"]).view(np.uint8).reshape(-1, 32)
    rows["key"] = np.ascontiguousarray(digests[:, :16]).view("V16").ravel()
    rows["tail"] = np.ascontiguousarray(digests[:, 16:24]).view("V8").ravel()
    rows["pack"] = number
    for name in ("payload_size", "raw_size", "parameters_size", "kind", "codec"):
        rows[name] = records[name]
    rows["offset_low"] = records["offset"] & np.uint64(0xFFFFFFFF)
    rows["offset_high"] = records["offset"] >> np.uint64(32)
    return _seal(rows)


def _seal(rows: NDArray[np.void]) -> NDArray[np.void]:
    """Fill in the checks; returns the rows as opaque 52-byte items."""
    words = rows.view(np.uint32).reshape(-1, 13)
    words[:, 12] = (words[:, :12] * np.array(_FACTORS, np.uint32)).sum(axis=1, dtype=np.uint32)
    return rows.view("V52")


def _decode(value: bytes) -> Entry | None:
    try:
        return decode_entry(value, _NUMBER.size)[0]
    except EntryError:
        return None  # a damaged hint is no hint


@functools.lru_cache(16)
def _owner_hash(owner: bytes) -> bytes:
    return checksum(16, owner)


def _log_key(entry: Entry) -> bytes:
    return _LOG.pack(_owner_hash(entry.owner), max(entry.time_ns, 0), entry.entry_id)
