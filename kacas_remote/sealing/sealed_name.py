"""Sealed names: what a blob is called in the bucket of a private remote, which tells its plain key to members only.

<top>/<directory>/…/<name>     20 hex digits for each of the first 3 directories of the key, below one that is the epoch's own;
                               then the whole key, sealed, in base32, in pieces of at most 200 characters

The same key has the same name in an epoch, so that it is found without a list; the directories let a prefix be listed.
"""

from __future__ import annotations

import base64
import hmac
import re

from blake3 import blake3
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt, crypto_aead_chacha20poly1305_ietf_encrypt
from nacl.exceptions import CryptoError

from kacas_remote.sealing.epoch_keys import EpochKeys

MAX_SEALED_KEY = 400
"""Characters of a plain key whose name surely is a key that services take."""
_DOMAIN = b"kacas-name-1\0"
_DEPTH = 3
_NONCE_SIZE = 12
_DIRECTORY_SIZE = 10
_PIECE = 200
_BASE32 = re.compile(r"[a-z2-7]+", re.ASCII)
# int() reads digits and letters up to v, five bits each, at once.
_DIGITS = str.maketrans("abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdefghijklmnopqrstuv")


def top_directory(epoch: EpochKeys) -> str:
    """Of all names of the epoch."""
    return _directory(epoch, "")


def sealed_directory(epoch: EpochKeys, prefix: str) -> str:
    """The directory, with / behind, that has all names of keys that begin with `prefix`, and perhaps more."""
    directories = prefix.split("/")[:-1][:_DEPTH]
    paths = ["", *("/".join(directories[: n + 1]) + "/" for n in range(len(directories)))]
    return "".join(_directory(epoch, path) + "/" for path in paths)


def sealed_name(epoch: EpochKeys, key: str) -> str:
    """The name of the blob with this key. The same for the same key."""
    plain = key.encode("ascii")
    nonce = _nonce(epoch, plain)
    sealed = nonce + crypto_aead_chacha20poly1305_ietf_encrypt(plain, _DOMAIN, nonce, epoch.name)
    text = base64.b32encode(sealed).decode("ascii").rstrip("=").lower()
    return sealed_directory(epoch, key) + "/".join(text[at : at + _PIECE] for at in range(0, len(text), _PIECE))


def opened_name(epoch: EpochKeys, name: str) -> str | None:
    """The inverse of `sealed_name`; None for what is no such name, to the last character."""
    parts = name.split("/")
    at = 1
    while at <= _DEPTH and at < len(parts) and len(parts[at]) == 2 * _DIRECTORY_SIZE:
        at += 1
    sealed = _bytes("".join(parts[at:]))
    if sealed is None:
        return None
    try:
        plain = crypto_aead_chacha20poly1305_ietf_decrypt(
            sealed[_NONCE_SIZE:], _DOMAIN, sealed[:_NONCE_SIZE], epoch.name
        )
        key = plain.decode("ascii")
    except (CryptoError, UnicodeDecodeError):
        return None
    return key if hmac.compare_digest(sealed_name(epoch, key), name) else None


def _directory(epoch: EpochKeys, path: str) -> str:
    return blake3(path.encode("ascii"), key=epoch.directory).digest(_DIRECTORY_SIZE).hex()


def _nonce(epoch: EpochKeys, plain: bytes) -> bytes:
    return blake3(plain, key=epoch.name_nonce).digest(_NONCE_SIZE)


def _bytes(text: str) -> bytes | None:
    """Of base32 without padding. The bits that are left over are not looked at: the name is made again, and compared."""
    size = len(text) * 5 // 8
    if not _BASE32.fullmatch(text) or size < _NONCE_SIZE + 16:
        return None
    return (int(text.translate(_DIGITS), 32) >> (len(text) * 5 - size * 8)).to_bytes(size, "big")
