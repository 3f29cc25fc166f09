"""The tree document: one directory as canonical JSON, whose SHA-1 is the directory's identity.

    {"entries":[ENTRY,...],"format":"kacas directory","version":1}

The bytes are those of `store_json`: sorted keys, no spaces, escaped to ASCII. docs/formats.md has every rule.
"""

from __future__ import annotations

import base64
import re
from binascii import unhexlify
from collections.abc import Callable, Iterable
from enum import Enum
from operator import itemgetter
from typing import NamedTuple

import simplejson
from simplejson.encoder import encode_basestring_ascii as _quoted

TREE_VERSION = 1
MAX_TREE_SIZE = 256 << 20  # bytes of one document; about two million files in one directory
MAX_NAME_SIZE = 255  # bytes, as file systems have it
MAX_TARGET_SIZE = 4095
_FORMAT = "kacas directory"
_FRONT = b'{"entries":['
_BACK = f'],"format":"{_FORMAT}","version":{TREE_VERSION}}}'.encode()
_NO_NAMES = frozenset((b"", b".", b".."))
_STRING = rb'"([ !#-\[\]-~]*(?:\\["\\bfnrtu][ !#-\[\]-~]*)*)"'  # as JSON escapes it to ASCII
_ROW = re.compile(
    rb'\{(?:("executable":true),)?"(name|name_base64)":%b,'
    rb'(?:"sha1":"([0-9a-f]{40})","size":(0|[1-9][0-9]{0,18}),"type":"(file|directory)"|'
    rb'"(target|target_base64)":%b,"type":"link")\}(?:,(?=\{)|\Z)' % (_STRING, _STRING)
)

# The rows of most files: a name that is any file's and is written as it is, and a size that is one.
_PLAIN_ROW = re.compile(
    rb'\{"name":"(?!\.{1,2}")([ !#-.0-\[\]-~]{1,%d})",'
    rb'"sha1":"([0-9a-f]{40})","size":(0|[1-9][0-9]{0,17}),"type":"file"\}(?:,(?=\{)|\Z)' % MAX_NAME_SIZE
)


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


_TYPES = {b"file": EntryType.FILE, b"directory": EntryType.DIRECTORY}


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
    return b"".join((_FRONT, ",".join(rows).encode("ascii"), _BACK))


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
    if not data.startswith(_FRONT):
        raise TreeError("it does not begin as a directory does")
    if not data.endswith(_BACK):
        raise _no_document(data)
    at, stop = len(_FRONT), len(data) - len(_BACK)
    entries: list[TreeEntry] = []
    before = b""
    # Read by hand, as it was written: a JSON decoder, and encoding again to compare, take three times as long.
    while at < stop:
        if (row := _PLAIN_ROW.match(data, at, stop)) is not None:
            name, sha1, size = row.groups()
            entry = TreeEntry(name, EntryType.FILE, unhexlify(sha1), int(size))
        elif (row := _ROW.match(data, at, stop)) is not None:
            entry = _entry(*row.groups())
            name = entry[0]
            check_name(name)
        else:
            raise TreeError(
                f"at byte {at} it is not in the one form that a directory has: order, keys or spaces differ"
            )
        if name <= before:
            raise TreeError(f"the name {entry.text!r} stands there twice, or in the wrong place")
        before = name
        entries.append(entry)
        at = row.end()
    return tuple(entries)


def _no_document(data: bytes) -> TreeError:
    """What is wrong with bytes that do not end as a document does."""
    try:
        document = simplejson.loads(data.decode("ascii"))
        version = document["version"]
        if document["format"] == _FORMAT and isinstance(version, int) and version > TREE_VERSION:
            return NewerTreeError(version)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        return TreeError(f"it is not a directory ({type(exc).__name__})")
    return TreeError("it does not end as a directory does")


def _entry(
    executable: bytes | None, name_key: bytes, name: bytes, sha1: bytes, size: bytes, kind: bytes | None,
    target_key: bytes, target: bytes,
) -> TreeEntry:  # fmt: skip
    """The parts are as _ROW has them. Raises TreeError for what encode_tree would write otherwise, or not at all."""
    name = _value("name", name_key, name)
    if kind is None:
        target = _value("target", target_key, target)
        if executable or not target or b"\0" in target or len(target) > MAX_TARGET_SIZE:
            raise TreeError(f"the link {name[:80]!r} is executable or leads nowhere")
        return TreeEntry(name, EntryType.LINK, target=target)
    type_, bytes_ = _TYPES[kind], int(size)
    if bytes_ >> 63:
        raise TreeError(f"the entry {name[:80]!r} has no size")
    if executable and type_ is EntryType.DIRECTORY:
        raise TreeError(f"the directory {name[:80]!r} cannot be executable")
    return TreeEntry(name, type_, unhexlify(sha1), bytes_, executable is not None)


def _value(key: str, found_key: bytes, text: bytes) -> bytes:
    """The bytes that stand there as text. Raises TreeError if they would be written otherwise."""
    if len(found_key) > len(key):
        decode: Callable[[bytes], bytes] = base64.b64decode
    elif b"\\" in text:
        decode = _unescaped
    else:
        return text  # printable ASCII, which is written as it is
    try:
        value = decode(text)
    except ValueError as exc:
        raise TreeError(f"the {key} {text[:80]!r} cannot be read: {exc}") from exc
    if _text(key, value).encode("ascii") != b'"%b":"%b"' % (found_key, text):
        raise TreeError(f"the {key} {value[:80]!r} is not in its one form")
    return value


def _unescaped(text: bytes) -> bytes:
    return bytes(simplejson.loads(b'"%b"' % text).encode("utf-8"))
