"""Signatures: a publisher says which root a SHA-1 has. Pure, but for the making of keys.

A publisher is an Ed25519 public key, 32 bytes, written ed25519:<64 hex>. It signs a statement that begins with a domain, so
that no signature given for something else can pose as one of these.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple, NoReturn

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

KEY_SIZE = 32
SIGNATURE_SIZE = 64
_DOMAIN = b"kacas 2026-11 recipe statement v1\0"  # fixed for ever
_STATEMENT = struct.Struct("<20s32sQB")
_PUBLISHER = re.compile(r"ed25519:([0-9a-f]{64})", re.ASCII)


class PrivateKey(SigningKey):
    """Made of the 32 bytes of the seed. Nothing that shows objects shows it, such as a traceback with locals; never pickled."""

    def __repr__(self) -> str:
        return f"<the private key of {publisher_text(bytes(self.verify_key))}>"

    __str__ = __repr__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a private key is neither pickled nor copied: each process reads it for itself")


class Signature(NamedTuple):
    """publisher: public key, 32 bytes. signature: 64 bytes."""

    publisher: bytes
    signature: bytes


def statement(sha1: bytes, root: bytes, size: int, kind: int) -> bytes:
    """What is signed: the content with this SHA-1 has this root, size in bytes, and kind."""
    return _DOMAIN + _STATEMENT.pack(sha1, root, size, kind)


def sign(key: PrivateKey, message: bytes) -> Signature:
    return Signature(public_key(key), key.sign(message).signature)


def is_signed(message: bytes, given: Signature) -> bool:
    """Whether the publisher signed this very message. libsodium compares in constant time."""
    publisher, signature = given
    try:
        VerifyKey(publisher).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def new_private_key() -> PrivateKey:
    return PrivateKey(bytes(SigningKey.generate()))


def public_key(key: PrivateKey) -> bytes:
    return bytes(key.verify_key)


def publisher_text(publisher: bytes) -> str:
    """As people hand it to one another: ed25519:<64 hex>."""
    return f"ed25519:{publisher.hex()}"


def parse_publisher(text: str) -> bytes:
    """Inverse of `publisher_text`. Raises ValueError, which says what one looks like."""
    match = _PUBLISHER.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:100]!r} is no publisher's key: one is ed25519: and 64 lower-case hex digits")
    return bytes.fromhex(match[1])
