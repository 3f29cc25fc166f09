"""Locations: where a payload is in a pack."""

from __future__ import annotations

from typing import NamedTuple

from kacas.model.pack_format import PAYLOAD_HEADER_SIZE


class Piece(NamedTuple):
    """Fill `out` with the chunk's raw bytes from `skip` on. size: of the whole chunk; at: where it begins in the content."""

    digest: bytes
    size: int
    skip: int
    out: memoryview
    at: int = 0


class Declared(NamedTuple):
    """What is said of a payload, before it is read. raw_size: bytes."""

    kind: int
    raw_size: int


class Location(NamedTuple):
    """A hint, proved by the payload header found there and finally by the digest.

    offset: of the payload header in the pack; payload_size, raw_size, parameters_size: bytes.
    """

    pack_id: bytes
    offset: int
    payload_size: int
    raw_size: int
    parameters_size: int
    kind: int
    codec: int
    damaged: bool = False

    @property
    def stop(self) -> int:
        """The offset behind the payload."""
        return self.offset + PAYLOAD_HEADER_SIZE + self.parameters_size + self.payload_size
