"""A survey: what a bucket holds, read completely, in a database on the disk that goes with it. Memory does not grow with it.

Every table and every recipe is read. What cannot be read is given to `fault`, which raises or notes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import NamedTuple, TypeVar

from kacas.errors import KacasError
from kacas.model.entry import Action
from kacas.model.pack_format import PAYLOAD_HEADER_SIZE, PackFormatError, Table
from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.condemned import condemned_packs
from kacas_remote.errors import BlobNotFoundError
from kacas_remote.layout import PACKS, PLAIN, RECIPES, pack_id_of
from kacas_remote.recipe import Recipe
from kacas_remote.removed import read_removed
from kacas_remote.upkeep.reading import PUSH_AGAIN, At, damage, read_pages, read_recipe, read_table

THREADS = 8
_CACHE_KIB = 32 << 10
_SCHEMA = """
CREATE TABLE packs (number INTEGER PRIMARY KEY, id BLOB UNIQUE, size INT, modified_s REAL, condemned INT);
CREATE TABLE payloads (pack INT, offset INT, digest BLOB, stored INT, raw INT, kind INT, needed INT DEFAULT 0,
    PRIMARY KEY (pack, offset)) WITHOUT ROWID;
CREATE INDEX payloads_by_digest ON payloads (digest);
CREATE TABLE entries (id BLOB, sha1 BLOB, root BLOB, size INT, kind INT, action INT, origin INT, pack INT, time_ns INT,
    label BLOB, owner BLOB, data BLOB, live INT, needed INT DEFAULT 0);
CREATE INDEX entries_by_sha1 ON entries (sha1);
CREATE TABLE recipes (number INTEGER PRIMARY KEY, key TEXT UNIQUE, sha1 BLOB, root BLOB, size INT, kind INT, label BLOB,
    publisher BLOB, bytes INT, modified_s REAL, member INT);
CREATE INDEX recipes_by_sha1 ON recipes (sha1);
CREATE TABLE rests_on (recipe INT, pack INT, PRIMARY KEY (recipe, pack)) WITHOUT ROWID;
CREATE TABLE plain (sha1 BLOB PRIMARY KEY, size INT, needed INT DEFAULT 0) WITHOUT ROWID;
CREATE TABLE walked (sha1 BLOB PRIMARY KEY) WITHOUT ROWID;
"""

T = TypeVar("T")
Fault = Callable[[str, KacasError], None]
Progress = Callable[[str, int, int | None], None]


class RecipeRow(NamedTuple):
    number: int
    key: str
    sha1: bytes
    root: bytes
    size: int
    kind: int
    is_member: int


def stop_at_faults(key: str, exc: KacasError) -> None:
    """The fault of those who may not go on with less than all."""
    raise exc


def silent(stage: str, done: int, total: int | None) -> None:
    """Progress that nobody looks at."""


def batched(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """As itertools has it from Python 3.12 on."""
    rest = iter(rows)
    while part := list(islice(rest, size)):
        yield part


class Survey:
    """Read by `read`. A context manager."""

    def __init__(
        self,
        blobs: BlobStore,
        remote_id: bytes,
        fault: Fault,
        progress: Progress = silent,
        look: Callable[[str, Recipe], None] | None = None,
    ) -> None:
        """look: is shown every recipe, with its key."""
        self.blobs = blobs
        self._remote_id = remote_id
        self.fault = fault
        self.progress = progress
        self._look = look
        self.db = sqlite3.connect(
            "", isolation_level=None, check_same_thread=False
        )  # "": a file that goes when it is closed
        self.db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self.db.execute("PRAGMA journal_mode=OFF")
        self.db.executescript(_SCHEMA)
        self.removed: dict[str, frozenset[bytes]] = {}
        self.lost: list[tuple[str, bytes, int]] = []  # recipes, and how many of their chunks are not where they say

    def __enter__(self) -> Survey:
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def read(self) -> None:
        """Condemned packs first, then packs, then recipes: what is published meanwhile is named later than it is there."""
        condemned = condemned_packs(self.blobs)
        self.removed = read_removed(self.blobs)
        # Recipes are listed before packs: all that these name was there before them.
        recipes = list(self._listed(RECIPES))
        self._read_packs(condemned)
        for info in self._listed(PLAIN):
            name = info.key.rpartition("/")[2]
            if len(name) == 40 and all(letter in "0123456789abcdef" for letter in name):
                self.db.execute("INSERT INTO plain (sha1, size) VALUES (?, ?)", (bytes.fromhex(name), info.size))
        self._read_recipes(recipes)

    def _listed(self, prefix: str) -> Iterator[BlobInfo]:
        return iter(self.blobs.list(prefix))

    # --- packs --------------------------------------------------------------------------------

    def _read_packs(self, condemned: set[bytes]) -> None:
        infos = sorted((info for info in self._listed(PACKS) if pack_id_of(info.key)), key=lambda info: -info.size)
        cancelled = set(chain.from_iterable(self.removed.values()))
        done, total = 0, sum(info.size for info in infos)
        with ThreadPoolExecutor(THREADS, "kacas-survey") as pool:
            for infos_part in batched(infos, THREADS * 4):
                read = list(pool.map(self._table, infos_part))
                self.db.execute("BEGIN")
                for info, table in zip(infos_part, read, strict=True):
                    if table is not None:
                        self._take_pack(info, table, condemned, cancelled)
                    done += info.size
                self.db.execute("COMMIT")
                self.progress("reading tables", done, total)
        self.db.executemany("UPDATE entries SET live = 0 WHERE id = ?", ((entry_id,) for entry_id in cancelled))

    def _table(self, info: BlobInfo) -> Table | None:
        try:
            return read_table(self.blobs, self._remote_id, info)
        except BlobNotFoundError:
            return None  # collected meanwhile
        except KacasError as exc:
            self.fault(info.key, exc)
            return None

    def _take_pack(self, info: BlobInfo, table: Table, condemned: set[bytes], cancelled: set[bytes]) -> None:
        pack_id = pack_id_of(info.key)
        assert pack_id is not None
        row = (pack_id, info.size, info.modified_s, pack_id in condemned)
        number = self.db.execute(
            "INSERT INTO packs (id, size, modified_s, condemned) VALUES (?, ?, ?, ?)", row
        ).lastrowid
        try:
            entries = list(table.encoded_entries())
        except PackFormatError as exc:
            self.fault(info.key, damage(self.blobs, info.key, exc, PUSH_AGAIN))
            entries = []
        self.db.executemany(
            "INSERT OR REPLACE INTO payloads (pack, offset, digest, stored, raw, kind) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (number, offset, digest, PAYLOAD_HEADER_SIZE + parameters_size + payload_size, raw_size, kind)
                for digest, offset, payload_size, raw_size, parameters_size, kind, _, _ in table.records.tolist()
            ),
        )
        for entry, data in entries:
            if entry.action == Action.FORGET:
                cancelled.update(entry.cancels)
            self.db.execute(
                "INSERT INTO entries (id, sha1, root, size, kind, action, origin, pack, time_ns, label, owner, data, live)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    entry.entry_id, entry.sha1, entry.root, entry.size, entry.kind, int(entry.action), int(entry.origin),
                    number, entry.time_ns, entry.label, entry.owner, bytes(data), entry.names_layout,
                ),
            )  # fmt: skip

    # --- recipes ------------------------------------------------------------------------------

    def _read_recipes(self, infos: list[BlobInfo]) -> None:
        done, total = 0, sum(info.size for info in infos)
        with ThreadPoolExecutor(THREADS, "kacas-survey") as pool:
            for part in batched(infos, THREADS * 8):
                for info, recipe in zip(part, pool.map(self._recipe, part), strict=True):
                    if recipe is not None:
                        self._take_recipe(info, recipe)
                    done += info.size
                self.progress("reading recipes", done, total)

    def _recipe(self, info: BlobInfo) -> Recipe | None:
        try:
            recipe = read_recipe(self.blobs, info.key)
            if info.key.rpartition("/")[2].partition(".")[0] != recipe.head.sha1.hex():
                raise damage(
                    self.blobs, info.key, f"it is that of {recipe.head.sha1.hex()}", "delete it and push again"
                )
            if recipe.size != info.size and (now := self.blobs.head(info.key)) and now.size != recipe.size:
                raise damage(
                    self.blobs, info.key, f"it has {now.size} of {recipe.size} bytes", "delete it and push again"
                )
            return recipe
        except BlobNotFoundError:
            return None  # removed meanwhile
        except KacasError as exc:
            self.fault(info.key, exc)
            return None

    def _take_recipe(self, info: BlobInfo, recipe: Recipe) -> None:
        head = recipe.head
        if self._look is not None:
            self._look(info.key, recipe)
        publisher = head.signatures[0].publisher if head.signatures else b""
        self.db.execute("BEGIN")
        number = self.db.execute(
            "INSERT INTO recipes (key, sha1, root, size, kind, label, publisher, bytes, modified_s, member)"
            " VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                info.key,
                head.sha1,
                head.root,
                head.size,
                head.kind,
                head.label,
                publisher,
                info.size,
                info.modified_s,
                head.is_member,
            ),
        ).lastrowid
        assert number is not None
        self.db.executemany(
            "INSERT OR IGNORE INTO rests_on SELECT ?, number FROM packs WHERE id = ?",
            ((number, pack_id) for pack_id in head.member_packs),
        )
        try:
            lost = 0
            for _, page in read_pages(self.blobs, info.key, recipe):
                if page.level == 0:
                    for child, place in page.chunks():
                        lost += not self._mark_place(number, head.sha1, child.digest, child.size, place)
            if lost:  # which hides nothing: all that it names is known
                self.lost.append((info.key, head.sha1, lost))
        except BlobNotFoundError:
            pass  # removed meanwhile
        except KacasError as exc:
            self.fault(info.key, exc)
        finally:
            self.db.execute("COMMIT")

    def _mark_place(
        self, recipe: int, sha1: bytes, digest: bytes, size: int, place: tuple[bytes | None, int, int]
    ) -> bool:
        """Whether the chunk is there, as the tables say."""
        pack_id, offset, stored = place
        if pack_id is None:
            sql = "UPDATE plain SET needed = 1 WHERE sha1 = ? AND size >= ?"
            return self.db.execute(sql, (sha1, offset + stored)).rowcount > 0
        found = self.db.execute("SELECT number FROM packs WHERE id = ?", (pack_id,)).fetchone()
        if found is not None:
            self.db.execute("INSERT OR IGNORE INTO rests_on VALUES (?, ?)", (recipe, found[0]))
            sql = (
                "UPDATE payloads SET needed = 1 WHERE pack = ? AND offset = ? AND digest = ? AND stored = ? AND raw = ?"
            )
            if self.db.execute(sql, (found[0], offset, digest, stored, size)).rowcount:
                return True
        self.need(digest)  # kept wherever it is, so that it can be mended
        return False

    # --- asking -------------------------------------------------------------------------------

    def need(self, digest: bytes) -> bool | None:
        """Mark one copy of a payload as needed: one that is already, else one in a pack that is not condemned, the largest.

        Returns whether it was not marked before; None if there is no copy.
        """
        row = self.db.execute(
            "SELECT pack, offset, needed FROM payloads JOIN packs ON number = pack WHERE digest = ?"
            " ORDER BY condemned, needed DESC, pack LIMIT 1",
            (digest,),
        ).fetchone()
        if row is None:
            return None
        if not row[2]:
            self.db.execute("UPDATE payloads SET needed = 1 WHERE pack = ? AND offset = ?", row[:2])
        return not row[2]

    def at(self, digest: bytes) -> tuple[bytes, At] | None:
        """A pack, and where it has this payload; one that is not condemned first."""
        row = self.db.execute(
            "SELECT id, kind, offset, stored FROM payloads JOIN packs ON number = pack WHERE digest = ?"
            " ORDER BY condemned, needed DESC, pack LIMIT 1",
            (digest,),
        ).fetchone()
        return None if row is None else (row[0], At(digest, row[1], row[2], row[2] + row[3]))

    def recipes_of(self, sha1: bytes) -> list[RecipeRow]:
        rows = self.db.execute(
            "SELECT number, key, sha1, root, size, kind, member FROM recipes WHERE sha1 = ?", (sha1,)
        )
        return [RecipeRow(*row) for row in rows]
