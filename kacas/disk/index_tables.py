"""Packs' tables as sorted rows of the index, in parts that are each small enough for one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kacas.disk.index_entries import log_key
from kacas.disk.index_rows import KEY_SIZE, encode_rows
from kacas.model.entry import Action, decode_entry
from kacas.model.pack_format import Table

Row = tuple[bytes, bytes]


class TableRows(NamedTuple):
    """Keys and values, sorted."""

    chunks: list[Row]
    entries: list[Row]
    log: list[Row]

    def __len__(self) -> int:
        return len(self.chunks) + len(self.entries) + len(self.log)

    def parts(self, size: int) -> Iterator[TableRows]:
        """In their order, `size` rows of one kind at a time: neighbours share pages of the index."""
        for at in range(0, len(self.chunks), size):
            yield TableRows(self.chunks[at : at + size], [], [])
        for at in range(0, len(self.entries), size):
            yield TableRows([], self.entries[at : at + size], [])
        for at in range(0, len(self.log), size):
            yield TableRows([], [], self.log[at : at + size])


def rows_of(tables: Iterable[tuple[bytes, Table]]) -> TableRows:
    """tables: each with the number of its pack, encoded."""
    chunks: list[NDArray[np.void]] = []
    entries: list[Row] = []
    log: list[Row] = []
    for number, table in tables:
        chunks.append(encode_rows(table.records, int.from_bytes(number, "big")))
        for head, encoded in table.rows():
            if head.action == Action.MERGED:
                continue
            entries.append((head.sha1 + head.entry_id + number, bytes(encoded)))
            if head.action == Action.KEEP:
                log.append((log_key(decode_entry(encoded)[0]), head.sha1))
    joined: list[bytes] = np.concatenate(chunks).tolist() if chunks else []
    return TableRows([(row[:KEY_SIZE], row[KEY_SIZE:]) for row in sorted(joined)], sorted(entries), sorted(log))
