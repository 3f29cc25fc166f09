"""Upstream: where content comes from that a store has not. Another store today; a bucket or a gateway can stand there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from kacas.content import Content
from kacas.model.description import Description
from kacas.model.entry import Entry
from kacas.model.uri import Uri


class ChunkSource(Protocol):
    """Gives payloads by their digests. It need not be trusted: who asks decodes them and compares the digests."""

    def get_many(self, digests: Sequence[bytes]) -> dict[bytes, memoryview]:
        """Payload headers, parameters and payloads, as a pack has them; those that are not at hand are left out."""
        ...


class Upstream(ChunkSource, Protocol):
    """What stands behind a store. Thread-safe, safe after fork. Every method may raise StoreError, if it is not there."""

    @property
    def name(self) -> str:
        """For messages: its path or address."""
        ...

    def bring(self, uri: Uri) -> None:
        """Content will be asked for as a whole: let it come here from further up, if this keeps what passes.

        Raises NotFoundError if no tier has it.
        """
        ...

    def bring_tree(self, sha1: bytes) -> None:
        """As `bring`, for a directory and all below it; what is missing is left out."""
        ...

    def readable(self, uri: Uri) -> Iterator[tuple[Entry, Content]]:
        """Every layout that can be read, one at least, the newest first, open for verified reading.

        Raises NotFoundError, DamagedError or NewerFormatError.
        """
        ...

    def roots(self, sizes: dict[bytes, int]) -> dict[bytes, bytes]:
        """A root of each SHA-1 whose content has the size that is given; what is not known at once is left out."""
        ...

    def describe(self, uri: Uri) -> Description:
        """What is known there of the content. Raises as `readable`."""
        ...

    def close(self) -> None:
        """Release what is open. It may be used again."""
        ...
