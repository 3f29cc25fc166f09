"""Key pairs: the Ed25519 pair of kachery-cloud, and the file in which a user's own is kept, outside of every store.

~/.config/kacas/identity.toml    0600; created once, never overwritten
"""

from __future__ import annotations

import base64
import re
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
    text = (
        "# Your identity for kacas: an Ed25519 key pair, in hex. Whoever has the private key can sign as you:\n"
        "# keep this file to yourself, and a copy of it where you keep passwords.\n"
        f'format = {IDENTITY_FORMAT}\npublic_key = "{pair.public}"\nprivate_key = "{pair.private}"\n'
    )
    try:
        make_directory(path.parent, 0o700, sync=True)
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    try:
        publish_bytes(path.parent, path.name, text.encode(), mode=0o600, sync=True)
        return True
    except FileExistsError:
        there = read_identity(path)
    except StoreError as exc:  # in words that are for stores
        raise _unwritable(path, exc.__cause__) from exc
    if there != pair:
        raise InvalidSettingError(
            f"{path} holds another identity, {there.public}, which was kept; move it away to import this one"
        )
    return False


def _unwritable(path: Path, exc: BaseException | None) -> InvalidSettingError:
    why = exc.strerror if isinstance(exc, OSError) else None
    return InvalidSettingError(f"{path} cannot be written: {why or exc}; mend that, and import again")


def read_identity(path: Path) -> KeyPair:
    """The user's identity. Raises InvalidSettingError, which does not quote it."""
    try:
        table = tomllib.loads(read_small(str(path), _MOST).decode("utf-8"))
        if table["format"] != IDENTITY_FORMAT:
            raise ValueError("it has another format")
        return KeyPair(str(table["public_key"]), str(table["private_key"]))
    except (OSError, ValueError, KeyError, RecursionError):
        raise InvalidSettingError(f"{path} is no identity that can be read; correct it or move it away") from None
