"""Digests: BLAKE3-256 for what the store believes, SHA-1 for what the world calls it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from hashlib import _Hash
    from typing import TypeAlias

    Buffer: TypeAlias = bytes | bytearray | memoryview

DIGEST_SIZE = 32
SHA1_SIZE = 20
ID_SIZE = 16  # store, pack and entry ids: random, never reused

# Fixed for ever: a new context is a new format.
NODE_CONTEXT = "kacas 2026-11 merkle node v1"
MANIFEST_CONTEXT = "kacas 2026-11 manifest v1"


class PayloadKind(IntEnum):
    """What a payload's raw bytes are. The hash context follows from it."""

    CHUNK = 0
    NODE = 1
    MANIFEST = 2


def chunk_digest(raw: Buffer) -> bytes:
    """BLAKE3-256 of a chunk's raw bytes."""
    return blake3(raw).digest()


def payload_digest(kind: int, raw: Buffer) -> bytes:
    """Digest of a payload's raw bytes in the context of its kind, so that a file can never pose as a node."""
    if kind == PayloadKind.CHUNK:
        return blake3(raw).digest()
    if kind == PayloadKind.NODE:
        return blake3(raw, derive_key_context=NODE_CONTEXT).digest()
    if kind == PayloadKind.MANIFEST:
        return blake3(raw, derive_key_context=MANIFEST_CONTEXT).digest()
    raise ValueError(f"payload kind {kind} is unknown")


def checksum(size: int, first: Buffer, *more: Buffer) -> bytes:
    """The first `size` bytes of the BLAKE3 of the concatenated parts."""
    hasher = blake3(first)
    for part in more:
        hasher.update(part)
    return hasher.digest(size)


def checksums(size: int, rows: Iterable[Buffer]) -> list[bytes]:
    """`checksum` of each."""
    return [blake3(row).digest(size) for row in rows]


def new_sha1(first: Buffer = b"") -> _Hash:
    """A running SHA-1, of these bytes so far: the public identity of content, not a security claim (see CollisionError)."""
    return hashlib.sha1(first, usedforsecurity=False)
