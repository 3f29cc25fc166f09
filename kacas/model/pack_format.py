"""The pack's exact bytes: header, payload headers, table, footer. Pure encoding and strict decoding.

header (64) | payload header (64) + parameters + payload, ... | chunk records (56 each) | entries | footer (128)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kacas.model.codec import MAX_CHUNK_SIZE, MAX_PAYLOAD_SIZE, Codec
from kacas.model.digest import checksum
from kacas.model.entry import Entry, EntryError, decode_entry, entry_rows

FORMAT_VERSION = 1
HEADER_SIZE = 64
PAYLOAD_HEADER_SIZE = 64
FOOTER_SIZE = 128
MAX_TABLE_SIZE = 1 << 30
MAX_PARAMETERS_SIZE = 1024

_HEADER = struct.Struct("<8sHBx4x16s16s16x")  # magic, version, purpose, pack id, store id
_PAYLOAD = struct.Struct("<4sBBHII32s")  # magic, kind, codec, parameters size, payload size, raw size, digest
_FOOTER = struct.Struct("<8sH6x16sQQQQQ32s8x")  # magic, version, id, table at, size, chunks, entries, file size, digest
_HEADER_MAGIC, _PAYLOAD_MAGIC, _FOOTER_MAGIC = b"KACASPCK", b"KPAY", b"KACASFTR"
_CHECK_SIZE = 16
assert _HEADER.size == HEADER_SIZE
assert _PAYLOAD.size + _CHECK_SIZE == PAYLOAD_HEADER_SIZE
assert _FOOTER.size + _CHECK_SIZE == FOOTER_SIZE

CHUNK_RECORD = np.dtype(
    [
        ("digest", "V32"), ("offset", "<u8"), ("payload_size", "<u4"), ("raw_size", "<u4"),
        ("parameters_size", "<u2"), ("kind", "u1"), ("codec", "u1"), ("reserved", "<u4"),
    ]
)  # fmt: skip
Records = NDArray[np.void]
_RECORD = struct.Struct("<32sQIIHBBI")
assert CHUNK_RECORD.itemsize == _RECORD.size == 56


_RAW = int(Codec.RAW)
_JOINED_BELOW = 1 << 16  # bytes; copying them takes less than a second call of the hash function, 1 µs


class Purpose(IntEnum):
    """Stored and fetched content live in separate packs: the second kind may be dropped and fetched again."""

    STORED = 0
    FETCHED = 1


class PackFormatError(ValueError):
    """Bytes that are not this part of a pack."""


class NewerPackError(PackFormatError):
    def __init__(self, version: int) -> None:
        super().__init__(f"it has format version {version}, this kacas reads up to {FORMAT_VERSION}")
        self.version = version


@dataclass(frozen=True)
class PackHeader:
    pack_id: bytes
    store_id: bytes
    purpose: int = Purpose.STORED

    def encode(self) -> bytes:
        return _HEADER.pack(_HEADER_MAGIC, FORMAT_VERSION, self.purpose, self.pack_id, self.store_id)


class PayloadHeader(NamedTuple):
    """The payload's own description, in front of it: packs can be checked without table and without decoding."""

    kind: int
    codec: int
    payload_size: int
    raw_size: int
    digest: bytes
    parameters: bytes = b""

    @property
    def total_size(self) -> int:
        """Bytes that header, parameters and payload take in the pack."""
        return PAYLOAD_HEADER_SIZE + len(self.parameters) + self.payload_size

    def encode(self, payload: bytes | memoryview) -> bytes:
        kind, codec, payload_size, raw_size, digest, parameters = self
        fixed = _PAYLOAD.pack(_PAYLOAD_MAGIC, kind, codec, len(parameters), payload_size, raw_size, digest)
        return fixed + _payload_check(fixed, parameters, payload, codec) + parameters

    def record(self, offset: int) -> bytes:
        """The chunk record of the payload whose header is at `offset`."""
        kind, codec, payload_size, raw_size, digest, parameters = self
        return _RECORD.pack(digest, offset, payload_size, raw_size, len(parameters), kind, codec, 0)


def _payload_check(fixed: bytes | memoryview, parameters: bytes, payload: bytes | memoryview, codec: int) -> bytes:
    # A raw payload is checked by its digest: hashing it twice would cost 0.15 s per GiB for nothing.
    if codec == _RAW:
        return checksum(_CHECK_SIZE, fixed, parameters)
    if len(payload) <= _JOINED_BELOW:
        return checksum(_CHECK_SIZE, b"".join((fixed, parameters, payload)))
    return checksum(_CHECK_SIZE, fixed, parameters, payload)


def decode_record(record: bytes) -> tuple[int, int, int, int, int, int]:
    """Offset, payload size, raw size, parameters size, kind and codec."""
    _, offset, payload_size, raw_size, parameters_size, kind, codec, _ = _RECORD.unpack(record)
    return offset, payload_size, raw_size, parameters_size, kind, codec


def decode_payload_header(data: memoryview, start: int = 0) -> PayloadHeader:
    """Bounds and magic only: what it says is proved by `check_payload`, or by the digest after decoding."""
    if len(data) - start < PAYLOAD_HEADER_SIZE:
        raise PackFormatError("the payload header is cut short")
    magic, kind, codec, parameters_size, payload_size, raw_size, digest = _PAYLOAD.unpack_from(data, start)
    if magic != _PAYLOAD_MAGIC:
        raise PackFormatError("no payload begins there")
    if raw_size > MAX_CHUNK_SIZE or payload_size > MAX_PAYLOAD_SIZE or parameters_size > MAX_PARAMETERS_SIZE:
        raise PackFormatError(f"the payload declares {payload_size} and {raw_size} bytes, more than is allowed")
    parameters = b""
    if parameters_size:
        parameters_at = start + PAYLOAD_HEADER_SIZE
        parameters = bytes(data[parameters_at : parameters_at + parameters_size])
        if len(parameters) != parameters_size:
            raise PackFormatError("the payload's parameters are cut short")
    return PayloadHeader(kind, codec, payload_size, raw_size, digest, parameters)


def check_payload(header: PayloadHeader, data: memoryview, payload: memoryview, start: int = 0) -> None:
    """Raise PackFormatError unless header (at `start` of data) and encoded bytes are what was written.

    The bytes of a raw payload are covered by its digest, not by this check.
    """
    fixed = data[start : start + _PAYLOAD.size]
    found = bytes(data[start + _PAYLOAD.size : start + PAYLOAD_HEADER_SIZE])
    if _payload_check(fixed, header.parameters, payload, header.codec) != found:
        raise PackFormatError("the payload's checksum does not match")


@dataclass(frozen=True)
class Footer:
    pack_id: bytes
    table_offset: int
    table_size: int
    chunk_count: int
    entry_count: int
    file_size: int
    table_digest: bytes

    def encode(self, header: bytes) -> bytes:
        fixed = _FOOTER.pack(
            _FOOTER_MAGIC, FORMAT_VERSION, self.pack_id, self.table_offset, self.table_size, self.chunk_count,
            self.entry_count, self.file_size, self.table_digest,
        )  # fmt: skip
        return fixed + checksum(_CHECK_SIZE, header, fixed)


def decode_header(data: bytes | memoryview) -> PackHeader:
    """Raises PackFormatError; NewerPackError for a later version."""
    if len(data) < HEADER_SIZE:
        raise PackFormatError("it is too short for a pack")
    magic, version, purpose, pack_id, store_id = _HEADER.unpack_from(data)
    if magic != _HEADER_MAGIC:
        raise PackFormatError("it does not begin as a pack does")
    if version > FORMAT_VERSION:
        raise NewerPackError(version)
    return PackHeader(pack_id, store_id, purpose)


def decode_footer(data: bytes | memoryview, header: bytes | memoryview, file_size: int) -> Footer:
    """data: the last FOOTER_SIZE bytes; header: the first HEADER_SIZE, which the checksum covers too."""
    if len(data) != FOOTER_SIZE:
        raise PackFormatError("it is too short for a pack")
    magic, version, pack_id, table_offset, table_size, chunk_count, entry_count, size, digest = _FOOTER.unpack_from(
        data
    )
    if magic != _FOOTER_MAGIC:
        raise PackFormatError("it does not end as a pack does: cut short, or overwritten")
    if checksum(_CHECK_SIZE, header, data[: _FOOTER.size]) != bytes(data[_FOOTER.size :]):
        raise PackFormatError("the checksum of header and footer does not match")
    if version > FORMAT_VERSION:
        raise NewerPackError(version)
    if size != file_size or table_offset + table_size + FOOTER_SIZE != size or table_offset < HEADER_SIZE:
        raise PackFormatError(f"its footer says {size} bytes, the file has {file_size}")
    if table_size > MAX_TABLE_SIZE or chunk_count * CHUNK_RECORD.itemsize > table_size:
        raise PackFormatError("its table is larger than is allowed")
    return Footer(pack_id, table_offset, table_size, chunk_count, entry_count, size, digest)


@dataclass(frozen=True)
class Table:
    """records: CHUNK_RECORD array sorted by digest. entries: encoded, as in the pack."""

    records: Records
    entries_data: bytes | memoryview
    entry_count: int

    def entries(self) -> Iterator[Entry]:
        """Decode in order; raises PackFormatError if they are not exactly the declared number."""
        return (entry for entry, _ in self.encoded_entries())

    def rows(self) -> Iterator[tuple[bytes, bytes, int, bytes]]:
        """As `entry_rows`, in a table that was decoded or made just now: nothing is checked again."""
        return entry_rows(bytes(self.entries_data))

    def encoded_entries(self) -> Iterator[tuple[Entry, bytes | memoryview]]:
        """As `entries`, each with its encoded bytes."""
        at = 0
        try:
            for _ in range(self.entry_count):
                entry, stop = decode_entry(self.entries_data, at)
                yield entry, self.entries_data[at:stop]
                at = stop
        except EntryError as exc:
            raise PackFormatError(f"an entry of the table is damaged: {exc}") from exc
        if at != len(self.entries_data):
            raise PackFormatError("the table holds more than its entries")


def encode_table(records: Iterable[bytes], entries: Iterable[bytes]) -> bytes:
    """records: from `PayloadHeader.record`, in any order; entries: encoded, kept in order."""
    return b"".join(sorted(records)) + b"".join(entries)


def decode_table(data: bytes | memoryview, footer: Footer) -> Table:
    """data: the table's bytes, already checked against footer.table_digest."""
    split = footer.chunk_count * CHUNK_RECORD.itemsize
    records: Any = np.frombuffer(data[:split], dtype=CHUNK_RECORD)
    if footer.chunk_count:
        if int(records["raw_size"].max()) > MAX_CHUNK_SIZE or int(records["payload_size"].max()) > MAX_PAYLOAD_SIZE:
            raise PackFormatError("its table declares chunks larger than is allowed")
        sizes = records["payload_size"].astype(np.uint64) + records["parameters_size"] + PAYLOAD_HEADER_SIZE
        offsets = records["offset"]
        if int(offsets.max()) > footer.table_offset or int((offsets + sizes).max()) > footer.table_offset:
            raise PackFormatError("its table points behind its payloads")
    return Table(records, data[split:], footer.entry_count)
