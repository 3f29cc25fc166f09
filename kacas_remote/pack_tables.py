"""The table of one pack in a bucket, read by ranges, piece by piece, and proved by its digest at the end.

One look at the pack's head and tail is enough for most; memory is bounded however large a table is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from blake3 import blake3

from kacas.model.entry import EntryError, entry_rows
from kacas.model.pack_format import (
    CHUNK_RECORD,
    FOOTER_SIZE,
    HEADER_SIZE,
    Footer,
    PackFormatError,
    Records,
    decode_footer,
    decode_header,
    decode_table,
)
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.layout import pack_key

_TAIL_SIZE = 64 * 1024  # bytes: the tables of packs of large chunks fit many times
_PIECE_SIZE = (4 << 20) // CHUNK_RECORD.itemsize * CHUNK_RECORD.itemsize


class ForeignPackError(PackFormatError):
    """A pack that names another remote."""


class TablePiece(NamedTuple):
    """Some rows of a table. entries: see `entry_rows`."""

    records: Records
    entries: list[tuple[bytes, bytes, int, bytes]]


_NO_RECORDS = decode_table(b"", Footer(b"", 0, 0, 0, 0, 0, b"")).records


def read_table(blobs: BlobStore, remote_id: bytes, pack_id: bytes, size: int) -> Iterator[TablePiece]:
    """The rows of the pack with this size. Nothing of them may be believed before the last has come without an error.

    Raises ForeignPackError if it names another remote, PackFormatError if it is no pack, or is damaged; NotFoundError if it is
    gone; what `blobs` raises.
    """
    key = pack_key(pack_id)
    if size < HEADER_SIZE + FOOTER_SIZE:
        raise PackFormatError("it is too short for a pack")
    tail_at = max(0, size - _TAIL_SIZE)
    header, tail = _ranges(blobs, key, [(0, HEADER_SIZE), (tail_at, size)])
    head = decode_header(header)
    footer = decode_footer(tail[-FOOTER_SIZE:], header, size)
    if not head.pack_id == footer.pack_id == pack_id:
        raise PackFormatError("it has the name of another pack")
    if head.store_id != remote_id:
        raise ForeignPackError("it belongs to another remote")
    yield from _rows(_pieces(blobs, key, footer, tail_at, tail), footer)


def _pieces(blobs: BlobStore, key: str, footer: Footer, tail_at: int, tail: memoryview) -> Iterator[memoryview]:
    """The table's bytes: records by themselves, whole; what the tail has is not read again."""
    start, stop = footer.table_offset, footer.table_offset + footer.table_size
    split = start + footer.chunk_count * CHUNK_RECORD.itemsize
    at = start
    while at < stop:
        end = min(at + _PIECE_SIZE, split if at < split else stop)
        if at >= tail_at:
            yield tail[at - tail_at : end - tail_at]
        else:
            yield _ranges(blobs, key, [(at, end)])[0]
        at = end


def _ranges(blobs: BlobStore, key: str, ranges: list[tuple[int, int]]) -> list[memoryview]:
    found = blobs.get_ranges(key, ranges)
    for (start, stop), data in zip(ranges, found, strict=True):
        if len(data) != stop - start:
            raise PackFormatError(f"it gave {len(data)} of the bytes {start} to {stop}: cut short, or replaced")
    return found


def _rows(pieces: Iterator[memoryview], footer: Footer) -> Iterator[TablePiece]:
    hasher = blake3()
    chunks, entries, rest = 0, 0, b""
    for data in pieces:
        hasher.update(data)
        if chunks < footer.chunk_count:
            count = len(data) // CHUNK_RECORD.itemsize
            table = decode_table(data, replace(footer, chunk_count=count, entry_count=0))
            chunks += count
            yield TablePiece(table.records, [])
        else:
            found, rest = _entries(rest + data)
            entries += len(found)
            yield TablePiece(_NO_RECORDS, found)
    if rest or entries != footer.entry_count:
        raise PackFormatError("its table holds other entries than its footer says")
    if hasher.digest() != footer.table_digest:
        raise PackFormatError("the digest of its table does not match")


def _entries(data: bytes) -> tuple[list[tuple[bytes, bytes, int, bytes]], bytes]:
    """The whole entries at the beginning, and what is left. Who reads one compares its own checksum."""
    try:
        found = list(entry_rows(data))
    except EntryError as exc:
        raise PackFormatError(f"an entry of its table is damaged: {exc}") from exc
    return found, data[sum(len(encoded) for *_, encoded in found) :]
