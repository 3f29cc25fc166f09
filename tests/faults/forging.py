"""Packs written by hand, with right checksums and whatever is wrong inside."""

from __future__ import annotations

import os
import secrets
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

import kacas
from kacas.model.codec import Codec
from kacas.model.digest import ID_SIZE, PayloadKind, checksum, chunk_digest, payload_digest
from kacas.model.entry import Entry, Kind
from kacas.model.pack_format import FOOTER_SIZE, Footer, PackHeader, PayloadHeader, encode_table

VERSION_AT = 8  # in header and in footer, behind the magic
CHECK_SIZE = 16


@dataclass
class Forgery:
    """A pack under construction. records: the table's, if it is to say something else than the payloads do."""

    store: kacas.Store
    parts: list[bytes] = field(default_factory=list)
    headers: list[tuple[int, PayloadHeader]] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    records: list[tuple[int, PayloadHeader]] | None = None
    pack_id: bytes = field(default_factory=lambda: secrets.token_bytes(ID_SIZE))

    def __post_init__(self) -> None:
        self.header = PackHeader(self.pack_id, bytes.fromhex(self.store.store_id)).encode()

    @property
    def size(self) -> int:
        return len(self.header) + sum(map(len, self.parts))

    def add(self, header: PayloadHeader, payload: bytes) -> PayloadHeader:
        """header may lie about everything; its checksum is right."""
        self.headers.append((self.size, header))
        self.parts += [header.encode(payload), payload]
        return header

    def add_raw(self, raw: bytes, kind: PayloadKind = PayloadKind.CHUNK) -> bytes:
        """An honest payload. Returns its digest."""
        digest = payload_digest(kind, raw)
        self.add(PayloadHeader(kind, Codec.RAW, len(raw), len(raw), digest), raw)
        return digest

    def claim(self, root: bytes, size: int, *, sha1: bytes = b"", kind: Kind = Kind.BYTES) -> str:
        """An entry for the root; the SHA-1 is made up unless given. Returns the URI."""
        sha1 = sha1 or checksum(20, b"made up", root, struct.pack("<Q", size))
        entry = Entry(secrets.token_bytes(ID_SIZE), sha1, root, size, time.time_ns(), kind, b"forger", b"forged")
        self.entries.append(entry.encode())
        return f"sha1://{sha1.hex()}"

    def encode(self, **footer_fields: int) -> bytes:
        """The pack's bytes. footer_fields: what the footer is to say instead of the truth."""
        placed = self.records if self.records is not None else self.headers
        table = encode_table([header.record(at) for at, header in placed], self.entries)
        payloads = self.header + b"".join(self.parts)
        fields = {
            "table_offset": len(payloads),
            "table_size": len(table),
            "chunk_count": len(placed),
            "entry_count": len(self.entries),
            "file_size": len(payloads) + len(table) + FOOTER_SIZE,
        } | footer_fields
        footer = Footer(self.pack_id, **fields, table_digest=chunk_digest(table))
        return payloads + table + footer.encode(self.header)

    def publish(self, **footer_fields: int) -> Path:
        """Put it in the store's packs/."""
        path = self.store.path / "packs" / f"{self.pack_id.hex()}.pack"
        path.write_bytes(self.encode(**footer_fields))
        return path


def with_version(pack: bytes, version: int) -> bytes:
    """The pack as a later kacas would begin and end it: the version in header and footer, the checksum right."""
    changed = bytearray(pack)
    footer_at = len(changed) - FOOTER_SIZE
    for at in (VERSION_AT, footer_at + VERSION_AT):
        changed[at : at + 2] = struct.pack("<H", version)
    header, fixed = bytes(changed[:64]), bytes(changed[footer_at:-CHECK_SIZE])
    changed[-CHECK_SIZE:] = checksum(CHECK_SIZE, header, fixed)
    return bytes(changed)


def replace_file(path: Path, data: bytes) -> None:
    """Other bytes in the same file, whatever its mode."""
    os.chmod(path, 0o644)
    path.write_bytes(data)
