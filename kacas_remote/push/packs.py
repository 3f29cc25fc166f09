"""A pack under construction in memory: payloads as they are encoded, entries of what is whole in it, then table and footer."""

from __future__ import annotations

import mmap
import secrets

from kacas.model.codec import MIB
from kacas.model.digest import ID_SIZE, chunk_digest
from kacas.model.pack_format import (
    CHUNK_RECORD,
    FOOTER_SIZE,
    HEADER_SIZE,
    Footer,
    PackHeader,
    PayloadHeader,
    Table,
    decode_table,
    encode_table,
)

PACK_SIZE = 24 * MIB
"""Of a whole pack at most. Four, of which one is filled, are 96 MiB."""
RECORD_SIZE = CHUNK_RECORD.itemsize


class PackBuilder:
    """One pack. Used by one thread. `buffer` is another pack's again when this one was sent."""

    def __init__(self, buffer: mmap.mmap, remote_id: bytes, size: int = PACK_SIZE) -> None:
        """size: of the whole pack, about: one payload always has room."""
        self.pack_id = secrets.token_bytes(ID_SIZE)
        self.buffer = buffer
        self._size = min(size, len(buffer))
        self._view = memoryview(buffer)
        self._header = PackHeader(self.pack_id, remote_id).encode()
        self._view[:HEADER_SIZE] = self._header
        self._end = HEADER_SIZE
        self._records: list[bytes] = []
        self._entries: list[bytes] = []
        self._entries_size = 0

    @property
    def payload_size(self) -> int:
        """Bytes of payloads and their headers so far."""
        return self._end - HEADER_SIZE

    def room(self, payloads: int = 1) -> int:
        """Bytes that so many more payloads may take together, an entry of theirs included; below 0 if there is none."""
        tail = (len(self._records) + payloads) * RECORD_SIZE + self._entries_size + FOOTER_SIZE
        return (self._size if self._records else len(self.buffer)) - self._end - tail

    def place(self, size: int) -> memoryview:
        """Where the next `size` bytes of payloads go. Nothing is taken before `take`."""
        return self._view[self._end : self._end + size]

    def take(self, header: PayloadHeader) -> None:
        """The payload of this header is at the place where the next one goes."""
        self._records.append(header.record(self._end))
        self._end += header.total_size

    def write(self, header: PayloadHeader, payload: bytes | memoryview) -> None:
        """Append a payload that is not at its place yet."""
        place = self.place(header.total_size)
        front = header.encode(payload)
        place[: len(front)] = front
        place[len(front) :] = payload
        self.take(header)

    def name(self, entry: bytes) -> None:
        """Let the table have an entry of what is whole in this pack."""
        self._entries.append(entry)
        self._entries_size += len(entry)

    def finish(self) -> tuple[memoryview, Table]:
        """All bytes of the pack, and its table. Nothing can be put into it afterwards."""
        records, entries = self._records, self._entries
        self._records, self._entries = [], []  # of tens of thousands of small contents as much memory as a buffer
        table = encode_table(records, entries)
        stop = self._end + len(table)
        footer = Footer(
            self.pack_id, self._end, len(table), len(records), len(entries), stop + FOOTER_SIZE, chunk_digest(table)
        )
        self._view[self._end : stop] = table
        self._view[stop : stop + FOOTER_SIZE] = footer.encode(self._header)
        return self._view[: stop + FOOTER_SIZE], decode_table(table, footer)
