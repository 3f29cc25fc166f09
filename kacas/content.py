"""Content: one layout of a SHA-1, open for verified reading of any range."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from copy import copy
from itertools import accumulate
from typing import NamedTuple, Protocol

from kacas.disk.adopted import AdoptedFiles
from kacas.disk.memory import check_affordable
from kacas.errors import DamagedContentError, DamagedError, InvalidRangeError, MissingPackageError, StoreError
from kacas.fetch import Fetch
from kacas.model.codec import MIB
from kacas.model.digest import PayloadKind
from kacas.model.location import Piece
from kacas.model.manifest import Child, Manifest, ManifestError, decode_node
from kacas.read_through import PartSource, ReadThrough

WINDOW_SIZE = 8 * MIB  # bytes that are read at a time of what is read whole
_READ_AHEAD = 64 * 1024  # a look at the content takes as long as copying so many bytes of a chunk that is kept
_READ_AHEAD_LINKED = 512 * 1024  # no chunk of a linked file is kept: a small part of one is not to be asked for twice
_NODES_KEPT = 256  # per content: 20 KiB each


class _Children(NamedTuple):
    """Those of a manifest or node. ends: where each ends, counted from the start of the first."""

    children: tuple[Child, ...]
    ends: list[int]

    @staticmethod
    def of(children: tuple[Child, ...]) -> _Children:
        return _Children(children, list(accumulate(child.size for child in children)))


class Spare(Protocol):
    """Something else that has the bytes of a content: another layout, another store."""

    def fills(self, start: int, out: memoryview) -> bool:
        """Fill `out` with verified bytes from `start` on; False if that cannot be done."""
        ...


class Content:
    """One layout, a sequence of chunks, open for verified reading of any range. Thread-safe."""

    def __init__(
        self, fetch: Fetch, root: bytes, manifest: Manifest | None, size: int, adopted: AdoptedFiles | None
    ) -> None:
        """manifest: None if the root is the digest of the only chunk. adopted: where chunks lie that no pack has.

        Its `head` are the first bytes, which need no chunk: of an array, the header.
        """
        self._fetch = fetch
        self.adopted = adopted
        self.root = root
        self.size = size
        self.tiling = manifest.tiling if manifest else None
        self.is_one_chunk = manifest is None
        self._level = manifest.level if manifest else 0
        self.head = manifest.head if manifest else b""
        self._top = _Children.of(manifest.children if manifest else (Child(root, size),))
        self._nodes: dict[bytes, _Children] = {}
        self._spares: tuple[Spare, ...] = ()

    def with_spares(self, spares: Iterable[Spare]) -> Content:
        """The same, which reads what it cannot read itself from others that have the same bytes."""
        found = copy(self)
        found._spares = (*self._spares, *spares)
        return found

    @property
    def source(self) -> PartSource | None:
        """What it is read from that this store has not; None if all of it is in one."""
        return self._fetch.source if isinstance(self._fetch, ReadThrough) else None

    @property
    def has_spares(self) -> bool:
        """Whether `read_into` can turn to others."""
        return bool(self._spares)

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start` on. The range must lie inside the content."""
        stop = start + len(out)
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"{start}:{stop} is not inside 0:{self.size}")
        from_head = self.head[start:stop]
        out[: len(from_head)] = from_head
        start += len(from_head)
        if start < stop:
            try:
                self._read_data(start - len(self.head), out[len(from_head) :])
            except (DamagedError, MissingPackageError, StoreError):
                if not any(spare.fills(start, out[len(from_head) :]) for spare in self._spares):
                    raise

    def read(self, start: int | None, stop: int | None, name: str) -> bytes:
        """Bytes start:stop, as a slice. name: for messages. Raises InvalidRangeError, SizeLimitError before memory is taken."""
        try:
            first, last, _ = slice(start, stop).indices(self.size)
        except TypeError as exc:
            raise InvalidRangeError(
                f"start and stop are whole numbers of bytes or None, not {start!r}, {stop!r}"
            ) from exc
        size = max(0, last - first)
        if size == 0:
            return b""
        check_affordable(size, name)
        # BytesIO hands its buffer out as bytes without the copy that bytes(bytearray) would make.
        buffer = io.BytesIO()
        buffer.seek(size - 1)
        buffer.write(b"\0")
        with buffer.getbuffer() as view:
            self.read_into(first, view)
        return buffer.getvalue()

    def fills(self, start: int, out: memoryview) -> bool:
        """As `read_into`; False if it cannot be read."""
        try:
            self.read_into(start, out)
        except (DamagedError, MissingPackageError, StoreError):
            return False
        return True

    def _read_data(self, start: int, out: memoryview) -> None:
        """As `read_into`; start: in what follows the head."""
        pieces: list[Piece] = []
        self._collect(pieces, self._top, self._level, len(self.head), start, start + len(out), out)
        if len(pieces) == 1:
            self._fetch.read_piece(pieces[0], self.adopted)
        else:
            self._fetch.read_pieces(pieces, adopted=self.adopted)

    @property
    def read_ahead(self) -> int:
        """Bytes that are best read at once by who reads a little at a time."""
        return _READ_AHEAD if self.adopted is None else _READ_AHEAD_LINKED

    def windows(self) -> Iterator[memoryview]:
        """All bytes, in order, in parts of which each is overwritten by the next. Every chunk is decoded about once, in
        bounded memory."""
        window = memoryview(bytearray(min(WINDOW_SIZE, self.size)))
        for start in range(0, self.size, WINDOW_SIZE):
            part = window[: min(WINDOW_SIZE, self.size - start)]
            self.read_into(start, part)
            yield part

    def _collect(
        self, pieces: list[Piece], children: _Children, level: int, at: int, start: int, stop: int, out: memoryview
    ) -> None:
        """Add the chunks under `children`, which begin `at` in the content, that overlap start:stop (offsets from the first
        child on), with their part of out."""
        for index in range(bisect_right(children.ends, start), len(children.ends)):
            child, end = children.children[index], children.ends[index]
            begin = end - child.size
            if begin >= stop:
                return
            low, high = max(start, begin), min(stop, end)
            part = out[low - start : high - start]
            if level == 0:
                pieces.append(Piece(child.digest, child.size, low - begin, part, at + begin))
            else:
                below = self._node(child, level)
                self._collect(pieces, below, level - 1, at + begin, low - begin, high - begin, part)

    def _node(self, child: Child, level: int) -> _Children:
        found = self._nodes.get(child.digest)
        if found is None:
            raw = self._fetch.tree_payload(child.digest, PayloadKind.NODE)
            try:
                found = _Children.of(decode_node(raw, level=level, size=child.size).children)
            except ManifestError as exc:
                raise DamagedContentError(f"node {child.digest.hex()}: {exc}", digest=child.digest.hex()) from exc
            if len(self._nodes) >= _NODES_KEPT:
                self._nodes = {}  # anew rather than in order: a lock would not survive a fork
            self._nodes[child.digest] = found
        return found

    def read_chunks(self, pieces: Iterable[Piece]) -> None:
        """Fill pieces that are chunks below the root, from wherever each is good. Raises as `Fetch.read_pieces`."""
        self._fetch.read_pieces(pieces, adopted=self.adopted)

    def in_order(self) -> Iterator[tuple[int, Child]]:
        """Every chunk with where it begins in the content, front to back; what is repeated comes again. Of a sequence."""
        at = len(self.head)
        stack = [(child, self._level) for child in reversed(self._top.children)]
        while stack:
            child, level = stack.pop()
            if level:
                stack += [(below, level - 1) for below in reversed(self._node(child, level).children)]
            else:
                yield at, child
                at += child.size

    def tree(self) -> Iterator[tuple[bytes, PayloadKind, bytes]]:
        """Digest, kind and raw bytes of the manifest and of every node below it; none if the root is that of a chunk."""
        if not self.is_one_chunk:
            yield self.root, PayloadKind.MANIFEST, self._fetch.tree_payload(self.root, PayloadKind.MANIFEST)
        for child, level in self.walk():
            if level:
                yield child.digest, PayloadKind.NODE, self._fetch.tree_payload(child.digest, PayloadKind.NODE)

    def chunks(self) -> Iterator[Child]:
        """Every chunk; those of a repeated node once."""
        for child, level in self.walk():
            if level == 0:
                yield child

    def walk(self) -> Iterator[tuple[Child, int]]:
        """Every node and chunk below the root with its level (0: a chunk), parents first; a repeated node once.

        A tree of a few nodes that name one another many times declares exabytes: it is not walked for ever.
        """
        stack = [(child, self._level) for child in reversed(self._top.children)]
        seen: set[bytes] = set()
        while stack:
            child, level = stack.pop()
            if level:
                if child.digest in seen:
                    continue
                seen.add(child.digest)
                stack += [(below, level - 1) for below in reversed(self._node(child, level).children)]
            yield child, level
