"""Reading one segment: by pread, never mapped, as the store may be on a network file system."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Set
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from kacas.errors import NewerFormatError
from kacas.model.location import Location
from kacas.model.pack_format import Records
from kacas.model.segment_format import (
    CHECK_SIZE,
    ENTRIES,
    FOOTER_SIZE,
    HEADER_SIZE,
    LOG,
    LOG_BLOCK_ROWS,
    LOG_ROW_SIZE,
    MAX_BUCKET_SIZE,
    RECORD_SIZE,
    RECORDS,
    SEGMENT_RECORD,
    NewerSegmentError,
    SegmentFormatError,
    check_bucket,
    decode_directory,
    decode_footer,
    decode_header,
    entries_in,
    entries_of,
    locations_in,
)

_RUN_SIZE = 1 << 20  # bytes that are read in one call
_GAP = 16 << 10  # bytes between two buckets that cost less to read than a second call, on a network at least


class SegmentUnusableError(Exception):
    """A segment is damaged, or cannot be read. Never reaches a user: it is done without, the packs' tables are the truth."""

    advice = "Move it out of segments/"

    def __init__(self, segment: bytes, why: str) -> None:
        super().__init__(
            f"segment {segment.hex()}.seg: {why}; the packs' own tables are read instead, which takes longer. {self.advice}"
        )
        self.segment = segment


class SegmentUnreadableError(SegmentUnusableError):
    """The system could not open or read a segment, which may be as good as ever."""

    advice = "It is tried again soon; if that is said again and again, check the disk"


class Segment:
    """One open segment. Thread-safe, safe after fork. The descriptor closes with the last reference.

    packs: ids of those that it holds. covers: of packs that a merged one of these covers, by the id of that.
    replaced: ids of the segments that it was merged from.
    """

    def __init__(self, path: Path, segment: bytes, store_id: bytes) -> None:
        """Raises FileNotFoundError, SegmentUnusableError, or NewerFormatError."""
        self.id = segment
        self.name = path.name
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block us
            status = os.fstat(self._fd)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise SegmentUnreadableError(segment, f"it cannot be opened: {exc.strerror}") from exc
        if not stat.S_ISREG(status.st_mode):
            raise self.unusable("it is not a regular file")
        self.size = status.st_size
        if self.size < HEADER_SIZE + FOOTER_SIZE:
            raise self.unusable(f"it has only {self.size} bytes")
        header = self._read(0, HEADER_SIZE)
        try:
            named, store = decode_header(header)
            self.footer = decode_footer(self._read(self.size - FOOTER_SIZE, FOOTER_SIZE), header, self.size)
            directory = self._read(self.footer.directory_offset, self.footer.directory_size)
            found = decode_directory(directory, self.footer)
        except NewerSegmentError as exc:
            raise NewerFormatError(f"segment {self.name}: {exc}; upgrade kacas to use it", needed=exc.version) from exc
        except SegmentFormatError as exc:
            raise self.unusable(str(exc)) from exc
        if store != store_id:
            raise self.unusable(f"it belongs to the store with id {store.hex()}")
        if not named == self.footer.segment_id == segment:
            raise self.unusable(f"it is really {named.hex()}.seg")
        self.packs = found.packs
        self.covers: dict[bytes, list[bytes]] = {}
        for covered, number in found.covers:
            self.covers.setdefault(found.packs[number], []).append(covered)
        self.replaced = found.replaced
        self._bits = self.footer.record_bits, self.footer.entry_bits
        # Read as numbers of Python, a view takes a fifth of the time that an array takes.
        self._record_starts = found.record_starts.astype(np.uint32).data
        self._entry_starts = found.entry_starts.astype(np.uint64).data
        self._entries_offset = HEADER_SIZE + self.footer.records_size
        self._log_offset = self.footer.directory_offset - self.footer.log_size

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def covered(self, without: Set[bytes]) -> frozenset[bytes]:
        """All that its merged packs cover, but for these merged packs."""
        if without.isdisjoint(self.covers):
            return self._covered
        return frozenset(chain.from_iterable(ids for merged, ids in self.covers.items() if merged not in without))

    @cached_property
    def _covered(self) -> frozenset[bytes]:
        return frozenset(chain.from_iterable(self.covers.values()))

    def unusable(self, why: str) -> SegmentUnusableError:
        """The error that names this segment; raise it."""
        return SegmentUnusableError(self.id, why)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, offset)
            while len(data) < size:
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    raise self.unusable(f"it ends at byte {offset + len(data)}, more was expected there")
                data += more
        except OSError as exc:
            raise SegmentUnreadableError(self.id, f"reading failed: {exc.strerror}") from exc
        return data

    # --- buckets ----------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Chunk records and entries."""
        return self.footer.record_count + self.footer.entry_count

    def _span(self, region: int, number: int) -> tuple[int, int]:
        """Where the bucket begins and ends in the file, its check included."""
        if region == RECORDS:
            start, stop = self._record_starts[number], self._record_starts[number + 1]
            at = HEADER_SIZE + number * CHECK_SIZE
            return at + start * RECORD_SIZE, at + stop * RECORD_SIZE + CHECK_SIZE
        return self._entries_offset + self._entry_starts[number], self._entries_offset + self._entry_starts[number + 1]

    def _buckets(self, region: int, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Numbers and rows of these buckets, which must rise; neighbours are read at once. Empty ones are left out."""
        run: list[tuple[int, int, int]] = []
        for number in numbers:
            start, stop = self._span(region, number)
            if stop - start <= CHECK_SIZE:
                continue
            if stop - start > MAX_BUCKET_SIZE:
                raise self.unusable("a bucket is larger than is allowed")
            if run and (start - run[-1][2] > _GAP or stop - run[0][1] > _RUN_SIZE):
                yield from self._read_run(region, run)
                run = []
            run.append((number, start, stop))
        if run:
            yield from self._read_run(region, run)

    def _read_run(self, region: int, run: list[tuple[int, int, int]]) -> Iterator[tuple[int, bytes]]:
        first = run[0][1]
        data = self._read(first, run[-1][2] - first)
        if len(run) == 1:
            return iter([(run[0][0], self._checked(region, run[0][0], data))])
        return (
            (number, self._checked(region, number, data[start - first : stop - first])) for number, start, stop in run
        )

    def _checked(self, region: int, number: int, bucket: bytes) -> bytes:
        try:
            return check_bucket(self.id, region, number, bucket)
        except SegmentFormatError as exc:
            raise self.unusable(str(exc)) from exc

    def _wanted(self, region: int, keys: Iterable[bytes]) -> Iterator[tuple[list[bytes], bytes]]:
        """Keys together with the rows of the bucket that they must be in."""
        shift = 64 - self._bits[region]
        wanted: dict[int, list[bytes]] = {}
        for key in keys:
            wanted.setdefault(int.from_bytes(key[:8], "big") >> shift, []).append(key)
        numbers = sorted(wanted) if len(wanted) > 1 else wanted
        return ((wanted[number], rows) for number, rows in self._buckets(region, numbers))

    def locate(self, digests: Iterable[bytes]) -> dict[bytes, list[Location]]:
        """Where payloads are; what is in none of the packs that this segment holds is left out. Raises SegmentUnusableError."""
        found: dict[bytes, list[Location]] = {}
        try:
            for here, rows in self._wanted(RECORDS, digests):
                for digest in here:
                    if places := list(locations_in(rows, digest, self.packs)):
                        found[digest] = places
        except SegmentFormatError as exc:
            raise self.unusable(str(exc)) from exc
        return found

    def entries(self, sha1s: Iterable[bytes]) -> dict[bytes, list[tuple[bytes, bytes]]]:
        """Encoded entries, each with its pack; SHA-1s of which no pack has any are left out. Raises SegmentUnusableError."""
        found: dict[bytes, list[tuple[bytes, bytes]]] = {}
        try:
            for here, rows in self._wanted(ENTRIES, sha1s):
                for sha1 in here:
                    if entries := entries_of(rows, sha1, self.packs):
                        found[sha1] = entries
        except SegmentFormatError as exc:
            raise self.unusable(str(exc)) from exc
        return found

    # --- the log ----------------------------------------------------------------------------

    def _block(self, number: int) -> list[bytes]:
        start = self._log_offset + number * (LOG_BLOCK_ROWS * LOG_ROW_SIZE + CHECK_SIZE)
        count = min(LOG_BLOCK_ROWS, self.footer.log_count - number * LOG_BLOCK_ROWS)
        rows = self._checked(LOG, number, self._read(start, count * LOG_ROW_SIZE + CHECK_SIZE))
        return [rows[at : at + LOG_ROW_SIZE] for at in range(0, len(rows), LOG_ROW_SIZE)]

    def log_before(self, key: bytes) -> Iterator[bytes]:
        """Rows of the log that are less than the key, backwards. Raises SegmentUnusableError."""
        first, last = 0, self.footer.log_block_count  # the blocks before `first` begin below the key
        while first < last:
            middle = (first + last) // 2
            if self._block(middle)[0] < key:
                first = middle + 1
            else:
                last = middle
        for number in range(first - 1, -1, -1):
            yield from (row for row in reversed(self._block(number)) if row < key)

    def log_rows(self) -> Iterator[bytes]:
        """All rows of the log, forwards. Raises SegmentUnusableError."""
        for number in range(self.footer.log_block_count):
            yield from self._block(number)

    # --- all of it --------------------------------------------------------------------------

    def records_between(self, first: int, stop: int) -> Records:
        """Chunk records of the buckets that a range of prefixes (first 8 bytes, as numbers) touches. Raises as `locate`."""
        data = b"".join(rows for _, rows in self._buckets(RECORDS, self._numbers(RECORDS, first, stop)))
        records: Records = np.frombuffer(data, SEGMENT_RECORD)
        return records

    def entries_between(self, first: int, stop: int) -> Iterator[tuple[bytes, int, bytes]]:
        """SHA-1, number of the pack and encoded entry, of the buckets that a range of prefixes touches. Raises as `locate`."""
        try:
            for _, rows in self._buckets(ENTRIES, self._numbers(ENTRIES, first, stop)):
                yield from entries_in(rows)
        except SegmentFormatError as exc:
            raise self.unusable(str(exc)) from exc

    def _numbers(self, region: int, first: int, stop: int) -> range:
        shift = 64 - self._bits[region]
        return range(first >> shift, ((stop - 1) >> shift) + 1)
