"""The tree document: one directory as canonical JSON, whose SHA-1 is the directory's identity.

    {"entries":[ENTRY,...],"format":"kacas directory","version":1}

The bytes are those of `store_json`: sorted keys, no spaces, escaped to ASCII. docs/formats.md has every rule.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from enum import Enum
from operator import itemgetter
from typing import Any, NamedTuple

import simplejson
from simplejson.encoder import encode_basestring_ascii as _quoted

TREE_VERSION = 1
MAX_TREE_SIZE = 256 << 20  # bytes of one document; about two million files in one directory
MAX_NAME_SIZE = 255  # bytes, as file systems have it
MAX_TARGET_SIZE = 4095
_FORMAT = "kacas directory"
_NO_NAMES = frozenset((b"", b".", b".."))
_HEX = frozenset("0123456789abcdef")


class TreeError(ValueError):
    """Bytes that are not a tree document."""


class NewerTreeError(TreeError):
    """A tree document of a later version. needed: its version."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"it is a directory of version {needed}")
        self.needed = needed


class EntryType(Enum):
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"


class TreeEntry(NamedTuple):
    """A name in a directory. size: bytes of the file, or of the subdirectory's document; 0 for a link.

    sha1: 20 bytes, of the file or the subdirectory's document; empty for a link. target: of a link.
    """

    name: bytes
    type: EntryType
    sha1: bytes = b""
    size: int = 0
    executable: bool = False
    target: bytes = b""

    @property
    def text(self) -> str:
        """The name for people; bytes that are not UTF-8 come through as Python's file names have them."""
        return self.name.decode("utf-8", "surrogateescape")


def check_name(name: bytes) -> None:
    """Raises TreeError for a name that could leave the directory, or that no directory can hold."""
    if name in _NO_NAMES or b"/" in name or b"\0" in name:
        raise TreeError(f"{name[:80]!r} is not a file name")
    if len(name) > MAX_NAME_SIZE:
        raise TreeError(f"the name {name[:40]!r}… has {len(name)} bytes, at most {MAX_NAME_SIZE} are possible")


_name = itemgetter(0)


def encode_tree(entries: Iterable[TreeEntry]) -> bytes:
    """The document of a directory with these entries, in any order. Raises TreeError for names that cannot be."""
    rows, before = [], b""
    for entry in sorted(entries, key=_name):
        name = entry[0]
        check_name(name)
        if name == before:
            raise TreeError(f"the name {entry.text!r} stands there twice")
        before = name
        rows.append(_row(entry))
    return f'{{"entries":[{",".join(rows)}],"format":"{_FORMAT}","version":{TREE_VERSION}}}'.encode("ascii")


def _row(entry: TreeEntry) -> str:
    # Written by hand, in the order of the keys: a JSON encoder takes five times as long.
    name, type_, sha1, size, executable, target = entry
    text = _text("name", name)
    if type_ is EntryType.LINK:
        return f'{{{text},{_text("target", target)},"type":"link"}}'
    front = '"executable":true,' if executable else ""
    return f'{{{front}{text},"sha1":"{sha1.hex()}","size":{size},"type":"{type_._value_}"}}'


def _text(key: str, value: bytes) -> str:
    try:
        return f'"{key}":{_quoted(value.decode("utf-8"))}'
    except UnicodeDecodeError:
        return f'"{key}_base64":"{base64.b64encode(value).decode("ascii")}"'


def decode_tree(data: bytes) -> tuple[TreeEntry, ...]:
    """The entries of a document, sorted by name. Raises TreeError unless it is exactly what encode_tree writes."""
    if len(data) > MAX_TREE_SIZE:
        raise TreeError(f"it has {len(data)} bytes, at most {MAX_TREE_SIZE} are allowed")
    if not data.startswith(b'{"entries":['):
        raise TreeError("it does not begin as a directory does")
    try:
        document = simplejson.loads(data.decode("ascii"))
        if document.get("format") != _FORMAT:
            raise TreeError("it does not say that it is a directory")
        version = document["version"]
        if isinstance(version, int) and version > TREE_VERSION:
            raise NewerTreeError(version)
        entries = tuple(_decode(row) for row in document["entries"])
        canonical = encode_tree(entries)
    except TreeError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise TreeError(f"it is not a directory ({type(exc).__name__})") from exc
    if canonical != data:
        raise TreeError("it is not in the one form that a directory has: order, keys or spaces differ")
    return entries


def _decode(row: dict[str, Any]) -> TreeEntry:
    kind, name = EntryType(row["type"]), _bytes(row, "name")
    if kind is EntryType.LINK:
        target = _bytes(row, "target")
        if not target or b"\0" in target or len(target) > MAX_TARGET_SIZE:
            raise TreeError(f"the link {name[:80]!r} leads nowhere")
        return TreeEntry(name, kind, target=target)
    sha1, size, executable = row["sha1"], row["size"], row.get("executable", False)
    if len(sha1) != 40 or not _HEX.issuperset(sha1):
        raise TreeError(f"the entry {name[:80]!r} has no SHA-1")
    if type(size) is not int or not 0 <= size < 1 << 63 or type(executable) is not bool:
        raise TreeError(f"the entry {name[:80]!r} has no size")
    if executable and kind is EntryType.DIRECTORY:
        raise TreeError(f"the directory {name[:80]!r} cannot be executable")
    return TreeEntry(name, kind, bytes.fromhex(sha1), size, executable)


def _bytes(row: dict[str, Any], key: str) -> bytes:
    if key in row:
        return bytes(row[key].encode("utf-8"))
    try:
        return base64.b64decode(row[key + "_base64"], validate=True)
    except binascii.Error as exc:
        raise TreeError(f"{key}_base64 is not base64") from exc
