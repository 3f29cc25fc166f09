"""Buckets for tests: packs as a push makes them, put where a bucket has them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind, checksum, chunk_digest, new_sha1
from kacas.model.entry import Action, Entry
from kacas.model.pack_format import HEADER_SIZE, Footer, PackHeader, PayloadHeader, encode_table
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.layout import pack_key

REMOTE_ID = b"R" * 16


@dataclass
class Bucket:
    """As much of a remote as tables and catalog need."""

    blobs: BlobStore = field(default_factory=MemoryBlobs)
    remote_id: bytes = REMOTE_ID
    name: str = "lab"

    marked = True

    def check_open(self) -> None:
        """It is."""

    @property
    def address(self) -> str:
        return self.blobs.name


def sha1_of(data: bytes) -> bytes:
    sha1 = new_sha1()
    sha1.update(data)
    return sha1.digest()


def entry_of(data: bytes, *, time_ns: int = 1, label: bytes = b"", root: bytes = b"", kind: int = 0) -> Entry:
    """Of content of one chunk."""
    root = root or chunk_digest(data)
    return Entry(secrets.token_bytes(16), sha1_of(data), root, len(data), time_ns, kind, b"", label, Action.MEMBER)


def pack_of(
    contents: Iterable[bytes],
    entries: Sequence[Entry] = (),
    *,
    pack_id: bytes = b"",
    store_id: bytes = REMOTE_ID,
    stored: int = 0,
) -> tuple[bytes, bytes]:
    """Id and bytes of a pack with raw payloads. stored: bytes that each takes, if that is a lie."""
    pack_id = pack_id or secrets.token_bytes(16)
    header = PackHeader(pack_id, store_id).encode()
    parts, records, at = [header], [], HEADER_SIZE
    for data in contents:
        encoded = data.ljust(stored, b"\0")
        payload = PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(encoded), len(data), chunk_digest(data))
        records.append(payload.record(at))
        parts += [payload.encode(encoded), encoded]
        at += payload.total_size
    table = encode_table(records, [entry.encode() for entry in entries])
    footer = Footer(pack_id, at, len(table), len(records), len(entries), at + len(table) + 128, checksum(32, table))
    return pack_id, b"".join([*parts, table, footer.encode(header)])


def put_pack(bucket: Bucket, contents: Iterable[bytes], entries: Sequence[Entry] = ()) -> bytes:
    """Returns its id."""
    pack_id, data = pack_of(contents, entries)
    assert bucket.blobs.put_if_absent(pack_key(pack_id), data)
    return pack_id
