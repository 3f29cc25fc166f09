"""A small model of those who use a bucket, for tests of its upkeep: a pusher in steps, and a reader that believes nothing."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from kacas.model.digest import ID_SIZE, PayloadKind, chunk_digest, new_sha1, payload_digest
from kacas.model.entry import Entry, Kind
from kacas.model.manifest import Child, Manifest
from kacas.model.pack_format import (
    FOOTER_SIZE,
    HEADER_SIZE,
    Footer,
    PackHeader,
    PayloadHeader,
    encode_table,
)
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.condemned import condemned_packs
from kacas_remote.errors import BlobNotFoundError
from kacas_remote.layout import PACKS, pack_id_of, pack_key, recipe_key
from kacas_remote.leases import Lease
from kacas_remote.recipe import ChunkPlace, Head, encode_recipe
from kacas_remote.removed import read_removed
from kacas_remote.upkeep.documents import read_document
from kacas_remote.upkeep.reading import read_recipe, read_table
from kacas_remote.upkeep.survey import Survey, stop_at_faults

Payload = tuple[bytes, PayloadKind, bytes]  # digest, kind, raw bytes


def sha1_of(raw: bytes) -> bytes:
    hasher = new_sha1()
    hasher.update(raw)
    return hasher.digest()


def payloads_of(chunks: Sequence[bytes]) -> tuple[bytes, list[Payload]]:
    """The root of a content made of these chunks, and its payloads, chunks first."""
    found: list[Payload] = [(chunk_digest(chunk), PayloadKind.CHUNK, chunk) for chunk in chunks]
    if len(chunks) == 1:
        return found[0][0], found
    children = tuple(Child(digest, len(raw)) for digest, _, raw in found)
    raw = Manifest(sum(map(len, chunks)), 0, b"", {}, children).encode()
    root = payload_digest(PayloadKind.MANIFEST, raw)
    return root, [*found, (root, PayloadKind.MANIFEST, raw)]


def encode_pack(remote_id: bytes, payloads: Sequence[Payload], entries: Sequence[Entry] = ()) -> tuple[bytes, bytes]:
    """Id and bytes of a pack; its payloads are raw."""
    pack_id = secrets.token_bytes(ID_SIZE)
    header, parts, records, at = PackHeader(pack_id, remote_id).encode(), [], [], HEADER_SIZE
    for digest, kind, raw in payloads:
        front = PayloadHeader(kind, 0, len(raw), len(raw), digest)
        records.append(front.record(at))
        parts += [front.encode(raw), raw]
        at += front.total_size
    table = encode_table(records, [entry.encode() for entry in entries])
    size = at + len(table) + FOOTER_SIZE
    footer = Footer(pack_id, at, len(table), len(records), len(entries), size, chunk_digest(table))
    return pack_id, b"".join([header, *parts, table, footer.encode(header)])


def places_in(
    blobs: BlobStore, remote_id: bytes
) -> tuple[dict[bytes, list[ChunkPlace]], dict[bytes, list[tuple[Entry, bytes]]]]:
    """What the tables of all packs say, condemned ones, too."""
    removed = set().union(*read_removed(blobs, stop_at_faults).values())
    places: dict[bytes, list[ChunkPlace]] = {}
    entries: dict[bytes, list[tuple[Entry, bytes]]] = {}
    for info in blobs.list(PACKS):
        pack_id = pack_id_of(info.key)
        if pack_id is None:
            continue
        try:
            table = read_table(blobs, remote_id, info)
        except BlobNotFoundError:
            continue
        for digest, offset, payload_size, _, parameters_size, *_ in table.records.tolist():
            places.setdefault(digest, []).append(ChunkPlace(pack_id, offset, 64 + parameters_size + payload_size))
        for entry in table.entries():
            if entry.entry_id not in removed:
                entries.setdefault(entry.sha1, []).append((entry, pack_id))
    return places, entries


class Pusher:
    """One push in steps: `list_packs` and `list_condemned` in any order; `confirm` and `send` in any order; `publish`, `end`.
    Between them anything may happen, also nothing for ever. `confirm` may want all to begin again."""

    def __init__(self, blobs: BlobStore, remote_id: bytes, chunks: Sequence[bytes], *, by_table: bool) -> None:
        self.blobs = blobs
        self.remote_id = remote_id
        self.whole = b"".join(chunks)
        self.sha1 = sha1_of(self.whole)
        self.root, self.payloads = payloads_of(chunks)
        self.by_table = by_table
        lease = Lease.take(blobs, beat_s=0)
        assert lease is not None
        self.lease = lease
        self.found: dict[bytes, list[ChunkPlace]] = {}
        self.entries: dict[bytes, list[tuple[Entry, bytes]]] = {}
        self.condemned: set[bytes] = set()
        self.sent: dict[bytes, ChunkPlace] = {}

    def list_packs(self) -> None:
        self.found, self.entries = places_in(self.blobs, self.remote_id)

    def list_condemned(self) -> None:
        self.condemned = condemned_packs(self.blobs)

    def look(self) -> None:
        """As who is not in a hurry."""
        self.list_condemned()
        self.list_packs()

    @property
    def places(self) -> dict[bytes, ChunkPlace]:
        """Of what is there, or was sent."""
        good = {
            digest: [place for place in self.found.get(digest, ()) if place.pack_id not in self.condemned]
            for digest, _, _ in self.payloads
        }
        return {digest: places[0] for digest, places in good.items() if places} | self.sent

    @property
    def named_by(self) -> set[bytes]:
        """Packs whose tables name the content already."""
        return {pack_id for _, pack_id in self.entries.get(self.sha1, ()) if self.by_table} - self.condemned

    def confirm(self) -> bool:
        """Whether what is counted on is listed now, after condemned packs were; what is not there is forgotten."""
        counted_on = {place.pack_id for digest, place in self.places.items() if digest not in self.sent} | self.named_by
        listed = {pack_id_of(info.key) for info in self.blobs.list(PACKS)}
        for digest, places in self.found.items():
            self.found[digest] = [place for place in places if place.pack_id in listed]
        return counted_on <= listed

    def send(self) -> None:
        places = self.places
        missing = {digest: (digest, kind, raw) for digest, kind, raw in self.payloads if digest not in places}
        if missing and not self.named_by:
            pack_id, data = encode_pack(self.remote_id, list(missing.values()))
            assert self.blobs.put_if_absent(pack_key(pack_id), data)
            at = HEADER_SIZE
            for digest, _, raw in missing.values():
                self.sent[digest] = ChunkPlace(pack_id, at, 64 + len(raw))
                at += 64 + len(raw)

    def publish(self) -> None:
        if self.named_by:
            return
        if self.by_table:
            entry = Entry(
                secrets.token_bytes(16), self.sha1, self.root, len(self.whole), 0, Kind.FILE, b"somebody", b"a name"
            )
            pack_id, data = encode_pack(self.remote_id, [], [entry])
            assert self.blobs.put_if_absent(pack_key(pack_id), data)
            return
        places = self.places
        tree = [payload for payload in self.payloads if payload[1] == PayloadKind.MANIFEST]
        pages: list[bytes] = []
        front = encode_recipe(
            Head(self.sha1, self.root, len(self.whole), Kind.FILE),
            tree,
            lambda children, _: [places[child.digest] for child in children],
            pages.append,
        )
        data = front + b"".join(pages)
        # A recipe that is there already may name what went while its writer slept.
        if not self.blobs.put_if_absent(recipe_key(self.sha1), data) and not self._is_right():
            self.blobs.put(recipe_key(self.sha1), data)

    def _is_right(self) -> bool:
        """Whether the recipe that is there names only what `look` found, or this push sent."""
        found = {place for places in self.found.values() for place in places if place.pack_id not in self.condemned}
        known = found.union(self.places.values())
        try:
            recipe = read_recipe(self.blobs, recipe_key(self.sha1))
        except BlobNotFoundError:
            return False
        return all(place in known for _, place in recipe.top.chunks())

    def end(self) -> bool:
        """Whether what was pushed counts: False, if somebody took this push for dead."""
        held = self.lease.is_held()
        self.lease.release()
        return held


def push(blobs: BlobStore, remote_id: bytes, chunks: Sequence[bytes], *, by_table: bool = False) -> bytes:
    """A push that nothing disturbs; returns the SHA-1."""
    pusher = Pusher(blobs, remote_id, chunks, by_table=by_table)
    pusher.look()
    pusher.send()
    pusher.publish()
    assert pusher.end()
    return pusher.sha1


def load(blobs: BlobStore, remote_id: bytes, sha1: bytes) -> bytes:
    """The whole content, checked against its SHA-1. Raises DamagedRemoteError."""
    with Survey(blobs, remote_id, stop_at_faults) as survey:
        survey.read()
        return read_document(survey, sha1)
