"""The index's marks of places where a load found no good payload. They hold for what segments say of a place, too."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import Any

import lmdb

from kacas.disk.index_rows import KEY_SIZE
from kacas.model.digest import checksum
from kacas.model.location import Location

Place = tuple[bytes, bytes, int]  # digest, pack id, offset
_MARK = struct.Struct("<16sQ8s")  # pack id, offset, check over key and the rest


def mark_of(digest: bytes, location: Location) -> tuple[bytes, bytes]:
    """Key and value."""
    key = digest[:KEY_SIZE]
    front = _MARK.pack(location.pack_id, location.offset, b"")[:-8]
    return key, front + checksum(8, key, front)


def marked(txn: lmdb.Transaction[Any], marks: Any, digests: Iterable[bytes]) -> set[Place]:
    """The places of these digests that are marked."""
    found: set[Place] = set()
    cursor = txn.cursor(marks)
    if not cursor.first():
        return found
    for digest in digests:
        key = digest[:KEY_SIZE]
        for value in cursor.iternext_dup() if cursor.set_key(key) else ():
            if len(value) == _MARK.size and checksum(8, key, value[:-8]) == value[-8:]:
                pack_id, offset, _ = _MARK.unpack(value)
                found.add((digest, pack_id, offset))
    return found


def unmark(txn: lmdb.Transaction[Any], marks: Any, pack_ids: Collection[bytes]) -> None:
    """Packs that are gone: if one comes back, from a backup perhaps, it is as good as any."""
    for key, value in list(txn.cursor(marks)) if txn.stat(marks)["entries"] else ():
        if value[:16] in pack_ids:
            txn.delete(key, value, db=marks)
