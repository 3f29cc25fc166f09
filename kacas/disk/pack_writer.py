"""Writing one pack: payloads as they come, then table and footer, then publish."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from kacas.disk.durable import Temporary, translate
from kacas.disk.volume import Volume
from kacas.model.digest import ID_SIZE, chunk_digest
from kacas.model.location import Location
from kacas.model.merging import plain_pack_id
from kacas.model.pack_format import (
    FOOTER_SIZE,
    HEADER_SIZE,
    Footer,
    PackHeader,
    PayloadHeader,
    Purpose,
    Table,
    decode_record,
    decode_table,
    encode_table,
)

_FLUSH_SIZE = 1 << 20  # small payloads are gathered and written in one call
_SYNC_EVERY = 32 << 20  # write-back rolls along in a side thread, so that the final sync waits for little
_WRITE_BACK_FROM = 4 << 20

_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync

Payload = tuple[PayloadHeader, bytes | memoryview]
Framed = tuple[PayloadHeader, tuple[bytes | memoryview, ...]]
"""A payload and all its bytes in a pack, the header's in front, in parts."""


def framed(payloads: Sequence[Payload]) -> list[Framed]:
    """Payloads with their headers: computing those is the work of who has made them, not of the one pack for all."""
    return [(header, (header.encode(payload), payload)) for header, payload in payloads]


class PackWriter:
    """One pack under construction. Thread-safe for `append` and `read`."""

    def __init__(self, volume: Volume, purpose: Purpose = Purpose.STORED, pack_id: bytes = b"") -> None:
        """pack_id: if it is not to be any random one; never used before."""
        self.pack_id = pack_id or plain_pack_id(secrets.token_bytes(ID_SIZE))
        self._header = PackHeader(self.pack_id, volume.store_id, purpose).encode()
        self._durable = volume.durable
        self._file = Temporary(
            volume.packs, f"{self.pack_id.hex()}.pack", mode=volume.pack_mode, sync=volume.durable,
            network=volume.network, random_name=True,
        )  # fmt: skip
        self._lock = threading.RLock()
        self._gathered: list[bytes | memoryview] = [self._header]
        self._gathered_size = HEADER_SIZE
        self._records: list[bytes] = []
        self._failure: BaseException | None = None  # a part may have been written
        self._syncer: ThreadPoolExecutor | None = None
        self._syncs: list[Future[None]] = []
        self._synced = 0

    @property
    def size(self) -> int:
        """Bytes so far, written or gathered."""
        return self._file.size + self._gathered_size

    @property
    def payload_count(self) -> int:
        return len(self._records)

    def append(self, payloads: Sequence[Payload], *, lasting: bool = False) -> list[bytes]:
        """As `append_framed`, for payloads without their headers."""
        return self.append_framed(framed(payloads), lasting=lasting)

    def append_framed(self, payloads: Sequence[Framed], *, lasting: bool = False) -> list[bytes]:
        """Take payloads. Returns their chunk records: see `location`.

        lasting: their buffers are never changed, so that `write_gathered` may write them, or whatever comes next;
        otherwise they are free when this returns.
        """
        records = []
        with self._lock:
            offset = self.size
            parts: list[bytes | memoryview] = []
            size = 0
            for header, bytes_of_it in payloads:
                parts += bytes_of_it
                records.append(header.record(offset + size))
                size += header.total_size
            if size < _FLUSH_SIZE:
                # The caller's buffers are reused: what waits must be our own copy.
                self._gathered.append(b"".join(parts))
                self._gathered_size += size
                if self._gathered_size >= _FLUSH_SIZE:
                    self._flush([])
            elif lasting:
                if self._gathered_size >= _FLUSH_SIZE:
                    self._flush([])
                self._gathered += parts
                self._gathered_size += size
            else:
                self._flush(parts)
            self._records += records
        return records

    def write_gathered(self) -> None:
        """Write what was taken, if it is much."""
        with self._lock:
            if self._gathered_size >= _FLUSH_SIZE:
                self._flush([])

    def location(self, record: bytes) -> Location:
        """Where the payload of a chunk record of this pack is."""
        return Location(self.pack_id, *decode_record(record))

    def _flush(self, more: list[bytes | memoryview]) -> None:
        if self._failure is not None:
            raise self._failure  # of another thread, which has not told the batch yet: offsets are not what was said
        try:
            self._file.append(self._gathered + more)
        except BaseException as exc:
            self._failure = exc
            raise
        self._gathered, self._gathered_size = [], 0
        if self._file.size - self._synced >= _SYNC_EVERY:
            self._begin_sync()

    def _begin_sync(self) -> None:
        if self._durable and self._file.size > self._synced:
            self._synced = self._file.size
            self._syncer = self._syncer or ThreadPoolExecutor(1, "kacas-sync")
            try:
                self._syncs.append(self._syncer.submit(_sync_data, self._file.fd))
            except RuntimeError:
                pass  # the program is ending, and no thread can be had: the last sync does it all

    def write_back(self) -> None:
        """Begin to sync what was appended, if it is much, while the caller does other things."""
        with self._lock:
            if self._file.size - self._synced >= _WRITE_BACK_FROM:
                self._begin_sync()

    def read(self, offset: int, size: int) -> bytes:
        """Bytes that were appended before, from the unpublished file."""
        with self._lock:
            self._flush([])
            return os.pread(self._file.fd, size, offset)

    def finish(self, entries: Sequence[bytes]) -> Table:
        """Write table and footer, make all durable, publish. Returns the table that was written."""
        table = encode_table(self._records, entries)
        with self._lock:
            footer = Footer(
                self.pack_id, self.size, len(table), len(self._records), len(entries),
                self.size + len(table) + FOOTER_SIZE, chunk_digest(table),
            )  # fmt: skip
            try:
                self._flush([table, footer.encode(self._header)])
                self._wait_for_syncs()
                self._file.publish()
            except BaseException:
                self.discard()
                raise
        return decode_table(table, footer)

    def _wait_for_syncs(self) -> None:
        if self._syncer is None:
            return
        self._syncer.shutdown(wait=True)
        for sync in self._syncs:
            # A failed sync may have dropped pages for good: never retried, the whole pack is abandoned.
            error = sync.exception()
            if isinstance(error, OSError):
                raise translate(error, self._file.path, "syncing") from error
            if error is not None:
                raise error

    def discard(self) -> None:
        """Give up: nothing was published. Safe to call twice."""
        with self._lock:
            self._durable = False  # no sync begins any more
        if self._syncer is not None:
            self._syncer.shutdown(wait=True)  # it uses the descriptor that is closed next
        with self._lock:  # and so does who writes what was gathered
            self._gathered, self._gathered_size = [], 0
            self._file.discard()
