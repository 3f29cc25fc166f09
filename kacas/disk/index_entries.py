"""The index's rows of entries: key SHA-1, entry id and the pack's number, value the encoded entry, checked by itself."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator

import lmdb

from kacas.model.digest import ID_SIZE, SHA1_SIZE, checksum
from kacas.model.entry import Entry, EntryError, decode_entry, decode_layout

NUMBER = struct.Struct(">I")
ENTRY_KEY_SIZE = SHA1_SIZE + ID_SIZE  # and the pack's number: merged packs hold entries that others hold too
_LOG = struct.Struct(">16sQ16s")  # owner hash, time, entry id

PackOf = Callable[[int], bytes | None]  # the id of the pack with a number; None if it is gone


def read_entry(key: bytes, value: bytes, pack_of: PackOf) -> tuple[Entry, bytes] | None:
    """The entry of this row with its pack; None if the row is damaged or the pack gone."""
    try:
        entry, _ = decode_entry(value)
    except EntryError:
        return None  # a damaged hint is no hint
    pack_id = pack_of(*NUMBER.unpack_from(key, ENTRY_KEY_SIZE))
    return (entry, pack_id) if pack_id and key.startswith(entry.sha1 + entry.entry_id) else None


def entries_of(cursor: lmdb.Cursor[bytes], sha1: bytes, pack_of: PackOf) -> list[tuple[Entry, bytes]]:
    """All entries of the SHA-1, keep and forget, each with a pack that holds it."""
    if not cursor.set_range(sha1) or not cursor.key().startswith(sha1):
        return []  # soon, for the many that are asked for and not there
    here: dict[bytes, tuple[Entry, bytes]] = {}
    more = True
    while more and cursor.key().startswith(sha1):
        if known := read_entry(*cursor.item(), pack_of):
            here[known[0].entry_id] = known
        more = cursor.next()
    return list(here.values())


def root_of(cursor: lmdb.Cursor[bytes], sha1: bytes, size: int, pack_of: PackOf) -> bytes | None:
    """The root of the first layout of the SHA-1 that has this size, and whose pack is there."""
    more = cursor.set_range(sha1)
    while more:
        key, value = cursor.item()
        if not key.startswith(sha1):
            return None
        layout = decode_layout(value)
        if layout and (layout.sha1, layout.size) == (sha1, size) and pack_of(*NUMBER.unpack_from(key, ENTRY_KEY_SIZE)):
            return layout.root
        more = cursor.next()
    return None


def same_entry(cursor: lmdb.Cursor[bytes], prefix: bytes) -> Iterator[bytes]:
    """Keys of one entry, in whatever packs it is. prefix: SHA-1 and entry id."""
    more = cursor.set_range(prefix)
    while more and (key := bytes(cursor.key())).startswith(prefix):
        yield key
        more = cursor.next()


def log_page(
    cursor: lmdb.Cursor[bytes],
    entries: lmdb.Cursor[bytes],
    owner: bytes,
    before: bytes | None,
    count: int,
    pack_of: PackOf,
) -> tuple[list[Entry], bytes | None]:
    """The owner's keep entries, newest first, and where the next page begins. entries: a cursor of the entries."""
    page: list[Entry] = []
    prefix = owner_hash(owner)
    position = before
    more = cursor.prev() if cursor.set_range(before or end_of_log(owner)) else cursor.last()
    while more and len(page) < count:
        key, sha1 = cursor.item()
        if key[: len(prefix)] != prefix:
            return page, None
        position = bytes(key)
        for same in same_entry(entries, sha1 + key[-ID_SIZE:]):
            known = read_entry(same, entries.value(), pack_of)
            if known and known[0].owner == owner:
                page.append(known[0])
                break
        more = cursor.prev()
    return page, position if more else None


def log_key(entry: Entry) -> bytes:
    """Sorted by owner, then time."""
    return _LOG.pack(owner_hash(entry.owner), max(entry.time_ns, 0), entry.entry_id)


def end_of_log(owner: bytes) -> bytes:
    """A key behind all of the owner's."""
    prefix = owner_hash(owner)
    return prefix + b"\xff" * (_LOG.size - len(prefix))


@functools.lru_cache(16)
def owner_hash(owner: bytes) -> bytes:
    """What the owner's keys in the log begin with."""
    return checksum(16, owner)
