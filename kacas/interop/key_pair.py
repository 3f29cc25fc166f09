"""Key pairs: the Ed25519 pair of kachery-cloud, and the file in which a user's own is kept, outside of every store.

~/.config/kacas/identity.toml    0600; created once, never overwritten
"""

from __future__ import annotations

import base64
import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from kacas.disk.durable import make_directory, publish_bytes
from kacas.errors import InvalidSettingError, StoreError
from kacas.interop.kachery_directory import KacheryDirectory, read_small

IDENTITY_FORMAT = 1
_MOST = 16 << 10  # bytes of a file with a key
_HEX_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
# RFC 8410: what stands before the 32 bytes of an Ed25519 key in DER.
_PUBLIC_FRONT = bytes.fromhex("302a300506032b6570032100")
_PRIVATE_FRONT = bytes.fromhex("302e020100300506032b657004220420")


@dataclass(frozen=True)
class KeyPair:
    """public, private: 64 hex digits each. The public one is the user's id for kachery-cloud and its gateways."""

    public: str
    private: str = field(repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError, which quotes neither."""
        if not all(_HEX_KEY.fullmatch(key) for key in (self.public, self.private)):
            raise ValueError("a key has 64 lower-case hex digits")

    def __getstate__(self) -> None:
        raise TypeError("a key pair is neither pickled nor copied: each process reads it for itself")


def kachery_key_pair(directory: KacheryDirectory) -> KeyPair | None:
    """The pair in the directory, None if there is none. Raises OSError, and ValueError for what is no pair."""
    keys = [
        _key(directory, "public.pem", "PUBLIC", _PUBLIC_FRONT),
        _key(directory, "private.pem", "PRIVATE", _PRIVATE_FRONT),
    ]
    public, private = keys
    if public is None and private is None:
        return None
    if public is None or private is None:
        raise ValueError(f"{'public' if public is None else 'private'}.pem is missing")
    return KeyPair(public, private)


def _key(directory: KacheryDirectory, name: str, which: str, front: bytes) -> str | None:
    try:
        text = directory.read_small(name, _MOST).decode("ascii")
        first, *middle, last = text.split("\n") if not text.endswith("\n") else text[:-1].split("\n")
        der = base64.b64decode("".join(middle), validate=True)
    except FileNotFoundError:
        return None
    except ValueError as exc:
        raise ValueError(f"{name} is no PEM file") from exc
    framed = (first, last) == (f"-----BEGIN {which} KEY-----", f"-----END {which} KEY-----")
    if not framed or not der.startswith(front) or len(der) != len(front) + 32:
        raise ValueError(f"{name} is no Ed25519 key in PEM")
    return der[len(front) :].hex()


def keep_key_pair(pair: KeyPair, path: Path) -> bool:
    """Make it the user's identity; False if it is already. Never replaces another one.

    Raises InvalidSettingError if there is another, or one that cannot be read, or if the file cannot be written.
    """
    why = _written(pair, path)
    if why is None:
        return True
    if why:
        raise InvalidSettingError(f"{path} cannot be written: {why}; mend that, and try again")
    there = read_identity(path)
    if there != pair:
        raise InvalidSettingError(
            f"{path} holds another identity, {there.public}, which was kept; move it away to use another one"
        )
    return False


def _written(pair: KeyPair, path: Path) -> str | None:
    """None, or why not: "" if there is a file. No exception leaves this: one would carry the key about in its traceback."""
    try:
        make_directory(path.parent, 0o700, sync=True)
        publish_bytes(path.parent, path.name, identity_text(pair).encode(), mode=0o600, sync=True)
        return None
    except FileExistsError:
        return "" if os.path.lexists(path) else f"{path.parent} is a file"
    except (OSError, StoreError) as exc:
        cause = exc.__cause__ if isinstance(exc, StoreError) else exc
        return (cause.strerror if isinstance(cause, OSError) else None) or str(exc)


def identity_text(pair: KeyPair) -> str:
    """What is in the file of an identity."""
    return (
        "# Your identity for kacas: an Ed25519 key pair, in hex. Whoever has the private key can sign as you, and opens what\n"
        "# is for you: keep this file to yourself, and a copy of it where you keep passwords.\n"
        f'format = {IDENTITY_FORMAT}\npublic_key = "{pair.public}"\nprivate_key = "{pair.private}"\n'
    )


def read_identity(path: Path) -> KeyPair:
    """The user's identity. Raises InvalidSettingError, which does not quote it; also if others may read or write the file."""
    try:
        found = os.stat(path)
    except OSError as exc:
        raise InvalidSettingError(f"{path} cannot be read: {exc.strerror}; mend that, or move it away") from exc
    if found.st_uid != os.geteuid():
        raise InvalidSettingError(f"{path} belongs to another user: not read. Make one of your own")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise InvalidSettingError(
            f"{path} holds a private key, and others may read or write it: not read. Run: chmod 600 {path}"
        )
    pair = _pair_in(path)
    if pair is None:
        raise InvalidSettingError(f"{path} is no identity that can be read; correct it or move it away")
    return pair


def _pair_in(path: Path) -> KeyPair | None:
    """None for what is no identity. No exception leaves this: one would carry the key about in its traceback."""
    try:
        table = tomllib.loads(read_small(str(path), _MOST).decode("utf-8"))
        if table["format"] != IDENTITY_FORMAT:
            return None
        return KeyPair(str(table["public_key"]), str(table["private_key"]))
    except (OSError, ValueError, KeyError, RecursionError):
        return None
