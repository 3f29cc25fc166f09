"""Pull: contents are copied from an upstream into a batch of this store, payloads as they are encoded there.

Each is decoded and its digest compared; then the SHA-1 of the whole is. What this store has already is not read again.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from kacas.ahead import Ahead
from kacas.content import Content
from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
from kacas.disk.pack_writer import Framed
from kacas.errors import DamagedError, WrongIdentityError
from kacas.fetch import Fetch
from kacas.ingest import Ingest
from kacas.layouts import open_content
from kacas.model.codec import MIB, DecodeError, Decoder
from kacas.model.cuts import Cutter
from kacas.model.digest import ID_SIZE, PayloadKind, new_sha1, payload_digest
from kacas.model.encoder import Encoder
from kacas.model.entry import Action, Entry, Kind, Origin
from kacas.model.location import Piece
from kacas.model.manifest import Child
from kacas.model.pack_format import (
    PackFormatError,
    PayloadHeader,
    check_payload,
)
from kacas.model.uri import Uri
from kacas.pulling_small import SmallPull, append_new, named
from kacas.read_through import IN_FLIGHT, ChunkSource
from kacas.upstream import Plain, Upstream

_WINDOW_SIZE = 4 * MIB  # raw bytes that a thread decodes before it takes more
_ASKED_SIZE = 16 * MIB  # of what a remote is asked for at once: the processor's work for a request is that of 1 MiB
_PACK_SIZE = 24 * MIB  # as it is encoded, of what is asked for at once where a remote says in which object it lies
_ALONE_BELOW = 1 * MIB  # what is smaller is done faster without threads
_GROUP_COUNT = 512

Step = Callable[[int], None]
Lies = Callable[[bytes], tuple[str, int] | None]


class _Answer(NamedTuple):
    """Of chunks that were asked for together. known: those that are here already. found: payloads of the others."""

    known: set[bytes]
    found: dict[bytes, memoryview]


Group = list[tuple[int, Child]]
Asked = tuple[Group, Callable[[], _Answer]]
"""Chunks, with where each begins, and what waits for the answer."""


class _Window(NamedTuple):
    """Chunks that lie in a buffer one behind the other. answer: waits for it."""

    buffer: bytearray
    size: int
    pieces: list[Piece]
    answer: Callable[[], _Answer]


class Pull:
    """Copies contents into one batch. Used by one thread."""

    def __init__(
        self, upstream: Upstream, lookup: Lookup, batch: Batch, threads: int, room: int, cutter: Cutter, step: Step
    ) -> None:
        """threads: that read and decode, more where they wait for a remote. room: see Fetch. cutter: of plain files. step:
        called with the bytes that are done of a content, often: it may raise, to end the work."""
        self._upstream = upstream
        self._batch = batch
        self._threads = threads
        self._cutter = cutter
        self._step = step
        self._here = Fetch(lookup, 1, batch, room=room)
        self._free: list[bytearray] = []
        self._local = threading.local()

    def content(self, entry: Entry, content: Content) -> None:
        """Append what the upstream's layout needs, and an entry that names it.

        Raises DamagedError if a part of it, or the whole, is not what was promised; MissingPackageError, StoreError.
        """
        if content.source is not None:
            content.source.read_tree()
        self._copy_tree(content)
        if content.tiling is None:
            sha1 = new_sha1()
            sha1.update(content.head)
            self._copy_chunks(content, content.in_order(), sha1.update)
        else:
            self._copy_chunks(content, ((0, child) for child in content.chunks()), None)
            sha1 = new_sha1()
            for window in open_content(self._here, entry.root, entry.size).windows():
                sha1.update(window)
                self._step(entry.size)
        if sha1.digest() != entry.sha1:
            raise self._other_content(entry.sha1, entry.root, sha1.digest())
        self._batch.note_whole(entry.root)
        self._batch.add_entry(_fetched(entry.sha1, entry.root, entry.size, entry.kind, entry.label))

    def _other_content(self, sha1: bytes, root: bytes, found: bytes) -> WrongIdentityError:
        look = "kacas verify"
        if self._upstream.is_far:
            look = (
                "kacas remote verify; if it is a web server, in a browser: it may answer with a page that wants a login"
            )
        return WrongIdentityError(
            f"the upstream {self._upstream.name} has other content under the SHA-1 {sha1.hex()} (root {root.hex()}); "
            f"nothing was kept. Look there with: {look}",
            found=found.hex(),
        )

    def plain(self, uri: Uri, plain: Plain) -> None:
        """Append what comes as it is, and an entry that names it. Raises WrongIdentityError, StoreError."""
        found = Ingest(self._threads, self._here.room).put(
            plain.open(), self._cutter, self._batch, progress=lambda done, _: self._step(done)
        )
        if found.sha1 != uri.sha1:
            raise self._other_content(uri.sha1, found.root, found.sha1)
        self._batch.note_whole(found.root)
        self._batch.add_entry(_fetched(found.sha1, found.root, found.size, Kind.FILE, plain.label))

    def small(self, sizes: dict[bytes, int], kind: Kind) -> set[bytes]:
        """Append contents that are one chunk each, by SHA-1, and entries that name them. Returns those that were found and
        are right; `content` finds out what is wrong with the others."""
        asking = self._asking(self._upstream.is_far)
        return SmallPull(self._upstream, self._batch, asking, self._step).contents(sizes, kind)

    def _copy_tree(self, content: Content) -> None:
        """Manifest and nodes, each verified as it was read."""
        for digest, kind, raw in content.tree():
            if digest not in self._batch.known([digest]):
                found = (content.source or self._upstream).get_many([digest])
                good = self._filled(found, [Piece(digest, len(raw), 0, memoryview(bytearray(len(raw))))], kind)
                append_new(self._batch, list(good.values()) or [_encoded(digest, kind, memoryview(raw))])
                self._step(0)

    def _copy_chunks(
        self, content: Content, chunks: Iterable[tuple[int, Child]], use: Callable[[memoryview], None] | None
    ) -> None:
        """Chunks with where each begins; `use` gets all their bytes, in order."""
        source = content.source or self._upstream
        if content.size <= _ALONE_BELOW:
            self._use_all(
                content, ((one, partial(self._ask, source, one)) for one in _groups(chunks, _WINDOW_SIZE)), map, use
            )
            return
        # A remote gives much at once in about the time of a little; of a store's disk, that is only more memory.
        groups = (
            _groups(chunks, _WINDOW_SIZE, _WINDOW_SIZE)
            if content.source is None
            else _groups(chunks, _PACK_SIZE, _WINDOW_SIZE, content.source.lies)
        )
        with (
            Ahead(self._asking(content.source is not None, _PACK_SIZE), "kacas-ask") as asking,
            Ahead(self._threads, "kacas-pull") as taking,
        ):
            # Who hashes never waits for a remote while there is something to be hashed: those who decode wait.
            asked = asking.begun(partial(self._ask, source), groups)
            self._use_all(content, ((group, answer.result) for group, answer in asked), taking.map, use)

    def _asking(self, is_far: bool, size: int = _ASKED_SIZE) -> int:
        """Threads that ask for so many bytes each: they are in memory, as they are encoded there."""
        return max(1, min(IN_FLIGHT, self._here.room // size)) if is_far else self._threads

    def _ask(self, source: ChunkSource, group: Group) -> _Answer:
        digests = {child.digest for _, child in group}
        known = self._batch.known(digests)
        lacking = list(digests - known)
        return _Answer(known, source.get_many(lacking) if lacking else {})

    def _use_all(
        self,
        content: Content,
        asked: Iterable[Asked],
        take: Callable[[Callable[[_Window], _Window], Iterable[_Window]], Iterator[_Window]],
        use: Callable[[memoryview], None] | None,
    ) -> None:
        """take: as the built-in map."""
        done = len(content.head)
        windows = (window for group, answer in asked for window in self._windows(group, answer))
        for window in take(partial(self._take, content), windows):
            if use is not None:
                use(memoryview(window.buffer)[: window.size])
            if len(self._free) <= self._threads:
                self._free.append(window.buffer)
            done += window.size
            self._step(done)

    def _windows(self, asked: Group, answer: Callable[[], _Answer]) -> Iterator[_Window]:
        for group in _groups(asked, _WINDOW_SIZE):
            size = sum(child.size for _, child in group)
            buffer = self._free.pop() if self._free else bytearray()
            if len(buffer) < size:
                buffer = bytearray(size if size < _WINDOW_SIZE // 2 else max(size, _WINDOW_SIZE))
            view, pieces, filled = memoryview(buffer), [], 0
            for at, child in group:
                pieces.append(Piece(child.digest, child.size, 0, view[filled : filled + child.size], at))
                filled += child.size
            yield _Window(buffer, size, pieces, answer)

    def _take(self, content: Content, window: _Window) -> _Window:
        """Fill the pieces with verified bytes, and append the payloads of those that are new here."""
        answer = window.answer()
        here = [piece for piece in window.pieces if piece.digest in answer.known]
        left = [piece for piece in window.pieces if piece.digest not in answer.known]
        try:
            self._here.read_pieces(here)
        except DamagedError:
            left += here  # what its header promised is not there: read elsewhere, it is
        good = self._filled(answer.found, left)
        payloads = list(good.values())
        made: set[bytes] = set()
        for piece in left:
            if piece.digest not in good:
                self._read_elsewhere(content, piece)
                if piece.digest not in made:
                    made.add(piece.digest)
                    payloads.append(_encoded(piece.digest, PayloadKind.CHUNK, piece.out))
        append_new(self._batch, payloads)
        return window

    def _filled(
        self, found: dict[bytes, memoryview], pieces: Iterable[Piece], kind: PayloadKind = PayloadKind.CHUNK
    ) -> dict[bytes, Framed]:
        """Fill pieces from payloads that came. Returns those that are good."""
        decoder = self._decoder()
        good: dict[bytes, Framed] = {}
        bad: set[bytes] = set()
        for piece in pieces:
            data = found.get(piece.digest)
            if data is not None and piece.digest not in bad:
                try:
                    good[piece.digest] = _decoded(decoder, data, piece, kind)
                except (PackFormatError, DecodeError):
                    good.pop(piece.digest, None)
                    bad.add(piece.digest)
        return good

    def _decoder(self) -> Decoder:
        decoder: Decoder | None = getattr(self._local, "decoder", None)
        if decoder is None:
            decoder = self._local.decoder = Decoder()
        return decoder

    def _read_elsewhere(self, content: Content, piece: Piece) -> None:
        """From another place there, or, of a sequence, from another layout. Raises DamagedError, MissingPackageError."""
        try:
            content.read_chunks([piece])
        except DamagedError:
            if content.tiling is not None or not content.fills(piece.at, piece.out):
                raise
            if payload_digest(PayloadKind.CHUNK, piece.out) != piece.digest:
                raise


def _groups(
    chunks: Iterable[tuple[int, Child]], most: int, first: int = 0, lies: Lies = lambda _: None
) -> Iterator[Group]:
    """Chunks of so many bytes at most, or one, each with where it begins. first: bytes of the first group, if
    fewer; each is twice as large as the one before. lies: see PartSource. What lies long in one object ends with it: a service
    reads blocks of it, and those at the ends of a range in vain. Short runs by turns stay together: each alone costs a request."""
    group: Group = []
    size, room, last, run = 0, first or most, "", 0
    for at, child in chunks:
        where, stored = lies(child.digest) or ("", child.size)
        ends, run = (False, run + stored) if where == last else (run >= _WINDOW_SIZE, stored)
        if group and (ends or size + stored > room or len(group) >= _GROUP_COUNT):
            yield group
            group, size, room = [], 0, min(most, 2 * room)
        group.append((at, child))
        size, last = size + stored, where
    if group:
        yield group


def _decoded(decoder: Decoder, data: memoryview, piece: Piece, kind: PayloadKind) -> Framed:
    """Fill the piece from a payload with its header. Raises PackFormatError or DecodeError if it is not the piece's."""
    header, payload = _checked(data, piece.digest, piece.size, kind)
    decoder.decode_into(header.codec, header.parameters, payload, piece.out)
    if payload_digest(kind, piece.out) != piece.digest:
        raise PackFormatError("its bytes do not have the digest that they are stored under")
    return header, (data,)


def _checked(data: memoryview, digest: bytes, size: int, kind: int) -> tuple[PayloadHeader, memoryview]:
    """As `named`, and the payload is as it was written."""
    header, payload = named(data, digest, size, kind)
    check_payload(header, data, payload)
    return header, payload


def _encoded(digest: bytes, kind: PayloadKind, raw: memoryview) -> Framed:
    """Of what there is no good payload to be copied, or none at all, as of a linked file."""
    codec, parameters, payload = Encoder().encode(raw)
    header = PayloadHeader(kind, codec, len(payload), len(raw), digest, parameters)
    return header, (header.encode(payload), bytes(payload))


def _fetched(sha1: bytes, root: bytes, size: int, kind: int, label: bytes) -> Entry:
    """Names a layout that is here as long as nobody needs its room: a claim of nobody."""
    return Entry(
        secrets.token_bytes(ID_SIZE), sha1, root, size, time.time_ns(), kind, b"", label, Action.MEMBER, Origin.FETCHED
    )
