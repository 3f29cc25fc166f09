"""Packs' tables as sorted rows of the index, in parts that are each small enough for one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kacas.disk.index_entries import log_key
from kacas.disk.index_rows import KEY_SIZE, encode_rows
from kacas.model.entry import Action, decode_entry
from kacas.model.pack_format import Table

Row = tuple[bytes, bytes]
_key = itemgetter(0)
_MERGED, _KEEP = int(Action.MERGED), int(Action.KEEP)  # comparing with a member of an enumeration takes twice as long


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
        for entry_id, sha1, action, encoded in table.rows():
            if action == _MERGED:
                continue
            entries.append((sha1 + entry_id + number, encoded))
            if action == _KEEP:
                log.append((log_key(decode_entry(encoded)[0]), sha1))
    joined: list[bytes] = np.concatenate(chunks).tolist() if chunks else []
    entries.sort(key=_key)
    return TableRows([(row[:KEY_SIZE], row[KEY_SIZE:]) for row in sorted(joined)], entries, sorted(log))
