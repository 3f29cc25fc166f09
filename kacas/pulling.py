"""Pull: contents are copied from an upstream into a batch of this store, payloads as they are encoded there.

Each is decoded and its digest compared; then the SHA-1 of the whole is. What this store has already is not read again.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from kacas.content import Content
from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
from kacas.errors import DamagedError, WrongIdentityError
from kacas.fetch import Fetch
from kacas.ingest import Ingest, Payload
from kacas.layouts import open_content
from kacas.model.codec import MIB, DecodeError, Decoder
from kacas.model.cuts import Cutter
from kacas.model.digest import ID_SIZE, PayloadKind, new_sha1, payload_digest
from kacas.model.encoder import Encoder
from kacas.model.entry import Action, Entry, Kind, Origin
from kacas.model.location import Piece
from kacas.model.manifest import Child
from kacas.model.pack_format import PAYLOAD_HEADER_SIZE, PackFormatError, PayloadHeader, decode_payload_header
from kacas.model.uri import Uri
from kacas.read_through import IN_FLIGHT, ChunkSource
from kacas.upstream import Plain, Upstream

_WINDOW_SIZE = 4 * MIB  # raw bytes that a thread reads and decodes before it takes more
_ALONE_BELOW = 1 * MIB  # what is smaller is done faster without threads
_GROUP_COUNT = 512

T = TypeVar("T")
Step = Callable[[int], None]


class _Window(NamedTuple):
    """Chunks that lie in a buffer one behind the other."""

    buffer: bytearray
    size: int
    pieces: list[Piece]


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
            self._threads = max(self._threads, IN_FLIGHT)
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
        look = "kacas remote verify" if self._upstream.is_far else "kacas verify"
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
        done: set[bytes] = set()
        roots = self._upstream.roots(sizes)
        for group in _groups((sha1, Child(root, sizes[sha1])) for sha1, root in roots.items()):
            pieces = [Piece(root, size, 0, memoryview(bytearray(size))) for _, (root, size) in group]
            good, payloads = self._copied(self._upstream, pieces)
            self._append(payloads)
            entries = []
            for (sha1, _), piece in zip(group, pieces, strict=True):
                found = new_sha1()
                found.update(piece.out)
                if piece.digest in good and found.digest() == sha1:
                    entries.append(_fetched(sha1, piece.digest, piece.size, kind, b""))
                    done.add(sha1)
            self._batch.add_entries(entries)
            self._step(sum(sizes[sha1] for sha1 in done))
        return done

    def _copy_tree(self, content: Content) -> None:
        """Manifest and nodes, each verified as it was read."""
        for digest, kind, raw in content.tree():
            if digest not in self._batch.known([digest]):
                pieces = [Piece(digest, len(raw), 0, memoryview(bytearray(len(raw))))]
                _, payloads = self._copied(content.source or self._upstream, pieces, kind)
                self._append(payloads or [_encoded(digest, kind, memoryview(raw))])
                self._step(0)

    def _copy_chunks(
        self, content: Content, chunks: Iterable[tuple[int, Child]], use: Callable[[memoryview], None] | None
    ) -> None:
        """Chunks with where each begins; `use` gets all their bytes, in order."""
        if content.size <= _ALONE_BELOW:
            for window in self._windows(chunks):
                self._take(content, window)
                self._land(window, use)
            return
        done = len(content.head)
        flying: deque[tuple[_Window, Future[None]]] = deque()
        pool = ThreadPoolExecutor(self._threads, "kacas-pull")
        try:
            for window in self._windows(chunks):
                flying.append((window, pool.submit(self._take, content, window)))
                if len(flying) > self._threads:
                    done += self._land_first(flying, use)
                    self._step(done)
            while flying:
                done += self._land_first(flying, use)
                self._step(done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _land_first(self, flying: deque[tuple[_Window, Future[None]]], use: Callable[[memoryview], None] | None) -> int:
        window, taking = flying.popleft()
        taking.result()
        self._land(window, use)
        return window.size

    def _land(self, window: _Window, use: Callable[[memoryview], None] | None) -> None:
        if use is not None:
            use(memoryview(window.buffer)[: window.size])
        if len(self._free) <= self._threads:
            self._free.append(window.buffer)

    def _windows(self, chunks: Iterable[tuple[int, Child]]) -> Iterator[_Window]:
        for group in _groups(chunks):
            size = sum(child.size for _, child in group)
            buffer = self._free.pop() if self._free else bytearray()
            if len(buffer) < size:
                buffer = bytearray(size if size < _WINDOW_SIZE // 2 else max(size, _WINDOW_SIZE))
            view, pieces, filled = memoryview(buffer), [], 0
            for at, child in group:
                pieces.append(Piece(child.digest, child.size, 0, view[filled : filled + child.size], at))
                filled += child.size
            yield _Window(buffer, size, pieces)

    def _take(self, content: Content, window: _Window) -> None:
        """Fill the pieces with verified bytes, and append the payloads of those that are new here."""
        known = self._batch.known(piece.digest for piece in window.pieces)
        here = [piece for piece in window.pieces if piece.digest in known]
        left = [piece for piece in window.pieces if piece.digest not in known]
        try:
            self._here.read_pieces(here)
        except DamagedError:
            left += here  # what its header promised is not there: copied again, it is
        good, payloads = self._copied(content.source or self._upstream, left)
        made: set[bytes] = set()
        for piece in left:
            if piece.digest not in good:
                self._read_elsewhere(content, piece)
                if piece.digest not in made:
                    made.add(piece.digest)
                    payloads.append(_encoded(piece.digest, PayloadKind.CHUNK, piece.out))
        self._append(payloads)

    def _copied(
        self, source: ChunkSource, pieces: Collection[Piece], kind: PayloadKind = PayloadKind.CHUNK
    ) -> tuple[set[bytes], list[Payload]]:
        """Fill pieces from the payloads that the source has at hand. Returns the digests of those that are good."""
        found = source.get_many(list({piece.digest for piece in pieces})) if pieces else {}
        decoder = self._decoder()
        good: dict[bytes, Payload] = {}
        for piece in pieces:
            data = found.get(piece.digest)
            if data is not None:
                try:
                    good[piece.digest] = _decoded(decoder, data, piece, kind)
                except (PackFormatError, DecodeError):
                    good.pop(piece.digest, None)
                    del found[piece.digest]
        return set(good), list(good.values())

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

    def _append(self, payloads: list[Payload]) -> None:
        """Those that another window has not appended meanwhile."""
        pending = self._batch.pending([header.digest for header, _ in payloads])
        new = [payload for payload in payloads if payload[0].digest not in pending]
        if new:
            self._batch.append(new)


def _groups(chunks: Iterable[tuple[T, Child]]) -> Iterator[list[tuple[T, Child]]]:
    """Chunks that are copied together, each with what it is called or where it begins."""
    group: list[tuple[T, Child]] = []
    size = 0
    for at, child in chunks:
        if group and (size + child.size > _WINDOW_SIZE or len(group) >= _GROUP_COUNT):
            yield group
            group, size = [], 0
        group.append((at, child))
        size += child.size
    if group:
        yield group


def _decoded(decoder: Decoder, data: memoryview, piece: Piece, kind: PayloadKind) -> Payload:
    """Fill the piece from a payload with its header. Raises PackFormatError or DecodeError if it is not the piece's."""
    header = decode_payload_header(data)
    if (header.digest, header.kind, header.raw_size) != (piece.digest, kind, piece.size):
        raise PackFormatError("another payload is there")
    payload = data[PAYLOAD_HEADER_SIZE + len(header.parameters) :]
    if len(payload) != header.payload_size:
        raise PackFormatError("the payload's size is not what was expected")
    decoder.decode_into(header.codec, header.parameters, payload, piece.out)
    if payload_digest(kind, piece.out) != piece.digest:
        raise PackFormatError("its bytes do not have the digest that they are stored under")
    return header, payload


def _encoded(digest: bytes, kind: PayloadKind, raw: memoryview) -> Payload:
    """Of what there is no good payload to be copied, or none at all, as of a linked file."""
    codec, parameters, payload = Encoder().encode(raw)
    header = PayloadHeader(kind, codec, len(payload), len(raw), digest, parameters)
    return header, bytes(payload)


def _fetched(sha1: bytes, root: bytes, size: int, kind: int, label: bytes) -> Entry:
    """Names a layout that is here as long as nobody needs its room: a claim of nobody."""
    return Entry(
        secrets.token_bytes(ID_SIZE), sha1, root, size, time.time_ns(), kind, b"", label, Action.MEMBER, Origin.FETCHED
    )
