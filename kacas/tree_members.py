"""What directories' documents name, and what of it a store lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kacas.content import Content
from kacas.model.entry import Entry
from kacas.model.tree import MAX_TREE_SIZE, EntryType, TreeError, decode_tree
from kacas.model.uri import Uri
from kacas.upstream_chain import UNREADABLE

Find = Callable[[Uri], tuple[Entry, Content]]
_KEPT, _KEPT_SIZE = 1024, 64 << 10  # documents of directories, and bytes of one


class TreeMembers(NamedTuple):
    """What a directory's document names. size: its own, bytes. files: sizes by SHA-1. files_size: of all names of files."""

    size: int
    directories: list[bytes]
    files: dict[bytes, int]
    files_size: int

    @classmethod
    def of(cls, content: Content) -> TreeMembers:
        """Raises TreeError, and as `Content.read_into`."""
        raw = memoryview(bytearray(min(content.size, MAX_TREE_SIZE)))
        content.read_into(0, raw)
        entries = decode_tree(bytes(raw))
        files = [(entry.sha1, entry.size) for entry in entries if entry.type is EntryType.FILE]
        directories = [entry.sha1 for entry in entries if entry.type is EntryType.DIRECTORY]
        return cls(content.size, directories, dict(files), sum(size for _, size in files))


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


class TreeDocuments:
    """Directories' documents, each looked at several times until all of it is here. Thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[bytes, TreeMembers] = {}

    def read(self, sha1: bytes, find: Find) -> TreeMembers:
        """find: opens it. Raises as that does, and as `TreeMembers.of`."""
        tree = self._kept.get(sha1)
        if tree is None:
            _, content = find(Uri(sha1))
            tree = TreeMembers.of(content)
            if len(self._kept) >= _KEPT:
                self._kept = {}
            if content.size <= _KEPT_SIZE:
                self._kept[sha1] = tree
        return tree

    def total(self, sha1: bytes, find: Find) -> int:
        """Bytes of all files below a directory. One that is named often is read once: it may be named 2^60 times.

        Raises as `read`.
        """
        known: dict[bytes, int] = {}
        stack = [sha1]
        while stack:
            tree = self.read(stack[-1], find)
            if waiting := [one for one in tree.directories if one not in known]:
                stack += waiting
            else:
                known[stack.pop()] = tree.files_size + sum(known[one] for one in tree.directories)
        return known[sha1]

    def is_here(self, sha1: bytes, find: Find, unknown: Callable[[dict[bytes, int]], dict[bytes, int]]) -> bool:
        """Whether `absent` would find nothing; what is told as soon as something is."""
        seen: set[bytes] = set()
        stack = [sha1]
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            try:
                tree = self.read(current, find)
            except (*UNREADABLE, TreeError):
                continue
            if unknown({current: tree.size} | tree.files):
                return False
            stack += tree.directories
        return True

    def absent(self, sha1: bytes, find: Find, unknown: Callable[[dict[bytes, int]], dict[bytes, int]]) -> Absent:
        """What of a directory is not here, as far as its documents can be read. unknown: those of the sizes that are not here."""
        documents: dict[bytes, int] = {}
        files: dict[bytes, int] = {}
        stack = [sha1]
        while stack:
            current = stack.pop()
            if current in documents:
                continue
            try:
                tree = self.read(current, find)
            except (*UNREADABLE, TreeError):
                continue  # whoever restores the directory says so
            documents[current] = tree.size
            stack += tree.directories
            files |= tree.files
        return Absent(unknown(documents), unknown(files))
