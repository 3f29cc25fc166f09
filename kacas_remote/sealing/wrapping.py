"""Wrapping: the secret of an epoch for each member, and the secrets of the epochs before it, which whoever has the newest may have.

A box is a SealedBox of libsodium for the X25519 key that belongs to the member's Ed25519 key. It holds

    0    16  id of the group
    16    4  epoch, u32 little-endian
    20   32  secret of that epoch

The ring holds the secrets of all epochs before, the first one first, sealed by XChaCha20-Poly1305 under the `ring` key of the
newest epoch: 24 bytes of nonce, the ciphertext, a tag of 16.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import VerifyKey
from nacl.utils import random

from kacas_remote.sealing.epoch_keys import GROUP_ID_SIZE, MAX_EPOCHS, SECRET_SIZE, EpochKeys
from kacas_remote.signing import PrivateKey

_WRAPPED = struct.Struct(f"<{GROUP_ID_SIZE}sI{SECRET_SIZE}s")
_SEALED_BOX_SIZE = 48  # an X25519 key and a tag
BOX_SIZE = _SEALED_BOX_SIZE + _WRAPPED.size
_NONCE_SIZE, _TAG_SIZE = 24, 16
_RING_DOMAIN = b"kacas-ring-1\0"  # fixed for ever


class UnopenedError(ValueError):
    """A box or ring that this key does not open, or that holds something else than it should."""


@lru_cache(maxsize=8192)  # 30 µs each, and every version of a record names them all
def is_identity(public_key: bytes) -> bool:
    """Whether these 32 bytes are an Ed25519 key that secrets can be wrapped for: some points of the curve are none."""
    try:
        VerifyKey(public_key).to_curve25519_public_key()
    except (CryptoError, RuntimeError, ValueError):
        return False
    return True


def random_bytes(size: int) -> bytes:
    return random(size)


def new_secret() -> bytes:
    """32 bytes, random."""
    return random(SECRET_SIZE)


def wrap(keys: EpochKeys, member: bytes) -> bytes:
    """The secret of an epoch for a member, an Ed25519 public key for which `is_identity` holds: BOX_SIZE bytes."""
    box = SealedBox(VerifyKey(member).to_curve25519_public_key())
    return box.encrypt(_WRAPPED.pack(keys.group_id, keys.epoch, keys.secret))


def unwrap(box: bytes, own: PrivateKey, group_id: bytes, epoch: int) -> EpochKeys:
    """The inverse of `wrap`, for the member. Raises UnopenedError."""
    found = _unwrapped(box, own, group_id, epoch)
    if isinstance(found, str):
        raise UnopenedError(found)
    return found


def _unwrapped(box: bytes, own: PrivateKey, group_id: bytes, epoch: int) -> EpochKeys | str:
    """The keys, or what is wrong. Nothing is raised here: a traceback would carry the variables, which are secret, about."""
    try:
        wrapped = SealedBox(own.to_curve25519_private_key()).decrypt(box)
    except (CryptoError, ValueError):
        return "the box of this member is not for their key"
    if len(wrapped) != _WRAPPED.size:
        return "the box of this member holds no secret"
    named, numbered, secret = _WRAPPED.unpack(wrapped)
    if (named, numbered) != (group_id, epoch):
        return "the box of this member holds the secret of another group or epoch"
    return EpochKeys(group_id, epoch, secret)


def ring_size(epoch: int) -> int:
    """Bytes of the ring in a record of this epoch."""
    return _NONCE_SIZE + (epoch - 1) * SECRET_SIZE + _TAG_SIZE


def seal_ring(newest: EpochKeys, before: Sequence[bytes]) -> bytes:
    """before: the secrets of all epochs before the newest, the first one first."""
    if len(before) != newest.epoch - 1 or newest.epoch > MAX_EPOCHS:
        raise ValueError(f"epoch {newest.epoch} has {newest.epoch - 1} before it, not {len(before)}")
    nonce = random(_NONCE_SIZE)
    return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(b"".join(before), _RING_DOMAIN, nonce, newest.ring)


def open_ring(newest: EpochKeys, ring: bytes) -> tuple[EpochKeys, ...]:
    """The inverse of `seal_ring`: the keys of the epochs before, the first one first. Raises UnopenedError."""
    if len(ring) != ring_size(newest.epoch):
        raise UnopenedError("the ring of older secrets has not the size that belongs to its epoch")
    secrets = _opened_ring(newest, ring)
    if secrets is None:
        raise UnopenedError("the ring of older secrets was not sealed in its epoch")
    return tuple(
        EpochKeys(newest.group_id, number, secrets[(number - 1) * SECRET_SIZE : number * SECRET_SIZE])
        for number in range(1, newest.epoch)
    )


def _opened_ring(newest: EpochKeys, ring: bytes) -> bytes | None:
    nonce, sealed = ring[:_NONCE_SIZE], ring[_NONCE_SIZE:]
    try:
        return crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, _RING_DOMAIN, nonce, newest.ring)
    except CryptoError:  # whose traceback has the key
        return None
