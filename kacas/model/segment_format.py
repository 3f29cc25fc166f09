"""The segment's exact bytes: a sorted merge of many packs' tables. Pure encoding and strict decoding.

header (64) | buckets of chunk records | buckets of entries | blocks of the log | directory | footer (128)

Digests and SHA-1s are spread evenly, so their first bits say which bucket they are in; the directory says where it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from kacas.model.codec import MAX_PAYLOAD_SIZE
from kacas.model.digest import ID_SIZE, SHA1_SIZE, checksum
from kacas.model.location import Location
from kacas.model.pack_format import CHUNK_RECORD, Records

FORMAT_VERSION = 1
HEADER_SIZE = 64
FOOTER_SIZE = 128
CHECK_SIZE = 4  # behind every bucket and block
LOG_BLOCK_ROWS = 64
MAX_ROWS = (1 << 32) - 1
MAX_BUCKET_SIZE = 64 << 20
_MAX_DIRECTORY_SIZE = 1 << 30
_RECORDS_PER_BUCKET, _MAX_RECORD_BITS = 32, 22  # 1.8 KiB; the directory takes 16 MiB of memory at most
_ENTRIES_PER_BUCKET, _MAX_ENTRY_BITS = 16, 20  # about 2.5 KiB; 8 MiB

RECORDS, ENTRIES, LOG = 0, 1, 2  # the regions

# The chunk record of a pack with, where that has zeros, the pack's number in this segment.
SEGMENT_RECORD = np.dtype([*((name, CHUNK_RECORD[name]) for name in (CHUNK_RECORD.names or ())[:-1]), ("pack", "<u4")])
RECORD_SIZE = SEGMENT_RECORD.itemsize
assert CHUNK_RECORD.itemsize == RECORD_SIZE
_RECORD = struct.Struct("<32sQIIHBBI")
ENTRY_FRONT = struct.Struct("<I")  # the pack's number, then the encoded entry, which begins with its size
_ENTRY_SHA1_AT = ENTRY_FRONT.size + 4 + ID_SIZE
LOG_ROW_SIZE = 60  # the index's key of the log, 40 bytes, and the SHA-1

_HEADER = struct.Struct("<8sH6x16s16s16x")  # magic, version, segment id, store id
_FOOTER = struct.Struct("<8sHBB4x16sIII4xQQQQQ16s8x")
_HEADER_MAGIC, _FOOTER_MAGIC = b"KACASSEG", b"KACASSFT"
_BUCKET = struct.Struct("<16sBQ")  # segment id, region, number: what the check of a bucket covers beside its rows
_COVER_SIZE = ID_SIZE + 4
assert _HEADER.size == HEADER_SIZE
assert _FOOTER.size + 16 == FOOTER_SIZE


class SegmentFormatError(ValueError):
    """Bytes that are not this part of a segment."""


class NewerSegmentError(SegmentFormatError):
    def __init__(self, version: int) -> None:
        super().__init__(f"it has format version {version}, this kacas reads up to {FORMAT_VERSION}")
        self.version = version


def segment_id(rows: int, random: bytes) -> bytes:
    """Descending, ids name large segments before the small ones that they were merged from. random: 15 bytes."""
    if len(random) != ID_SIZE - 1:
        raise ValueError(f"{ID_SIZE - 1} random bytes are needed")
    return bytes((rows.bit_length(),)) + random


def record_bits(count: int) -> int:
    """How many bits of a digest name the bucket, for so many chunk records."""
    return _bits(count, _RECORDS_PER_BUCKET, _MAX_RECORD_BITS)


def entry_bits(count: int) -> int:
    """How many bits of a SHA-1 name the bucket, for so many entries."""
    return _bits(count, _ENTRIES_PER_BUCKET, _MAX_ENTRY_BITS)


def _bits(count: int, per_bucket: int, most: int) -> int:
    return min(most, (-(-max(count, 1) // per_bucket) - 1).bit_length())


def bucket_of(key: bytes, bits: int) -> int:
    """The bucket that a digest or SHA-1 is in."""
    return int.from_bytes(key[:8], "big") >> (64 - bits)


def prefixes(records: Records) -> NDArray[np.uint64]:
    """The first 8 bytes of each digest, as a number: what records are sorted by."""
    digests: NDArray[np.uint8] = np.ascontiguousarray(records["digest"]).view(np.uint8).reshape(-1, 32)
    return np.ascontiguousarray(digests[:, :8]).view(">u8").ravel().astype(np.uint64)


def encode_header(segment: bytes, store_id: bytes) -> bytes:
    return _HEADER.pack(_HEADER_MAGIC, FORMAT_VERSION, segment, store_id)


def decode_header(data: bytes) -> tuple[bytes, bytes]:
    """Segment id and store id. Raises SegmentFormatError; NewerSegmentError for a later version."""
    if len(data) < HEADER_SIZE:
        raise SegmentFormatError("it is too short for a segment")
    magic, version, segment, store_id = _HEADER.unpack_from(data)
    if magic != _HEADER_MAGIC:
        raise SegmentFormatError("it does not begin as a segment does")
    if version > FORMAT_VERSION:
        raise NewerSegmentError(version)
    return segment, store_id


@dataclass(frozen=True)
class Footer:
    """Counts are of rows, sizes and offsets of bytes. directory_check: 16 bytes."""

    segment_id: bytes
    record_bits: int
    entry_bits: int
    pack_count: int
    cover_count: int
    replaced_count: int
    record_count: int
    entry_count: int
    log_count: int
    directory_offset: int
    file_size: int
    directory_check: bytes

    def encode(self, header: bytes) -> bytes:
        fixed = _FOOTER.pack(
            _FOOTER_MAGIC, FORMAT_VERSION, self.record_bits, self.entry_bits, self.segment_id, self.pack_count,
            self.cover_count, self.replaced_count, self.record_count, self.entry_count, self.log_count,
            self.directory_offset, self.file_size, self.directory_check,
        )  # fmt: skip
        return fixed + checksum(16, header, fixed)

    @property
    def directory_size(self) -> int:
        return (
            ID_SIZE * (self.pack_count + self.replaced_count) + _COVER_SIZE * self.cover_count
            + 4 * ((1 << self.record_bits) + 1) + 8 * ((1 << self.entry_bits) + 1)
        )  # fmt: skip

    @property
    def records_size(self) -> int:
        return RECORD_SIZE * self.record_count + (CHECK_SIZE << self.record_bits)

    @property
    def log_size(self) -> int:
        return LOG_ROW_SIZE * self.log_count + CHECK_SIZE * self.log_block_count

    @property
    def log_block_count(self) -> int:
        return -(-self.log_count // LOG_BLOCK_ROWS)


def decode_footer(data: bytes, header: bytes, file_size: int) -> Footer:
    """data: the last FOOTER_SIZE bytes. What it says fits into the file, so memory that is taken for it is bounded."""
    if len(data) != FOOTER_SIZE:
        raise SegmentFormatError("it is too short for a segment")
    magic, version, bits_of_records, bits_of_entries, *fields = _FOOTER.unpack(data[: _FOOTER.size])
    if magic != _FOOTER_MAGIC:
        raise SegmentFormatError("it does not end as a segment does: cut short, or overwritten")
    if checksum(16, header, data[: _FOOTER.size]) != data[_FOOTER.size :]:
        raise SegmentFormatError("the checksum of header and footer does not match")
    if version > FORMAT_VERSION:
        raise NewerSegmentError(version)
    segment, packs, covers, replaced, records, entries, log, directory_offset, size, check = fields
    footer = Footer(
        segment, bits_of_records, bits_of_entries, packs, covers, replaced, records, entries, log, directory_offset,
        size, check,
    )  # fmt: skip
    if bits_of_records > _MAX_RECORD_BITS or bits_of_entries > _MAX_ENTRY_BITS:
        raise SegmentFormatError("it has more buckets than are allowed")
    end = footer.directory_offset + footer.directory_size + FOOTER_SIZE
    least = HEADER_SIZE + footer.records_size + footer.log_size
    if not footer.file_size == file_size == end or footer.directory_offset < least:
        raise SegmentFormatError(f"its footer says {footer.file_size} bytes, the file has {file_size}")
    if footer.directory_size > _MAX_DIRECTORY_SIZE:
        raise SegmentFormatError("its directory is larger than is allowed")
    return footer


@dataclass(frozen=True)
class Directory:
    """packs: ids of the packs that the segment holds; their numbers are their places. covers: pack ids, each with the number
    of the merged pack that covers it. replaced: ids of the segments that this one was merged from.

    record_starts: the first record of each bucket, and the number of all. entry_starts: the first byte of each bucket
    in the region of the entries, and the region's size.
    """

    packs: tuple[bytes, ...]
    covers: tuple[tuple[bytes, int], ...]
    replaced: tuple[bytes, ...]
    record_starts: NDArray[np.uint32]
    entry_starts: NDArray[np.uint64]

    def encode(self) -> bytes:
        covers = b"".join(source + ENTRY_FRONT.pack(number) for source, number in self.covers)
        ids = b"".join(self.packs), covers, b"".join(self.replaced)
        return b"".join((*ids, self.record_starts.astype("<u4").tobytes(), self.entry_starts.astype("<u8").tobytes()))


def decode_directory(data: bytes, footer: Footer) -> Directory:
    """data: footer.directory_size bytes. Raises SegmentFormatError."""
    if checksum(16, data) != footer.directory_check:
        raise SegmentFormatError("the checksum of its directory does not match")
    covers_at = ID_SIZE * footer.pack_count
    replaced_at = covers_at + _COVER_SIZE * footer.cover_count
    records_at = replaced_at + ID_SIZE * footer.replaced_count
    entries_at = records_at + 4 * ((1 << footer.record_bits) + 1)
    covers = tuple(struct.iter_unpack("<16sI", data[covers_at:replaced_at]))
    if any(number >= footer.pack_count for _, number in covers):
        raise SegmentFormatError("it names a pack that it does not hold")
    directory = Directory(
        _ids(data[:covers_at]), covers, _ids(data[replaced_at:records_at]),
        np.frombuffer(data[records_at:entries_at], "<u4"), np.frombuffer(data[entries_at:], "<u8"),
    )  # fmt: skip
    room = footer.directory_offset - HEADER_SIZE - footer.records_size - footer.log_size
    ends = int(directory.record_starts[-1]), int(directory.entry_starts[-1])
    if ends != (footer.record_count, room) or not (_rises(directory.record_starts) and _rises(directory.entry_starts)):
        raise SegmentFormatError("its directory and its footer disagree")
    return directory


def _ids(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[at : at + ID_SIZE] for at in range(0, len(data), ID_SIZE))


def _rises(starts: NDArray[Any]) -> bool:
    return bool((starts[1:] >= starts[:-1]).all())


def bucket_check(segment: bytes, region: int, number: int, rows: bytes | memoryview) -> bytes:
    """What stands behind a bucket's rows: rows of another bucket, or segment, do not match it.

    CRC-32, as it guards against accidents and takes a quarter of the time of BLAKE3 for so few bytes.
    """
    return crc32(rows, crc32(_BUCKET.pack(segment, region, number))).to_bytes(CHECK_SIZE, "little")


def check_bucket(segment: bytes, region: int, number: int, bucket: bytes) -> bytes:
    """The rows of a bucket, as the bytes that were written. Raises SegmentFormatError."""
    rows = bucket[:-CHECK_SIZE]
    if bucket_check(segment, region, number, rows) != bucket[-CHECK_SIZE:]:
        raise SegmentFormatError("the checksum of a bucket does not match")
    return rows


def locations_in(rows: bytes, digest: bytes, packs: Sequence[bytes]) -> Iterator[Location]:
    """Where the payload is, by the chunk records of one bucket. Raises SegmentFormatError."""
    at = rows.find(digest)
    while at >= 0:
        inside = at % RECORD_SIZE
        if inside == 0:
            _, offset, payload_size, raw_size, parameters_size, kind, codec, number = _RECORD.unpack_from(rows, at)
            if payload_size > MAX_PAYLOAD_SIZE:
                raise SegmentFormatError(f"it says that a payload has {payload_size} bytes, more than is allowed")
            yield Location(
                _pack(packs, number), offset, payload_size, raw_size, parameters_size, kind, codec
            )  # fmt: skip
        at = rows.find(digest, at + RECORD_SIZE - inside)


def entries_in(rows: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """SHA-1, number of the pack and encoded entry of each row of a bucket. Raises SegmentFormatError."""
    at, stop = 0, len(rows)
    while at < stop:
        if stop - at < _ENTRY_SHA1_AT + SHA1_SIZE:
            raise SegmentFormatError("an entry is cut short")
        (number,) = ENTRY_FRONT.unpack_from(rows, at)
        (size,) = ENTRY_FRONT.unpack_from(rows, at + ENTRY_FRONT.size)
        after = at + ENTRY_FRONT.size + size
        if size < _ENTRY_SHA1_AT + SHA1_SIZE or after > stop:
            raise SegmentFormatError("the size of an entry is wrong")
        sha1_at = at + _ENTRY_SHA1_AT
        yield rows[sha1_at : sha1_at + SHA1_SIZE], number, rows[at + ENTRY_FRONT.size : after]
        at = after


def entries_of(rows: bytes, sha1: bytes, packs: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The encoded entries of one SHA-1 in a bucket, each with the id of its pack. Raises SegmentFormatError."""
    if sha1 not in rows:
        return []  # the bytes may stand in a label, too
    return [(encoded, _pack(packs, number)) for other, number, encoded in entries_in(rows) if other == sha1]


def _pack(packs: Sequence[bytes], number: int) -> bytes:
    if number >= len(packs):
        raise SegmentFormatError("it names a pack that it does not hold")
    return packs[number]
