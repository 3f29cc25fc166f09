"""Rescue: what is needed of condemned packs is copied into new ones, and recipes are replaced by such as name those.

It is done as a push is: under a lease, relying on nothing that is condemned. Killed at any moment, it is done again.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kacas.model.codec import MIB, Decoder
from kacas.model.digest import ID_SIZE, PayloadKind, chunk_digest
from kacas.model.manifest import Child
from kacas.model.pack_format import (
    FOOTER_SIZE,
    HEADER_SIZE,
    Footer,
    PackHeader,
    PayloadHeader,
    decode_payload_header,
    encode_table,
)
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobNotFoundError
from kacas_remote.layout import pack_key
from kacas_remote.recipe import MAX_MEMBER_PACKS, ChunkPlace, Recipe
from kacas_remote.recipe_spool import RecipeSpool
from kacas_remote.upkeep.reading import At, damage, read_pages, read_payloads, read_recipe
from kacas_remote.upkeep.survey import Survey, batched

PACK_SIZE = 32 * MIB
_AT_ONCE = 16  # payloads: at most 256 MiB if all were as large as they may be, 4 MiB as they are


@dataclass
class _Pack:
    """A pack in memory."""

    store_id: bytes
    pack_id: bytes = field(default_factory=lambda: secrets.token_bytes(ID_SIZE))
    parts: list[bytes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    size: int = HEADER_SIZE
    entries_size: int = 0

    def append(self, data: bytes, header: PayloadHeader) -> None:
        self.records.append(header.record(self.size))
        self.parts.append(data)
        self.size += len(data)

    def encode(self) -> bytes:
        header, table = PackHeader(self.pack_id, self.store_id).encode(), encode_table(self.records, self.entries)
        footer = Footer(
            self.pack_id, self.size, len(table), len(self.records), len(self.entries),
            self.size + len(table) + FOOTER_SIZE, chunk_digest(table),
        )  # fmt: skip
        return b"".join((header, *self.parts, table, footer.encode(header)))


@dataclass
class Rescued:
    """payloads, size: copied. recipes: replaced. entries: copied."""

    payloads: int = 0
    size: int = 0
    recipes: int = 0
    entries: int = 0


def rescue(survey: Survey, remote_id: bytes, packs: Iterable[bytes]) -> Rescued:
    """Copy what is marked in these condemned packs. Raises DamagedRemoteError if something of it is damaged: nothing may be
    deleted then."""
    return _Rescue(survey, remote_id).run(packs)


class _Rescue:
    def __init__(self, survey: Survey, remote_id: bytes) -> None:
        self._survey = survey
        self._db = survey.db
        self._blobs: BlobStore = survey.blobs
        self._remote_id = remote_id
        self._decoder = Decoder()
        self._pack = _Pack(remote_id)
        self._rescued = Rescued()
        self._sent: set[bytes] = set()

    def run(self, packs: Iterable[bytes]) -> Rescued:
        self._db.execute(
            "CREATE TEMP TABLE moved (digest BLOB PRIMARY KEY, pack BLOB, offset INT, stored INT) WITHOUT ROWID"
        )
        self._db.execute("CREATE TEMP TABLE going (number INTEGER PRIMARY KEY)")
        for pack_id in packs:
            self._db.execute("INSERT INTO going SELECT number FROM packs WHERE id = ?", (pack_id,))
        numbers = [number for (number,) in self._db.execute("SELECT number FROM going").fetchall()]
        for number in numbers:
            self._copy_payloads(number)
        self._copy_entries()
        self._send()
        self._replace_recipes()
        return self._rescued

    # --- packs --------------------------------------------------------------------------------

    def _copy_payloads(self, number: int) -> None:
        """Those that are needed and that no pack has that stays."""
        (pack_id,) = self._db.execute("SELECT id FROM packs WHERE number = ?", (number,)).fetchone()
        wanted = self._db.execute(
            "SELECT digest, kind, offset, stored FROM payloads AS mine WHERE pack = ? AND needed AND NOT EXISTS"
            " (SELECT 1 FROM payloads AS other JOIN packs ON number = other.pack"
            "  WHERE other.digest = mine.digest AND NOT condemned)"
            " AND digest NOT IN (SELECT digest FROM moved) ORDER BY offset",
            (number,),
        ).fetchall()
        for part in batched(wanted, _AT_ONCE):
            ats = [At(digest, kind, offset, offset + stored) for digest, kind, offset, stored in part]
            for at, data in zip(
                ats, read_payloads(self._blobs, pack_id, ats, self._decoder, decode=False), strict=True
            ):
                if self._pack.size + len(data) > PACK_SIZE:
                    self._send()
                place = (at.digest, self._pack.pack_id, self._pack.size, len(data))
                if self._db.execute("INSERT OR IGNORE INTO moved VALUES (?, ?, ?, ?)", place).rowcount:
                    self._pack.append(data, decode_payload_header(memoryview(data)))
                    self._rescued.payloads += 1
                    self._rescued.size += len(data)

    def _copy_entries(self) -> None:
        """Those that are needed and that no table has that stays."""
        rows = self._db.execute(
            "SELECT DISTINCT id, data FROM entries WHERE needed AND pack IN (SELECT number FROM going) AND id NOT IN"
            " (SELECT entries.id FROM entries JOIN packs ON number = entries.pack WHERE NOT condemned)"
        )
        for _, data in rows.fetchall():
            if self._pack.size + self._pack.entries_size > PACK_SIZE:
                self._send()
            self._pack.entries.append(data)
            self._pack.entries_size += len(data)
            self._rescued.entries += 1

    def _send(self) -> None:
        pack = self._pack
        if pack.records or pack.entries:
            if not self._blobs.put_if_absent(pack_key(pack.pack_id), pack.encode()):
                raise damage(self._blobs, pack_key(pack.pack_id), "a random name is taken", "collect again")
            self._sent.add(pack.pack_id)
            self._pack = _Pack(self._remote_id)

    # --- recipes ------------------------------------------------------------------------------

    def _replace_recipes(self) -> None:
        rows = self._db.execute(
            "SELECT DISTINCT key FROM recipes JOIN rests_on ON recipe = recipes.number WHERE pack IN (SELECT number FROM going)"
        ).fetchall()
        for (key,) in rows:
            try:
                self._replace(key, read_recipe(self._blobs, key))
            except BlobNotFoundError:
                continue  # removed meanwhile
            self._rescued.recipes += 1

    def _replace(self, key: str, recipe: Recipe) -> None:
        places: dict[bytes, ChunkPlace] = {}

        def tree() -> Iterator[tuple[bytes, PayloadKind, bytes]]:
            for digest, page in read_pages(self._blobs, key, recipe):
                if page.level == 0:
                    places.clear()
                    places.update((child.digest, place) for child, place in page.chunks())
                if page.raw:
                    kind = PayloadKind.MANIFEST if page.manifest is not None else PayloadKind.NODE
                    yield digest, kind, page.raw

        def locate(children: Sequence[Child], _: int) -> list[ChunkPlace]:
            if not recipe.top.raw:
                places.update((child.digest, place) for child, place in recipe.top.chunks())
            return [self._place_now(child.digest, places[child.digest]) for child in children]

        head = replace(recipe.head, member_packs=self._member_packs(recipe.head.member_packs))
        with RecipeSpool(Path(tempfile.gettempdir()), head, tree(), locate) as spooled:
            spooled.put(self._blobs, key)

    def _member_packs(self, packs: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Of a directory: those that stay, and those that have what was in the others."""
        going = {
            pack_id
            for (pack_id,) in self._db.execute("SELECT id FROM packs WHERE number IN (SELECT number FROM going)")
        }
        if not going.intersection(packs):
            return packs
        also = self._db.execute(
            "SELECT DISTINCT packs.id FROM entries JOIN packs ON number = entries.pack WHERE NOT condemned AND entries.id IN"
            " (SELECT id FROM entries WHERE needed AND pack IN (SELECT number FROM going)) UNION"
            " SELECT DISTINCT packs.id FROM payloads JOIN packs ON number = payloads.pack WHERE NOT condemned AND digest IN"
            " (SELECT digest FROM payloads WHERE needed AND pack IN (SELECT number FROM going))"
        ).fetchall()
        found = sorted({*packs} - going | self._sent | {pack_id for (pack_id,) in also})
        return tuple(found) if len(found) <= MAX_MEMBER_PACKS else ()  # none: whoever reads it lists all

    def _place_now(self, digest: bytes, place: ChunkPlace) -> ChunkPlace:
        if place.pack_id is None:
            return place
        stays = "SELECT 1 FROM packs WHERE id = ? AND NOT condemned"
        if self._db.execute(stays, (place.pack_id,)).fetchone():
            return place
        moved = self._db.execute("SELECT pack, offset, stored FROM moved WHERE digest = ?", (digest,)).fetchone()
        other = (
            moved
            or self._db.execute(
                "SELECT id, offset, stored FROM payloads JOIN packs ON number = pack WHERE digest = ? AND NOT condemned LIMIT 1",
                (digest,),
            ).fetchone()
        )
        return ChunkPlace(*other) if other else place  # a chunk that is lost: its place says where it was
