"""Tables: what the packs of a bucket hold, kept on this host.

<cache>/remotes/<address>/tables/    SQLite: chunks by digest, entries by SHA-1, of every pack whose table was proved

A cache of claims: whatever is read from where it says is proved by its digest. A row has a sum all the same: a flipped bit
would otherwise be written into a recipe. Packs are never changed, so a table is read once; `refresh` lists what is new
and what is gone, and what was removed.
"""

from __future__ import annotations

import secrets
import sqlite3
import struct
import time
import zlib
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kacas.disk.host_database import HostDatabase
from kacas.errors import NewerFormatError, NotFoundError
from kacas.model.digest import DIGEST_SIZE, checksum
from kacas.model.entry import LAYOUT_ACTIONS, Entry, EntryError, Layout, decode_entry, decode_layout
from kacas.model.location import Location
from kacas.model.pack_format import PackFormatError, Records, Table
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.layout import MARKER, PACKS, pack_id_of, pack_key
from kacas_remote.pack_tables import ForeignPackError, read_table
from kacas_remote.removed import read_removed

_VERSION = 1
_SCHEMA = """
CREATE TABLE packs (number INTEGER PRIMARY KEY, pack BLOB NOT NULL, size INTEGER NOT NULL, whole INTEGER NOT NULL);
CREATE UNIQUE INDEX whole_packs ON packs (pack) WHERE whole;
CREATE TABLE chunks (digest BLOB, number INTEGER, row BLOB NOT NULL, PRIMARY KEY (digest, number)) WITHOUT ROWID;
CREATE TABLE entries (sha1 BLOB, number INTEGER, entry BLOB NOT NULL);
CREATE INDEX entries_by_sha1 ON entries (sha1);
CREATE TABLE removed (entry BLOB, key TEXT, PRIMARY KEY (entry, key)) WITHOUT ROWID
"""
_ADDRESS_SIZE = 16  # bytes: an address may be longer than a name of a directory
_PARALLEL = 8  # tables that are read at once, 4 MiB of each in memory
_REFUSED_S = 60.0  # a table that was refused is not read again for so long
_GROUP = 4096  # keys that are looked for together
_PER_QUERY = 500  # SQLite took 999 values at most before 2020
_PLACE = struct.Struct("<QIIHBB")  # of a chunk record: offset, payload size, raw size, parameters size, kind, codec
_ROW = struct.Struct("<QIIHBBI")  # the same, and a sum of digest, pack and place
_SUM = struct.Struct("<I")
_NUMBER = struct.Struct("<q")


class Bucket(Protocol):
    """What tables need of a remote."""

    @property
    def name(self) -> str: ...
    @property
    def blobs(self) -> BlobStore: ...
    @property
    def address(self) -> str: ...
    @property
    def remote_id(self) -> bytes: ...
    @property
    def marked(self) -> bool: ...
    def check_open(self) -> None: ...


def known_of(remote: Bucket, cache: Path) -> Path:
    """Where this host keeps what it knows of the remote. cache: this user's cache directory."""
    return cache / "remotes" / checksum(_ADDRESS_SIZE, remote.address.encode("utf-8", "surrogateescape")).hex()


class Refreshed(NamedTuple):
    """Packs that are new here, that are gone, and why which are not used."""

    new: int
    gone: int
    refused: dict[bytes, str]


class Tables:
    """Answers from what was read last. Thread-safe, safe after fork; many processes share one cache."""

    def __init__(self, remote: Bucket, cache: Path) -> None:
        """cache: this user's cache directory."""
        self._remote = remote
        self._database = HostDatabase(known_of(remote, cache) / "tables", _VERSION, _SCHEMA)
        self._birth = b""  # of the database that was refreshed last
        self.refused: dict[bytes, str] = {}
        self._refused_until_s = 0.0

    def close(self) -> None:
        """Release what is open. It may be used again."""
        self._database.close()

    def refresh(self) -> Refreshed:
        """Read the tables of packs that are new in the bucket, forget those of packs that are gone.

        A table that cannot be used is named in the result, and in `refused`, by the id of its pack. Raises what the bucket does,
        and InvalidRemoteError for a private one that was not added as such: there seems to be nothing in it.
        """
        birth = self._database.read(HostDatabase.birth)
        with ThreadPoolExecutor(1, "kacas-removed") as pool:
            removals = pool.submit(self.refresh_removed)
            new, gone = self._refresh_packs()
            removals.result()
        self._birth = birth
        return Refreshed(new - len(self.refused), gone, self.refused)

    def _refresh_packs(self) -> tuple[int, int]:
        """How many are new, and gone."""
        infos = self._remote.blobs.list(PACKS)
        listed = {pack_id: info for info in infos if (pack_id := pack_id_of(info.key)) is not None}
        if not listed:
            self._remote.check_open()
        known = self._known()
        gone = {pack_id for pack_id, size in known.items() if pack_id not in listed or listed[pack_id].size != size}
        self._forget(gone)
        new = {pack_id: info.size for pack_id, info in listed.items() if pack_id not in known or pack_id in gone}
        # What is wrong is not read for every content that is not found; it may have been so on the way here.
        again = (
            [pack_id for pack_id in self.refused if pack_id in new] if time.monotonic() < self._refused_until_s else []
        )
        refused = {pack_id: self.refused[pack_id] for pack_id in again}
        if failed := self._read_all({pack_id: size for pack_id, size in new.items() if pack_id not in refused}):
            refused |= failed
            self._refused_until_s = time.monotonic() + _REFUSED_S
        self.refused = refused
        return len(new), len(gone)

    def learn(self, pack_ids: Iterable[bytes]) -> dict[bytes, str]:
        """Read the tables of these packs only, if they are not known; those that are gone are left out.

        Returns why which were refused, by the id of the pack.
        """
        known = self._known()
        wanted = [pack_id for pack_id in dict.fromkeys(pack_ids) if pack_id not in known]
        with ThreadPoolExecutor(_PARALLEL, "kacas-tables") as pool:
            infos = list(pool.map(lambda pack_id: self._remote.blobs.head(pack_key(pack_id)), wanted))
        refused = self._read_all({pack: info.size for pack, info in zip(wanted, infos, strict=True) if info})
        self.refused |= refused
        return refused

    def add(self, pack_id: bytes, table: Table, size: int) -> None:
        """The table of a pack that was put there just now. size: of the pack, bytes."""
        self._keep(pack_id, size, iter([_rows_of(table.records, table.rows())]))

    def locate(self, digests: Collection[bytes]) -> dict[bytes, list[Location]]:
        """Where payloads are in packs; those that are in none are left out."""
        packs, rows, _ = self._ask("SELECT digest, number, row FROM chunks WHERE digest IN", digests)
        seeds = {number: zlib.crc32(_NUMBER.pack(number)) for number in packs}
        found: dict[bytes, list[Location]] = {}
        for digest, number, row in rows:
            # A flipped bit is as if the row were not there.
            if number in packs and len(row) == _ROW.size:
                *place, check = _ROW.unpack(row)
                if zlib.crc32(digest + row[: _PLACE.size], seeds[number]) == check:
                    location = Location(packs[number], *place)
                    if (others := found.get(digest)) is None:
                        found[digest] = [location]
                    else:
                        others.append(location)
        return found

    def entries(self, sha1s: Collection[bytes]) -> dict[bytes, list[Entry]]:
        """What tables say of these SHA-1, the newest first: entries that name a layout, and that nobody removed."""
        return {sha1: [entry for entry, _ in found] for sha1, found in self.named(sha1s).items()}

    def layouts(self, sha1s: Collection[bytes]) -> dict[bytes, Layout]:
        """Of `entries` what the newest says, for very many: no more of them is read than is needed for that."""
        packs, rows, removed = self._ask("SELECT number, entry FROM entries WHERE sha1 IN", sha1s)
        found: dict[bytes, Layout] = {}
        for number, encoded in rows:
            layout = decode_layout(encoded) if number in packs else None
            if layout is not None and layout.entry_id not in removed:
                other = found.get(layout.sha1)
                if other is None or other.time_ns < layout.time_ns:
                    found[layout.sha1] = layout
        return found

    def named(self, sha1s: Collection[bytes]) -> dict[bytes, list[tuple[Entry, bytes]]]:
        """As `entries`, each with the id of its pack."""
        packs, rows, removed = self._ask("SELECT number, entry FROM entries WHERE sha1 IN", sha1s)
        found: dict[bytes, list[tuple[Entry, bytes]]] = {}
        for number, encoded in rows:
            if number not in packs:
                continue
            try:
                entry, _ = decode_entry(encoded)
            except EntryError:
                continue  # a bit of the cache flipped
            if entry.entry_id not in removed:
                found.setdefault(entry.sha1, []).append((entry, packs[number]))
        for entries in found.values():
            entries.sort(key=lambda one: one[0].time_ns, reverse=True)
        return found

    def packs_with(self, digests: Collection[bytes], sha1s: Collection[bytes]) -> set[bytes]:
        """Ids of the packs that have one of these payloads, or an entry of one of these SHA-1."""
        found: set[bytes] = set()
        for query, keys in (
            ("SELECT DISTINCT number FROM chunks WHERE digest IN", list(digests)),
            ("SELECT DISTINCT number FROM entries WHERE sha1 IN", list(sha1s)),
        ):
            for at in range(0, len(keys), _GROUP):
                packs, rows, _ = self._ask(query, keys[at : at + _GROUP])
                found |= {packs[number] for (number,) in rows if number in packs}
                if len(found) == len(packs):
                    return found  # all that there are: most often the first group is enough
        return found

    def removed(self) -> frozenset[bytes]:
        """Ids of the entries that do not count."""
        rows = self._database.read(lambda connection: connection.execute("SELECT entry FROM removed").fetchall())
        return frozenset(entry_id for (entry_id,) in rows)

    def packs(self) -> dict[bytes, int]:
        """Packs whose tables are known, by id, with their sizes."""
        return self._known()

    def _ask(
        self, query: str, keys: Collection[bytes]
    ) -> tuple[dict[int, bytes], list[tuple[Any, ...]], frozenset[bytes]]:
        """Packs by number, rows with many keys, ids of removed entries: of one state of the cache. If that was begun anew since
        it was filled, it is filled first."""
        wanted = sorted(set(keys))  # neighbours are read together

        def read(
            connection: sqlite3.Connection,
        ) -> tuple[dict[int, bytes], list[tuple[Any, ...]], frozenset[bytes]] | None:
            if self._birth and HostDatabase.birth(connection) != self._birth:
                return None
            # In Python: joined in SQL, they would double what a row costs.
            packs = dict(connection.execute("SELECT number, pack FROM packs WHERE whole"))
            removed = frozenset(entry_id for (entry_id,) in connection.execute("SELECT entry FROM removed"))
            rows: list[tuple[Any, ...]] = []
            for at in range(0, len(wanted), _PER_QUERY):
                part = wanted[at : at + _PER_QUERY]
                rows += connection.execute(f"{query} ({','.join('?' * len(part))})", part)
            return packs, rows, removed

        while (found := self._database.read(read)) is None:
            self.refresh()
        return found

    def _known(self) -> dict[bytes, int]:
        rows = self._database.read(
            lambda connection: connection.execute("SELECT pack, size FROM packs WHERE whole").fetchall()
        )
        return dict(rows)

    def _forget(self, gone: Collection[bytes]) -> None:
        def forget(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM packs WHERE whole AND pack = ?", [(pack_id,) for pack_id in gone])
            _sweep(connection)

        if gone:
            self._database.write(forget)

    def _read_all(self, sizes: dict[bytes, int]) -> dict[bytes, str]:
        """Returns why which tables are not used. Raises what the bucket does, if it is not about one pack."""

        foreign: set[bytes] = set()

        def read(pack_id: bytes) -> str | None:
            try:
                size = sizes[pack_id]
                self._keep(pack_id, size, starmap(_rows_of, read_table(blobs, remote_id, pack_id, size)))
            except NotFoundError:
                return None  # it went after it was listed
            except (PackFormatError, NewerFormatError) as exc:
                if isinstance(exc, ForeignPackError):
                    foreign.add(pack_id)
                return f"{pack_key(pack_id)} in {blobs.name}: {exc}"
            return None

        if not sizes:
            return {}
        blobs, remote_id = self._remote.blobs, self._remote.remote_id
        with ThreadPoolExecutor(min(_PARALLEL, len(sizes)), "kacas-tables") as pool:
            try:
                reasons = list(pool.map(read, sizes))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        failed = {pack_id: why for pack_id, why in zip(sizes, reasons, strict=True) if why is not None}
        if foreign and not self._remote.marked:
            gone = (
                f"the marker {MARKER}, by whose id packs are believed, is missing; whoever can write there puts it back by: "
                f"kacas remote mark {self._remote.name}"
            )
            failed |= {pack_id: f"{pack_key(pack_id)} in {blobs.name}: {gone}" for pack_id in foreign}
        return failed

    def _keep(self, pack_id: bytes, size: int, pieces: Iterator[_Rows]) -> None:
        """Rows count when the last has come, and the table is proved."""
        number = secrets.randbits(48)
        self._database.write(
            lambda connection: connection.execute("INSERT INTO packs VALUES (?, ?, ?, 0)", (number, pack_id, size))
        )
        try:
            for piece in pieces:
                self._database.write(partial(_insert, number=number, rows=piece))
        except BaseException:
            self._database.write(lambda connection: _drop(connection, number))
            self._database.write(_sweep)
            raise

        def finish(connection: sqlite3.Connection) -> None:
            if connection.execute("SELECT 1 FROM packs WHERE whole AND pack = ?", (pack_id,)).fetchone():
                _drop(connection, number)  # another process was faster
            else:
                connection.execute("UPDATE packs SET whole = 1 WHERE number = ?", (number,))

        self._database.write(finish)

    def refresh_removed(self) -> None:
        """Read what was removed. Raises what the bucket does."""
        rows = self._database.read(lambda connection: connection.execute("SELECT key, entry FROM removed").fetchall())
        ids_by_key: dict[str, set[bytes]] = {}
        for key, entry_id in rows:
            ids_by_key.setdefault(key, set()).add(entry_id)
        known = {key: frozenset(ids) for key, ids in ids_by_key.items()}
        # A record that is damaged removes nothing; `kacas remote verify` names it.
        found = read_removed(self._remote.blobs, lambda *_: None, known)
        if found == known:
            return

        def keep(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM removed")
            ended = [(entry_id, key) for key, ids in found.items() for entry_id in ids]
            connection.executemany("INSERT OR IGNORE INTO removed VALUES (?, ?)", ended)

        self._database.write(keep)


class _Rows(NamedTuple):
    """Of one piece of a table. named: SHA-1 and encoded entry of each that names a layout."""

    records: Records
    named: list[tuple[bytes, bytes]]


def _rows_of(records: Records, entries: Iterable[tuple[bytes, bytes, int, bytes]]) -> _Rows:
    return _Rows(records, [(sha1, encoded) for _, sha1, action, encoded in entries if action in LAYOUT_ACTIONS])


def _insert(connection: sqlite3.Connection, number: int, rows: _Rows) -> None:
    connection.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?)", _encoded_rows(number, rows.records))
    # In order: neighbours are written, and read, together.
    connection.executemany(
        "INSERT INTO entries VALUES (?, ?, ?)", ((sha1, number, encoded) for sha1, encoded in sorted(rows.named))
    )


def _drop(connection: sqlite3.Connection, number: int) -> None:
    """Its rows count for nothing from now on; they go with the next sweep."""
    connection.execute("DELETE FROM packs WHERE number = ?", (number,))


def _sweep(connection: sqlite3.Connection) -> None:
    """Rows of no pack go, in one walk: an index by pack would double what every chunk costs."""
    connection.execute("DELETE FROM chunks WHERE number NOT IN (SELECT number FROM packs)")
    connection.execute("DELETE FROM entries WHERE number NOT IN (SELECT number FROM packs)")


def _encoded_rows(number: int, records: Records) -> Iterator[tuple[bytes, int, bytes]]:
    data, seed, size = records.tobytes(), zlib.crc32(_NUMBER.pack(number)), records.itemsize
    for at in range(0, len(data), size):
        row = data[at : at + DIGEST_SIZE + _PLACE.size]
        yield row[:DIGEST_SIZE], number, row[DIGEST_SIZE:] + _SUM.pack(zlib.crc32(row, seed))
