"""Upstream: where content comes from that a store has not: another store, or a remote."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, Protocol

from kacas.content import Content
from kacas.errors import DamagedError
from kacas.model.codec import MIB
from kacas.model.description import Description
from kacas.model.entry import Entry
from kacas.model.source import Source
from kacas.model.uri import Uri
from kacas.read_through import ChunkSource, PartSource

WHOLE_BELOW = 64 * MIB  # bytes of content that nobody vouches for, which is fetched whole when a part is asked for


class Near(Protocol):
    """The store that asks an upstream: what it has is not asked for again, and what is read is kept in it."""

    def open(self, entry: Entry, source: PartSource) -> Content:
        """What the entry names, open for verified reading from here or else from the source.

        Raises DamagedError or NewerFormatError.
        """
        ...


class Plain(NamedTuple):
    """The bytes of content of which no layout is known. size: of all of them. open: begins to read them, from the front."""

    size: int
    label: bytes
    open: Callable[[], Source]


class Upstream(ChunkSource, Protocol):
    """What stands behind a store. Thread-safe, safe after fork. Every method may raise StoreError, if it is not there."""

    @property
    def name(self) -> str:
        """For messages: its path or address."""
        ...

    @property
    def is_far(self) -> bool:
        """Whether each request is a long way: then a directory's documents are fetched before its files are looked for."""
        ...

    def bring(self, uri: Uri) -> None:
        """Content will be asked for as a whole: let it come here from further up, if this keeps what passes.

        Raises NotFoundError if no tier has it.
        """
        ...

    def bring_tree(self, sha1: bytes) -> None:
        """As `bring`, for a directory and all below it; what is missing is left out."""
        ...

    def readable(self, uri: Uri, near: Near) -> Iterator[tuple[Entry, Content]]:
        """Every layout that can be read, one at least, the newest first, open for verified reading. That it is what the SHA-1
        names is to be found out by who reads it.

        Raises NotFoundError, DamagedError or NewerFormatError.
        """
        ...

    def believed(self, uri: Uri, near: Near) -> list[tuple[Entry, Content]]:
        """Those of `readable` of which a part may be read without the rest. None: there is one of at most WHOLE_BELOW, which is to
        be had as a whole first.

        Raises as `readable`, and, of what is large and nobody vouches for, an error that says so.
        """
        ...

    def prove(self, uri: Uri, near: Near) -> None:
        """Read all of it to compare the SHA-1, so that a layout is believed: the store that asks cannot keep it.

        Raises as `readable`; a DamagedError if there is no layout that is right.
        """
        ...

    def remember(self, entry: Entry) -> None:
        """All of what the entry names was read, and has its SHA-1."""
        ...

    def refuse(self, entry: Entry, why: DamagedError) -> None:
        """All of what the entry names was read, and has another SHA-1: this layout is not given again."""
        ...

    def plain(self, uri: Uri) -> Plain | None:
        """The content's bytes as they are, if no layout of it is known there."""
        ...

    def small(self, sha1s: Collection[bytes]) -> dict[bytes, int]:
        """Sizes of those of which is known at once that they are one chunk."""
        ...

    def roots(self, sizes: dict[bytes, int]) -> dict[bytes, bytes]:
        """A root of each SHA-1 whose content has the size that is given, in the order in which they are best read; what is not
        known at once is left out."""
        ...

    def describe(self, uri: Uri, near: Near) -> Description:
        """What is known there of the content. Raises as `readable`."""
        ...

    def close(self) -> None:
        """Release what is open. It may be used again."""
        ...
