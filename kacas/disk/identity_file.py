"""The file with a user's own key pair, outside of every store.

~/.config/kacas/identity.toml    0600; created once, never overwritten
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from kacas.disk.durable import make_directory, publish_bytes
from kacas.disk.small_file import read_small
from kacas.errors import InvalidSettingError, StoreError

IDENTITY_FORMAT = 1
_MOST = 16 << 10  # bytes of a file with a key
_HEX_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)


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


def write_private(path: Path, data: bytes) -> str | None:
    """A new file that only its owner reads; None, or why it cannot be: nothing that carries the data is raised."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return "it is there already, and is not overwritten"
    except OSError as exc:
        return exc.strerror or str(exc)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(fd)
        return None
    except OSError as exc:
        os.unlink(path)
        return exc.strerror or str(exc)


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
    pair = pair_in(path)
    if pair is None:
        raise InvalidSettingError(f"{path} is no identity that can be read; correct it or move it away")
    return pair


def pair_in(path: Path) -> KeyPair | None:
    """None for what is no identity. No exception leaves this: one would carry the key about in its traceback."""
    try:
        table = tomllib.loads(read_small(str(path), _MOST).decode("utf-8"))
        if table["format"] != IDENTITY_FORMAT:
            return None
        return KeyPair(str(table["public_key"]), str(table["private_key"]))
    except (OSError, ValueError, KeyError, RecursionError):
        return None
