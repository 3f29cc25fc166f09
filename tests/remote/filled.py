"""Buckets for tests: contents of a store put there as a push would, with recipes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import kacas
from kacas.content import Content
from kacas.encoded import encoded_payloads
from kacas.layouts import best_first
from kacas.model.digest import chunk_digest
from kacas.model.entry import Entry
from kacas.model.manifest import Child
from kacas.model.pack_format import (
    FOOTER_SIZE,
    Footer,
    PackHeader,
    Purpose,
    decode_payload_header,
    encode_table,
)
from kacas.model.uri import parse_uri
from kacas.settings import Settings
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.layout import pack_key, recipe_key
from kacas_remote.recipe import ChunkPlace, Head, encode_recipe
from kacas_remote.remote import Remote, new_remote
from kacas_remote.signing import Signature
from kacas_remote.upstream import RemoteUpstream

PACK_SIZE = 8 << 20


def upstream_on(blobs: BlobStore, cache: Path, name: str = "lab", *, trusted: bool = True) -> RemoteUpstream:
    """An upstream on these blobs, which has its caches below `cache`."""
    configuration = RemoteConfiguration(name, "memory://", trusted=trusted)
    settings = Settings.from_environment({"KACAS_CACHE_DIR": str(cache)})
    return RemoteUpstream(Remote(name, blobs, configuration), settings)


Signs = Callable[[bytes, bytes, int, int], Signature]


def put_content(
    store: kacas.Store, uri: str, blobs: BlobStore, *, under: bytes = b"", sign: Signs | None = None
) -> Head:
    """Put the content into the bucket, packs first, then the recipe. under: the SHA-1 that the recipe claims, for its own."""
    entry, content = best_first(store.repository.readable(parse_uri(uri)))
    entry = entry._replace(sha1=under or entry.sha1)
    places = put_packs(store, content, entry, blobs)
    signatures = () if sign is None else (sign(entry.sha1, entry.root, entry.size, entry.kind),)
    return put_recipe(entry, content, places, blobs, signatures)


def put_packs(store: kacas.Store, content: Content, entry: Entry, blobs: BlobStore) -> dict[bytes, ChunkPlace]:
    """Returns where the chunks are."""
    remote_id = new_remote("lab", blobs).remote_id
    places: dict[bytes, ChunkPlace] = {}
    digests = [child.digest for child in content.chunks()] + [digest for digest, _, _ in content.tree()]
    lookup = store.repository.lookup
    payloads = {one: encoded_payloads(lookup, [one])[one] for one in dict.fromkeys(digests)}
    group: dict[bytes, memoryview] = {}
    for digest, data in payloads.items():
        group[digest] = data
        if sum(map(len, group.values())) >= PACK_SIZE:
            places |= _put_pack(group, (), remote_id, blobs)
            group = {}
    return places | _put_pack(group, [entry], remote_id, blobs)


def _put_pack(
    group: dict[bytes, memoryview], entries: Sequence[Entry], remote_id: bytes, blobs: BlobStore
) -> dict[bytes, ChunkPlace]:
    pack_id = secrets.token_bytes(16)
    header = PackHeader(pack_id, remote_id, Purpose.STORED).encode()
    parts, records, at = [header], [], len(header)
    places = {}
    for digest, data in group.items():
        records.append(decode_payload_header(data).record(at))
        places[digest] = ChunkPlace(pack_id, at, len(data))
        parts.append(bytes(data))
        at += len(data)
    table = encode_table(records, [entry.encode() for entry in entries])
    footer = Footer(
        pack_id, at, len(table), len(records), len(entries), at + len(table) + FOOTER_SIZE, chunk_digest(table)
    )
    assert blobs.put_if_absent(pack_key(pack_id), b"".join([*parts, table, footer.encode(header)]))
    return places


def put_recipe(
    entry: Entry,
    content: Content,
    places: dict[bytes, ChunkPlace],
    blobs: BlobStore,
    signatures: tuple[Signature, ...] = (),
) -> Head:
    """Of content whose chunks are at these places."""
    head = Head(entry.sha1, entry.root, entry.size, entry.kind, entry.label, time.time_ns(), signatures)

    def locate(children: Sequence[Child], at: int) -> list[ChunkPlace]:
        return [places[child.digest] for child in children]

    pages: list[bytes] = []
    front = encode_recipe(head, content.tree(), locate, pages.append)
    assert blobs.put_if_absent(recipe_key(entry.sha1), b"".join([front, *pages]))
    return head
