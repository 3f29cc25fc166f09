"""Entries: who keeps which content. The claims that make content live, and the user's log."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from kacas.model.digest import ID_SIZE, checksum, checksums
from kacas.model.uri import MAX_LABEL_SIZE, DirectoryUri, Uri, label_text

MAX_OWNER_SIZE = 256  # bytes of UTF-8
MAX_PATH_SIZE = 4096  # bytes: PATH_MAX of Linux
MAX_CANCELS = 1 << 16
_CHECK_SIZE = 8
_FIXED = struct.Struct("<I16s20s32sQqBBBBHHI")
_HEAD = struct.Struct("<I16s20s49xB")  # the same, as far as the action: size, id, SHA-1, action
_LAYOUT = struct.Struct("<I16s20s32sQqxB")  # and of these size, id, SHA-1, root, size of the content, time, action
_SIZE = struct.Struct("<I")
_SMALLEST = _FIXED.size + _CHECK_SIZE  # of entries
SHA1_OFFSET = _SIZE.size + ID_SIZE  # of the SHA-1 in an encoded entry
MAX_ENTRY_SIZE = _FIXED.size + MAX_OWNER_SIZE + MAX_PATH_SIZE + MAX_CANCELS * ID_SIZE + _CHECK_SIZE


class Kind(IntEnum):
    """What the content was stored as: a hint for people; the bytes decide what can be loaded."""

    FILE = 0
    NPY = 1
    TEXT = 2
    JSON = 3
    PKL = 4
    BYTES = 5
    DIRECTORY = 6


class Action(IntEnum):
    """What an entry does. The numbers are the format's."""

    KEEP = 0
    FORGET = 1
    MERGED = 2  # no claim: says that its pack holds all of the packs that `cancels` names
    MEMBER = 3  # names a layout for a directory's member: kept by the directory, claimed by nobody
    ADOPTED = 4  # no claim: says that the file at the path that is its label holds what a keep entry beside it keeps


LAYOUT_ACTIONS = (int(Action.KEEP), int(Action.MEMBER))
"""Of entries that say which root the SHA-1 has."""


class Layout(NamedTuple):
    """Which root the content with this SHA-1 and size has, as an entry says that has the id and the time."""

    sha1: bytes
    root: bytes
    size: int
    time_ns: int
    entry_id: bytes


class Origin(IntEnum):
    STORED = 0
    FETCHED = 1


class Proof(IntEnum):
    """Why the layout is believed to have the SHA-1: hashed here, or on a publisher's word."""

    HASHED = 0
    CLAIMED = 1


class EntryError(ValueError):
    """Bytes that are not an entry."""


class Entry(NamedTuple):
    """entry_id: 16 random bytes. time_ns: since the epoch. label, owner: UTF-8 bytes.

    A FORGET entry has the root of 32 zeros and names in `cancels` the entry ids that it ends. A MERGED entry is no
    claim: it says that its pack holds all that the packs hold whose ids are in `cancels`; SHA-1 and root are zeros.
    The label of an ADOPTED entry is the absolute path of the file, as bytes.
    """

    entry_id: bytes
    sha1: bytes
    root: bytes
    size: int
    time_ns: int
    kind: int
    owner: bytes
    label: bytes
    action: int = Action.KEEP
    origin: int = Origin.STORED
    proof: int = Proof.HASHED
    cancels: tuple[bytes, ...] = ()

    @property
    def names_layout(self) -> bool:
        """Whether it says which root the SHA-1 has. (An ADOPTED entry stands beside a KEEP entry that does.)"""
        return self.action in LAYOUT_ACTIONS

    @property
    def is_member(self) -> bool:
        """Whether a stored directory keeps what it names. (One that was fetched names a layout of what nobody keeps here.)"""
        return self.action == Action.MEMBER and self.origin == Origin.STORED

    @property
    def kind_name(self) -> str:
        return Kind(self.kind).name.lower() if self.kind in Kind._value2member_map_ else f"kind-{self.kind}"

    @property
    def uri(self) -> str:
        """The URI that was handed out for it."""
        kind = DirectoryUri if self.kind == Kind.DIRECTORY else Uri
        return str(kind(self.sha1, self.label_text))

    @property
    def label_text(self) -> str:
        return label_text(self.label)

    @property
    def owner_text(self) -> str:
        return self.owner.decode("utf-8", "replace")

    def encode(self) -> bytes:
        """Raises ValueError for what could not be decoded: one such entry would spoil the table of its pack."""
        if (
            len(self.owner) > MAX_OWNER_SIZE
            or len(self.label) > _max_label_size(self.action)
            or len(self.cancels) > MAX_CANCELS
        ):
            raise ValueError("the entry's owner, label or cancelled ids are too many bytes")
        tail = self.owner + self.label + b"".join(self.cancels)
        front = _FIXED.pack(
            _FIXED.size + len(tail) + _CHECK_SIZE, self.entry_id, self.sha1, self.root, self.size, self.time_ns,
            self.kind, self.action, self.origin, self.proof, len(self.owner), len(self.label), len(self.cancels),
        )  # fmt: skip
        whole = front + tail
        return whole + checksum(_CHECK_SIZE, whole)


def encode_members(
    layouts: Iterable[tuple[bytes, bytes, int]], kind: int, time_ns: int, ids: bytes, origin: int = 0
) -> list[bytes]:
    """The entries that name layouts (SHA-1, root, size) for a directory, each as `Entry.encode` gives it, at once.

    ids: the entry ids, one after the other.
    """
    size, action = _FIXED.size + _CHECK_SIZE, int(Action.MEMBER)
    rows = [
        _FIXED.pack(size, ids[at : at + ID_SIZE], *layout, time_ns, kind, action, origin, 0, 0, 0, 0)
        for at, layout in zip(range(0, len(ids), ID_SIZE), layouts, strict=True)
    ]
    return [row + check for row, check in zip(rows, checksums(_CHECK_SIZE, rows), strict=True)]


def _max_label_size(action: int) -> int:
    return MAX_PATH_SIZE if action == Action.ADOPTED else MAX_LABEL_SIZE


def decode_entry(data: bytes | memoryview, start: int = 0) -> tuple[Entry, int]:
    """The entry at `start` and the offset behind it. Raises EntryError if anything is off by one bit."""
    if len(data) - start < _FIXED.size + _CHECK_SIZE:
        raise EntryError("it is too short for an entry")
    (total, entry_id, sha1, root, size, time_ns, kind, action, origin, proof, owner_size, label_size, cancels_count) = (
        _FIXED.unpack_from(data, start)
    )
    owner_at = start + _FIXED.size
    label_at = owner_at + owner_size
    cancels_at = label_at + label_size
    check_at = cancels_at + cancels_count * ID_SIZE
    stop = check_at + _CHECK_SIZE
    if (
        stop != start + total
        or stop > len(data)
        or cancels_count > MAX_CANCELS
        or label_size > _max_label_size(action)
        or owner_size > MAX_OWNER_SIZE
    ):
        raise EntryError("its sizes contradict each other")
    if checksum(_CHECK_SIZE, data[start:check_at]) != bytes(data[check_at:stop]):
        raise EntryError("its checksum does not match")
    cancels = bytes(data[cancels_at:check_at])
    entry = Entry(
        entry_id, sha1, root, size, time_ns, kind, bytes(data[owner_at:label_at]), bytes(data[label_at:cancels_at]),
        action, origin, proof, tuple(cancels[at : at + ID_SIZE] for at in range(0, len(cancels), ID_SIZE)),
    )  # fmt: skip
    return entry, stop


def decode_layout(data: bytes) -> Layout | None:
    """What exactly these bytes, one entry, say of a content's layout; None if they say nothing, or are damaged."""
    check_at = len(data) - _CHECK_SIZE
    if check_at < _FIXED.size or checksum(_CHECK_SIZE, data[:check_at]) != data[check_at:]:
        return None
    total, entry_id, sha1, root, size, time_ns, action = _LAYOUT.unpack_from(data)
    return Layout(sha1, root, size, time_ns, entry_id) if total == len(data) and action in LAYOUT_ACTIONS else None


def encoded_entries_of(data: bytes, sha1: bytes) -> Iterator[Entry]:
    """Everything with this SHA-1 among encoded entries. Steps from entry to entry; stops at what is none."""
    at, stop = 0, len(data) - _FIXED.size
    while at <= stop:
        if data.startswith(sha1, at + SHA1_OFFSET):
            try:
                yield decode_entry(data, at)[0]
            except EntryError:
                return
        (size,) = _SIZE.unpack_from(data, at)
        if size < _FIXED.size:
            return
        at += size


def entry_rows(data: bytes) -> Iterator[tuple[bytes, bytes, int, bytes]]:
    """Entry id, SHA-1, action and encoded bytes of encoded entries, one by one, up to one that is cut short. Nothing else of
    them is looked at. Raises EntryError for a size that no entry has."""
    at, stop, unpack = 0, len(data), _HEAD.unpack_from
    while stop - at >= _SMALLEST:
        size, entry_id, sha1, action = unpack(data, at)
        if not _SMALLEST <= size <= MAX_ENTRY_SIZE:
            raise EntryError(f"one declares {size} bytes")
        if size > stop - at:
            return
        yield entry_id, sha1, action, data[at : at + size]
        at += size


def entries_of(data: bytes, sha1: bytes) -> list[Entry]:
    """The claims on one SHA-1 among encoded entries."""
    return [entry for entry in encoded_entries_of(data, sha1) if entry.action != Action.MERGED]


def live(entries: list[Entry], action: Action = Action.KEEP) -> list[Entry]:
    """Entries of the action that no forget entry names."""
    cancelled = {entry_id for entry in entries if entry.action == Action.FORGET for entry_id in entry.cancels}
    return [entry for entry in entries if entry.action == action and entry.entry_id not in cancelled]
