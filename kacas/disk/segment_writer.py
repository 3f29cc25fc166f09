"""Writing one segment: tables or smaller segments are merged, a range of digests after the other, and published as packs are."""

from __future__ import annotations

import heapq
import secrets
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice, pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kacas.disk.durable import Temporary
from kacas.disk.index_entries import log_key
from kacas.disk.segment_reader import Segment
from kacas.disk.volume import Volume
from kacas.model.digest import ID_SIZE, SHA1_SIZE, checksum
from kacas.model.entry import Action, decode_entry
from kacas.model.merging import sources_of
from kacas.model.pack_format import Records, Table
from kacas.model.segment_format import (
    CHECK_SIZE,
    ENTRIES,
    ENTRY_FRONT,
    FOOTER_SIZE,
    LOG,
    LOG_BLOCK_ROWS,
    MAX_BUCKET_SIZE,
    MAX_ROWS,
    RECORD_SIZE,
    RECORDS,
    SEGMENT_RECORD,
    Directory,
    Footer,
    SegmentFormatError,
    bucket_check,
    encode_header,
    entry_bits,
    prefixes,
    record_bits,
    segment_id,
)

_RANGE_RECORDS = 1 << 17  # that are sorted at once: 30 MiB with the copies that sorting makes
_RANGE_ENTRIES = 1 << 14
_SORTED_AT_ONCE = 1 << 13  # rows of the log
_MERGED, _KEEP = int(Action.MERGED), int(Action.KEEP)

EntryRow = tuple[bytes, int, bytes]  # SHA-1, number of the pack, encoded entry


class Source(Protocol):
    """What is merged. Prefixes are the first 8 bytes of digests and SHA-1s, as numbers; ranges may hold more than was asked."""

    @property
    def packs(self) -> Sequence[bytes]: ...
    @property
    def covers(self) -> Iterable[tuple[bytes, bytes]]: ...
    @property
    def counts(self) -> tuple[int, int]:
        """Chunk records and entries."""

    def records_between(self, first: int, stop: int) -> Records: ...
    def entries_between(self, first: int, stop: int) -> Iterable[EntryRow]: ...
    def log_rows(self) -> Iterator[bytes]: ...


class TableRun:
    """Tables of packs as a source, in memory: up to some 100,000 rows."""

    def __init__(self, tables: Sequence[tuple[bytes, Table]]) -> None:
        self.packs = [pack_id for pack_id, _ in tables]
        self.covers: list[tuple[bytes, bytes]] = []
        parts = [np.empty(0, SEGMENT_RECORD)]
        log = []
        begun: list[list[EntryRow]] = [
            [] for _ in range(256)
        ]  # by first byte: sorting all at once lets no other thread run
        for number, (pack_id, table) in enumerate(tables):
            part = table.records.view(SEGMENT_RECORD).copy()
            part["pack"] = number
            parts.append(part)
            self.covers += [(source, pack_id) for source in sources_of(table) - {pack_id}]
            for _, sha1, action, encoded in table.rows():
                if action == _MERGED:
                    continue
                begun[sha1[0]].append((sha1, number, encoded))
                if action == _KEEP:
                    log.append(log_key(decode_entry(encoded)[0]) + sha1)
        self._records: Records = np.concatenate(parts)
        self._entries: list[EntryRow] = []
        for rows in begun:
            self._entries += sorted(rows)
        self._logs = [sorted(log[at : at + _SORTED_AT_ONCE]) for at in range(0, len(log), _SORTED_AT_ONCE)]

    @property
    def counts(self) -> tuple[int, int]:
        return len(self._records), len(self._entries)

    def records_between(self, first: int, stop: int) -> Records:
        return self._records  # one run is one range, or few

    def entries_between(self, first: int, stop: int) -> list[EntryRow]:
        start, end = (bisect_left(self._entries, (_key(edge),)) for edge in (first, stop))
        return self._entries[start:end]

    def log_rows(self) -> Iterator[bytes]:
        return heapq.merge(*self._logs)


class SegmentSource:
    """A smaller segment as a source."""

    def __init__(self, segment: Segment) -> None:
        self.packs = segment.packs
        self._segment = segment
        self.counts = segment.footer.record_count, segment.footer.entry_count
        self.records_between = segment.records_between
        self.entries_between = segment.entries_between
        self.log_rows = segment.log_rows

    @property
    def covers(self) -> Iterator[tuple[bytes, bytes]]:
        return ((covered, coverer) for coverer, ids in self._segment.covers.items() for covered in ids)


class _Part:
    """A source with what becomes of its packs' numbers."""

    def __init__(self, source: Source, numbers: list[int | None]) -> None:
        self.source = source
        self._taken = np.array([number is not None for number in numbers] or [False])
        self._numbers = np.array([number or 0 for number in numbers] or [0], np.uint32)

    def records(self, first: int, stop: int) -> tuple[Records, NDArray[np.uint64]]:
        """Those within the range, and their prefixes."""
        records = self.source.records_between(first, stop)
        keys = prefixes(records)
        chosen = self._taken[records["pack"]] & (keys >= np.uint64(first)) & (keys <= np.uint64(stop - 1))
        records = records[chosen]
        records["pack"] = self._numbers[records["pack"]]
        return records, keys[chosen]

    def entries(self, first: int, stop: int) -> list[tuple[bytes, bytes]]:
        """SHA-1 and row."""
        low, high = _key(first), _key(stop)
        taken, numbers = self._taken.tolist(), self._numbers.tolist()
        return [
            (sha1, ENTRY_FRONT.pack(numbers[number]) + encoded)
            for sha1, number, encoded in self.source.entries_between(first, stop)
            if low <= sha1 < high and taken[number]
        ]


def write_segment(
    volume: Volume,
    sources: Sequence[Source],
    listed: set[bytes],
    replaced: Sequence[bytes] = (),
    go_on: Callable[[], None] = lambda: None,
) -> bytes:
    """Merge and publish; returns the segment's id. A pack that is in several sources, or is not listed, is taken once, or not.

    Memory is bounded, whatever the size of the segments. go_on: called again and again, several times a second; if it raises,
    nothing is published. Raises StoreError, SegmentUnusableError for a damaged source,
    SegmentFormatError for what no segment can hold.
    """
    packs: dict[bytes, int] = {}
    parts = []
    for source in sources:
        new = [pack_id if pack_id in listed and pack_id not in packs else None for pack_id in source.packs]
        numbers = [None if pack_id is None else packs.setdefault(pack_id, len(packs)) for pack_id in new]
        parts.append(_Part(source, numbers))
    covers = {
        (covered, packs[coverer])
        for source in sources
        for covered, coverer in source.covers
        if coverer in packs and covered in listed
    }
    volume.make_directory(volume.segments)
    records = sum(source.counts[0] for source in sources)
    entries = sum(source.counts[1] for source in sources)
    if records > MAX_ROWS or entries > MAX_ROWS:
        raise SegmentFormatError("so many rows fit into no segment")
    writer = _SegmentWriter(volume, segment_id(records + entries, secrets.token_bytes(ID_SIZE - 1)), go_on)
    try:
        record_starts = writer.write_records(parts, record_bits(records))
        entry_starts = writer.write_entries(parts, entry_bits(entries))
        log_count = writer.write_log(heapq.merge(*(part.source.log_rows() for part in parts)))
        found = Directory(tuple(packs), tuple(sorted(covers)), tuple(replaced), record_starts, entry_starts)
        writer.finish(found, log_count)
    except BaseException:
        writer.discard()
        raise
    return writer.id


class _SegmentWriter:
    def __init__(self, volume: Volume, segment: bytes, go_on: Callable[[], None]) -> None:
        self.id = segment
        self._header = encode_header(segment, volume.store_id)
        self._entry_count = 0
        self._go_on = go_on
        self._file = Temporary(
            volume.segments, f"{segment.hex()}.seg", mode=volume.pack_mode, sync=volume.durable,
            network=volume.network, random_name=True,
        )  # fmt: skip
        try:
            self._file.append([self._header])
        except BaseException:
            self.discard()
            raise

    def write_records(self, parts: list[_Part], bits: int) -> NDArray[np.uint32]:
        """Returns the first record of each bucket, and the number of all."""
        starts = np.zeros((1 << bits) + 1, np.uint32)
        written = 0
        for numbers, first, stop in _ranges(sum(part.source.counts[0] for part in parts), _RANGE_RECORDS, bits):
            pieces = [part.records(first, stop) for part in parts]
            keys = np.concatenate([piece[1] for piece in pieces])
            order = np.argsort(keys, kind="stable")
            rows = memoryview(np.concatenate([piece[0] for piece in pieces])[order].tobytes())
            edges = np.array([bucket << (64 - bits) for bucket in numbers], np.uint64)
            ends = [*np.searchsorted(keys[order], edges).tolist(), len(keys)]
            starts[numbers.start : numbers.stop] = np.array(ends[:-1], np.uint32) + np.uint32(written)
            self._append(RECORDS, numbers, [rows[a * RECORD_SIZE : b * RECORD_SIZE] for a, b in pairwise(ends)])
            written += len(keys)
        starts[-1] = written
        return starts

    def write_entries(self, parts: list[_Part], bits: int) -> NDArray[np.uint64]:
        """Returns the first byte of each bucket, and the size of the region."""
        sizes: list[int] = []
        for numbers, first, stop in _ranges(sum(part.source.counts[1] for part in parts), _RANGE_ENTRIES, bits):
            rows = sorted(row for part in parts for row in part.entries(first, stop))
            self._entry_count += len(rows)
            ends = [bisect_left(rows, (_key(bucket << (64 - bits)),)) for bucket in numbers]
            buckets = [b"".join(row for _, row in rows[a:b]) for a, b in pairwise([*ends, len(rows)])]
            self._append(ENTRIES, numbers, buckets)
            sizes += [len(bucket) + CHECK_SIZE for bucket in buckets]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)

    def write_log(self, rows: Iterable[bytes]) -> int:
        """Rows that are there several times are written once. Returns their number."""
        once = (row for row, _ in groupby(rows))
        count = 0
        while block := list(islice(once, LOG_BLOCK_ROWS)):
            number, inside = divmod(count, LOG_BLOCK_ROWS)
            assert inside == 0  # only the last block is not full
            self._append(LOG, range(number, number + 1), [b"".join(block)])
            count += len(block)
        return count

    def _append(self, region: int, numbers: Iterable[int], buckets: Sequence[bytes | memoryview]) -> None:
        self._go_on()
        parts: list[bytes | memoryview] = []
        for number, rows in zip(numbers, buckets, strict=True):
            if len(rows) + CHECK_SIZE > MAX_BUCKET_SIZE:
                raise SegmentFormatError("too many rows begin with the same bits")
            parts += (rows, bucket_check(self.id, region, number, rows))
        self._file.append(parts)

    def finish(self, directory: Directory, log_count: int) -> None:
        data = directory.encode()
        at = self._file.size
        footer = Footer(
            self.id, _bits(directory.record_starts), _bits(directory.entry_starts), len(directory.packs),
            len(directory.covers), len(directory.replaced), int(directory.record_starts[-1]), self._entry_count,
            log_count, at, at + len(data) + FOOTER_SIZE, checksum(16, data),
        )  # fmt: skip
        self._file.append([data, footer.encode(self._header)])
        self._file.publish()

    def discard(self) -> None:
        self._file.discard()


def _bits(starts: NDArray[Any]) -> int:
    return (len(starts) - 1).bit_length() - 1


def _ranges(count: int, at_once: int, bits: int) -> Iterator[tuple[range, int, int]]:
    """Numbers of buckets, and the prefixes where they begin and end, so that a range has about so many rows."""
    range_bits = min(bits, (-(-max(count, 1) // at_once) - 1).bit_length())
    step = 1 << (bits - range_bits)
    for first in range(0, 1 << bits, step):
        yield range(first, first + step), first << (64 - bits), (first + step) << (64 - bits)


def _key(prefix: int) -> bytes:
    """Where the SHA-1s with this prefix begin."""
    return prefix.to_bytes(8, "big") if prefix < 1 << 64 else b"\xff" * (SHA1_SIZE + 1)
