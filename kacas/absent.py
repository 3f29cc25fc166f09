"""Absent: what of a directory and all below it is not here, by what its documents name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kacas.content import Content
from kacas.model.entry import Entry
from kacas.model.tree import MAX_TREE_SIZE, EntryType, TreeError, decode_tree
from kacas.model.uri import Uri
from kacas.upstream_chain import UNREADABLE


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


def absent_below(
    sha1: bytes,
    opened: Callable[[Uri], tuple[Entry, Content]],
    unknown: Callable[[dict[bytes, int]], dict[bytes, int]],
) -> Absent:
    """As far as the documents can be read. opened: a content. unknown: of contents with these sizes those that are not here."""
    documents: dict[bytes, int] = {}
    files: dict[bytes, int] = {}
    stack = [sha1]
    while stack:
        current = stack.pop()
        if current in documents:
            continue
        try:
            _, content = opened(Uri(current))
            raw = memoryview(bytearray(min(content.size, MAX_TREE_SIZE)))
            content.read_into(0, raw)
            entries = decode_tree(bytes(raw))
        except (*UNREADABLE, TreeError):
            continue  # whoever restores the directory says so
        documents[current] = content.size
        for entry in entries:
            if entry.type is EntryType.DIRECTORY:
                stack.append(entry.sha1)
            elif entry.type is EntryType.FILE:
                files[entry.sha1] = entry.size
    return Absent(unknown(documents), unknown(files))
