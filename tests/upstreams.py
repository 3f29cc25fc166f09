"""What the tests of upstreams look at: which packs were fetched, and with which entries."""

from __future__ import annotations

import os
from pathlib import Path

import kacas
from kacas.disk.tables import Tables
from kacas.model.entry import Entry, Origin
from kacas.model.pack_format import HEADER_SIZE, Purpose, decode_header


def packs(store: kacas.Store) -> list[Path]:
    """Files of packs, by their age."""
    return sorted((store.path / "packs").glob("*.pack"), key=lambda path: os.stat(path).st_mtime_ns)


def purposes(store: kacas.Store) -> list[int]:
    """Of all packs, sorted."""
    return sorted(decode_header(path.read_bytes()[:HEADER_SIZE]).purpose for path in packs(store))


def fetched_packs(store: kacas.Store) -> list[Path]:
    return [p for p in packs(store) if decode_header(p.read_bytes()[:HEADER_SIZE]).purpose == Purpose.FETCHED]


def fetched_entries(store: kacas.Store) -> list[Entry]:
    """Each entry of what was fetched, by the tables."""
    tables: Tables = store.repository.lookup.tables
    entries = {entry.entry_id: entry for _, table in tables.uncovered() for entry in table.entries()}
    return [entry for entry in entries.values() if entry.origin == Origin.FETCHED]


def flip_payload(store: kacas.Store, number: int) -> None:
    """Change one byte in the middle of a payload of the first pack."""
    pack = packs(store)[0]
    table = store.repository.lookup.tables.read(bytes.fromhex(pack.stem))
    assert table is not None
    rows = sorted(table.records, key=lambda row: int(row["offset"]))
    at = (
        int(rows[number]["offset"]) + 64 + int(rows[number]["parameters_size"]) + int(rows[number]["payload_size"]) // 2
    )
    pack.chmod(0o644)
    with open(pack, "r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 0x10]))
