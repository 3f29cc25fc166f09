"""Manifests and Merkle nodes: exact bytes, strict parsing, the fan-out rule.

Content is `head` followed by chunks. A manifest holds the head and at most FAN_OUT children; children
are chunks (level 0) or nodes of that level, whose children are one level lower (nodes of level 1 hold
chunks). Nodes are filled left to right with FAN_OUT children, level by level, until FAN_OUT or fewer
remain for the manifest. The rule is exact: equal cuts give equal roots.

In the layout of a sequence the chunks follow one another in the content. In the layout of tiles they are the tiles of an
array, in the order of their numbers; where each lies, and so the size of every child, follows from the tiling.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from kacas.errors import NewerFormatError
from kacas.model.codec import MAX_CHUNK_SIZE
from kacas.model.digest import DIGEST_SIZE, PayloadKind, payload_digest
from kacas.model.tiling import FAN_OUT, MAX_CONTENT_SIZE, Tiling, decode_tiling

MAX_LEVEL = 8
MAX_HEAD_SIZE = 128 * 1024
_VERSION = 1
_MAX_DESCRIPTION_SIZE = 64 * 1024

_MANIFEST = struct.Struct("<4sBBBBQIII")  # magic, version, layout, level, 0, size, head, description, children
_NODE = struct.Struct("<4sBBHQI")  # magic, version, level, 0, size, children
_CHILD = struct.Struct("<32sQ")
_MANIFEST_MAGIC, _NODE_MAGIC = b"KMAN", b"KNOD"
_LAYOUT_SEQUENCE, _LAYOUT_TILES = 0, 1


class Child(NamedTuple):
    """A chunk or node: its digest and the bytes of content under it."""

    digest: bytes
    size: int


class ManifestError(ValueError):
    """Bytes that are not a manifest or node, or contradict themselves."""


@dataclass(frozen=True)
class Node:
    level: int
    size: int
    children: tuple[Child, ...]

    def encode(self) -> bytes:
        front = _NODE.pack(_NODE_MAGIC, _VERSION, self.level, 0, self.size, len(self.children))
        return front + _encode_children(self.children)


@dataclass(frozen=True)
class Manifest:
    """size: bytes of the whole content, head included. description: small JSON object, {} for plain files.

    tiling: of what follows the head; None if it is a sequence of chunks.
    """

    size: int
    level: int
    head: bytes
    description: dict[str, Any]
    children: tuple[Child, ...]
    tiling: Tiling | None = None

    def encode(self) -> bytes:
        text = encode_description(self.description)
        front = _MANIFEST.pack(
            _MANIFEST_MAGIC, _VERSION, _LAYOUT_TILES if self.tiling else _LAYOUT_SEQUENCE, self.level, 0, self.size,
            len(self.head), len(text), len(self.children),
        )  # fmt: skip
        tiling = self.tiling.encode() if self.tiling else b""
        return front + self.head + text + tiling + _encode_children(self.children)


def encode_description(description: dict[str, Any]) -> bytes:
    """Canonical JSON in ASCII; nothing for an empty one."""
    if not description:
        return b""
    return json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


class TreeBuilder:
    """Joins chunks into a tree as they come, in memory that does not grow with the content.

    A group of FAN_OUT becomes a node as soon as one more shows that the level does not end there.
    """

    def __init__(self, emit: Callable[[bytes, Node], None]) -> None:
        """emit: takes each node and its digest, when it is complete."""
        self._emit = emit
        self._levels: list[list[Child]] = [[]]
        self._size = 0

    def add(self, children: Iterable[Child]) -> None:
        """Chunks, in order."""
        for child in children:
            self._size += child.size
            self._push(0, child)

    def _push(self, level: int, child: Child) -> None:
        if level == len(self._levels):
            self._levels.append([])
        row = self._levels[level]
        if len(row) == FAN_OUT:
            self._fold(level)
        row.append(child)

    def _fold(self, level: int) -> None:
        group = tuple(self._levels[level])
        self._levels[level].clear()
        node = Node(level + 1, sum(child.size for child in group), group)
        digest = payload_digest(PayloadKind.NODE, node.encode())
        self._emit(digest, node)
        self._push(level + 1, Child(digest, node.size))

    def finish(self, head: bytes, description: dict[str, Any], tiling: Tiling | None = None) -> tuple[Manifest, bytes]:
        """The manifest and its digest, the root. tiling: if the chunks are its tiles."""
        level = 0
        while level < len(self._levels) - 1:  # a fold may begin one more level
            self._fold(level)
            level += 1
        top = tuple(self._levels[level])
        manifest = Manifest(len(head) + self._size, level, head, description, top, tiling)
        return manifest, payload_digest(PayloadKind.MANIFEST, manifest.encode())


def build(
    children: Iterable[Child], head: bytes, description: dict[str, Any]
) -> tuple[Manifest, bytes, list[tuple[bytes, Node]]]:
    """Join chunks into a tree at once. Returns the manifest, its digest (the root) and the nodes with theirs."""
    nodes: list[tuple[bytes, Node]] = []
    builder = TreeBuilder(lambda digest, node: nodes.append((digest, node)))
    builder.add(children)
    return *builder.finish(head, description), nodes


def decode_manifest(data: bytes | memoryview) -> Manifest:
    """Strict; raises ManifestError, or NewerFormatError with the version needed."""
    data = memoryview(data)
    if len(data) < _MANIFEST.size:
        raise ManifestError("it is too short for a manifest")
    magic, version, layout, level, zero, size, head_size, text_size, count = _MANIFEST.unpack_from(data)
    if magic != _MANIFEST_MAGIC:
        raise ManifestError("it is not a manifest")
    if version > _VERSION or layout not in (_LAYOUT_SEQUENCE, _LAYOUT_TILES):
        needed = max(version, _VERSION + 1)
        raise NewerFormatError(
            f"a manifest of version {version}, layout {layout} needs a newer kacas (manifest format {needed}); upgrade",
            needed=needed,
        )
    if zero or not version or level > MAX_LEVEL or head_size > MAX_HEAD_SIZE or text_size > _MAX_DESCRIPTION_SIZE:
        raise ManifestError("its fields are out of bounds")
    start = _MANIFEST.size + head_size
    head = bytes(data[_MANIFEST.size : start])
    if len(data) < start + text_size:
        raise ManifestError("it is cut short")
    description = _decode_description(bytes(data[start : start + text_size]))
    rest, tiling = data[start + text_size :], None
    if layout == _LAYOUT_TILES:
        try:
            tiling, taken = decode_tiling(rest)
        except ValueError as exc:
            raise ManifestError(str(exc)) from exc
        rest = rest[taken:]
        if (tiling.size, tiling.level) != (size - head_size, level):
            raise ManifestError(f"its tiles make {tiling.size} bytes and level {tiling.level}")
    children = _decode_children(rest, count, level, size - head_size)
    if tiling is not None and [child.size for child in children] != tiling.child_sizes():
        raise ManifestError("its children have other sizes than its tiles")
    return Manifest(size, level, head, description, children, tiling)


def decode_node(data: bytes | memoryview, *, level: int, size: int) -> Node:
    """Strict; level and size are what the parent says. Raises ManifestError or NewerFormatError."""
    data = memoryview(data)
    if len(data) < _NODE.size:
        raise ManifestError("it is too short for a node")
    magic, version, own_level, zero, own_size, count = _NODE.unpack_from(data)
    if magic != _NODE_MAGIC:
        raise ManifestError("it is not a node")
    if version > _VERSION:
        raise NewerFormatError(f"a node of version {version} needs a newer kacas; upgrade", needed=version)
    if zero or not version or (own_level, own_size) != (level, size):
        raise ManifestError(f"it has level {own_level} and size {own_size}, its parent says {level} and {size}")
    return Node(level, size, _decode_children(data[_NODE.size :], count, level - 1, size))


def _encode_children(children: Iterable[Child]) -> bytes:
    return b"".join([_CHILD.pack(digest, size) for digest, size in children])


def _decode_children(data: memoryview, count: int, level: int, size: int) -> tuple[Child, ...]:
    """level 0: children are chunks, so each fits in one."""
    if count > FAN_OUT or len(data) != count * _CHILD.size:
        raise ManifestError(f"{count} children do not fill {len(data)} bytes")
    children = tuple(Child(*fields) for fields in _CHILD.iter_unpack(data))
    if sum(child.size for child in children) != size or size > MAX_CONTENT_SIZE:
        raise ManifestError(f"its children do not add up to {size} bytes")
    largest = MAX_CHUNK_SIZE if level == 0 else MAX_CONTENT_SIZE
    if any(not 0 < child.size <= largest for child in children):
        raise ManifestError("a child's size is out of bounds")
    return children


def _decode_description(text: bytes) -> dict[str, Any]:
    if not text:
        return {}
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ManifestError(f"its description is not JSON: {exc}") from exc
    if not isinstance(description, dict):
        raise ManifestError("its description is not a JSON object")
    return description


assert _CHILD.size == DIGEST_SIZE + 8
