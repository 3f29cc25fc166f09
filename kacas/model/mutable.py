"""Mutables: the names that may be given to values, and what a generation's record holds. Pure."""

from __future__ import annotations

import struct
import unicodedata
from dataclasses import dataclass

from kacas.errors import InvalidKeyError, UnsupportedDataError

MAX_KEY_SIZE = 1024  # bytes of UTF-8
MAX_PART_SIZE = 255  # bytes: a part is a directory's name
MAX_VALUE_LENGTH = 100_000  # characters
_FRONT = struct.Struct("<BxH")  # action, owner size
_SET, _DELETED = 0, 1


class GenerationFormatError(ValueError):
    """A record's body that is no generation of a mutable."""


@dataclass(frozen=True)
class Generation:
    """value: None if the mutable was deleted. owner: who did it."""

    value: str | None
    owner: str

    def encode(self) -> bytes:
        owner = self.owner.encode("utf-8", "surrogateescape")
        value = b"" if self.value is None else self.value.encode("utf-8")
        return _FRONT.pack(_DELETED if self.value is None else _SET, len(owner)) + owner + value


def decode_generation(body: bytes) -> Generation:
    """The inverse of `encode`. Raises GenerationFormatError."""
    if len(body) < _FRONT.size:
        raise GenerationFormatError("it is too short for a generation")
    action, owner_size = _FRONT.unpack_from(body)
    owner, value = body[_FRONT.size :][:owner_size], body[_FRONT.size + owner_size :]
    if action not in (_SET, _DELETED) or len(owner) != owner_size or (action == _DELETED and value):
        raise GenerationFormatError("it is no generation of a mutable")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise GenerationFormatError("its value is no text") from exc
    if len(text) > MAX_VALUE_LENGTH:
        raise GenerationFormatError("its value is too long")
    return Generation(None if action == _DELETED else text, owner.decode("utf-8", "surrogateescape"))


def check_value(value: object) -> str:
    """The value, if it is one. Raises UnsupportedDataError."""
    if not isinstance(value, str):
        raise UnsupportedDataError(
            f"a mutable's value is text (str), not {type(value).__name__}; json.dumps makes text"
        )
    if len(value) > MAX_VALUE_LENGTH:
        raise UnsupportedDataError(
            f"the value has {len(value):,} characters, a mutable at most {MAX_VALUE_LENGTH:,}; "
            "store it as content, and set the mutable to its URI"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise UnsupportedDataError(
            f"the value cannot be written as UTF-8: {exc.reason} at position {exc.start}"
        ) from exc
    return value


def check_key(key: str) -> str:
    """The key, if it is one: @folder/@folder/name. Raises InvalidKeyError."""
    *folders, name = _parts(key)
    for folder in folders:
        if not folder.startswith("@"):
            raise InvalidKeyError(f"{_shown(key)}: {folder!r} is a folder, so it begins with @: '@{folder}'", key=key)
    if name.startswith("@"):
        raise InvalidKeyError(f"{_shown(key)} is a folder; a key ends with a name without @", key=key)
    return key


def check_folder(folder: str) -> str:
    """The folder, if it is one: @folder/@folder, or "" for all. Raises InvalidKeyError."""
    for part in _parts(folder) if folder != "" else ():
        if not part.startswith("@"):
            raise InvalidKeyError(f"{_shown(folder)} is no folder: {part!r} does not begin with @", key=folder)
    return folder


def _parts(key: object) -> list[str]:
    if not isinstance(key, str):
        raise InvalidKeyError(f"a key is text like @folder/name, not {type(key).__name__}", key=repr(key)[:200])
    try:
        encoded = key.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidKeyError(f"{_shown(key)} is not Unicode text: {exc.reason}", key=ascii(key)[:200]) from exc
    if len(encoded) > MAX_KEY_SIZE:
        raise InvalidKeyError(f"a key has at most {MAX_KEY_SIZE} bytes, not {len(encoded)}", key=key[:200])
    parts = key.split("/")
    for part in parts:
        if why := _why_not(part):
            raise InvalidKeyError(f"{_shown(key)} is no key like @folder/name: {why}", key=key)
    return parts


def _why_not(part: str) -> str:
    """Parts are names of directories, on all file systems the same."""
    if part in ("", "@"):
        return "a part is empty"
    if part.startswith("."):
        return f"{part!r} begins with a dot"
    if not part.isprintable():
        return f"{part!r} has characters that are not printable"
    if part != part.strip() or part.endswith("."):
        return f"{part!r} begins or ends with a blank, or ends with a dot"
    if "\\" in part:
        return f"{part!r} has a backslash"
    if not unicodedata.is_normalized("NFC", part):
        return f"{part!r} is not in the composed form of Unicode (NFC)"
    if len(part.encode("utf-8")) > MAX_PART_SIZE:
        return f"a part has more than {MAX_PART_SIZE} bytes"
    return ""


def _shown(key: str) -> str:
    return ascii(key if len(key) <= 160 else key[:157] + "...")
