"""What directories' documents name, and what of it a store lacks."""

from __future__ import annotations

from typing import NamedTuple

from kacas.content import Content
from kacas.model.tree import MAX_TREE_SIZE, EntryType, decode_tree


class TreeMembers(NamedTuple):
    """What a directory's document names. size: its own, bytes. files: sizes by SHA-1."""

    size: int
    directories: list[bytes]
    files: dict[bytes, int]

    @classmethod
    def of(cls, content: Content) -> TreeMembers:
        """Raises TreeError, and as `Content.read_into`."""
        raw = memoryview(bytearray(min(content.size, MAX_TREE_SIZE)))
        content.read_into(0, raw)
        entries = decode_tree(bytes(raw))
        return cls(
            content.size,
            [entry.sha1 for entry in entries if entry.type is EntryType.DIRECTORY],
            {entry.sha1: entry.size for entry in entries if entry.type is EntryType.FILE},
        )


class Absent(NamedTuple):
    """Sizes by SHA-1."""

    documents: dict[bytes, int]
    files: dict[bytes, int]

    @property
    def size(self) -> int | None:
        """Bytes of all of them; None if there are none."""
        if not (self.documents or self.files):
            return None
        return sum(self.documents.values()) + sum(self.files.values())
