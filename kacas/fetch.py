"""The read pipeline: from a root to verified bytes, in the caller's buffer."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kacas.decoded import DecodedChunks, copy_part
from kacas.disk.adopted import AdoptedFiles
from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
from kacas.disk.pack_reader import PackReader
from kacas.errors import (
    AdoptedFileError,
    DamagedContentError,
    DamagedPackError,
    KacasError,
    MissingPackageError,
    NewerFormatError,
)
from kacas.model.codec import (
    MAX_CHUNK_SIZE,
    MIB,
    DecodeError,
    Decoder,
    MissingCodecError,
    UnknownCodecError,
    codec_name,
)
from kacas.model.digest import PayloadKind, payload_digest
from kacas.model.location import Location, Piece
from kacas.model.pack_format import (
    FORMAT_VERSION,
    PAYLOAD_HEADER_SIZE,
    PackFormatError,
    check_payload,
    decode_payload_header,
)
from kacas.workers import Workers

_RUN_SIZE = 1 * MIB  # neighbouring payloads are read in one call up to this size: they fit in the cache
_RUN_GAP = 64 * 1024  # and what lies between them is read along
_SPAN_SIZE = 4 * MIB  # raw bytes that one thread looks up, reads and decodes before it takes more
_PARALLEL_ABOVE = 1 * MIB  # below this a second thread costs more than it saves
_PARTS_SIZE = 8 * MIB  # raw bytes of chunks that are decoded at a time because a part of each is wanted


class _Run(NamedTuple):
    """Payloads of one pack that are read in one call."""

    pack_id: bytes
    start: int
    stop: int
    items: list[tuple[Location, Piece]]


class _Span(NamedTuple):
    """Chunks that were looked up. absent: those that the index does not know."""

    runs: list[tuple[PackReader | None, _Run]]
    absent: list[Piece]


class Fetch:
    """Reads payloads and verifies them. Thread-safe."""

    def __init__(self, lookup: Lookup, threads: int, batch: Batch | None = None, *, kept: int = 0) -> None:
        """batch: its unpublished pack is read too (to compare new with old). kept: bytes of decoded chunks that may be kept
        because only a part of them was asked for."""
        self._lookup = lookup
        self._workers = Workers(threads, "kacas-decode")
        self.decoded = DecodedChunks(kept)
        self._batch = batch
        self._local = threading.local()

    @property
    def threads(self) -> int:
        """That may decode for one call."""
        return self._workers.threads

    @property
    def cache(self) -> Path:
        """The store's host-local directory."""
        return self._lookup.cache

    def close(self) -> None:
        """Let the threads end. What is read later has new ones."""
        self._workers.close()

    def for_one_thread(self) -> Fetch:
        """The same, for callers that have threads of their own."""
        return Fetch(self._lookup, 1, self._batch)

    def read_pieces(
        self, pieces: Sequence[Piece], kind: PayloadKind = PayloadKind.CHUNK, adopted: AdoptedFiles | None = None
    ) -> None:
        """Fill every piece with verified bytes. adopted: where those lie that no pack has.

        Raises DamagedPackError, DamagedContentError or AdoptedFileError.
        """
        whole: list[Piece] = []
        parts: list[Piece] = []
        for piece in pieces:
            if len(piece.out) == piece.size:
                whole.append(piece)
            elif adopted is not None or not self.decoded.copy(piece):
                parts.append(piece)
        for group in _spans(parts, _PARTS_SIZE):
            self._read_parts(group, whole, kind, adopted)
            whole = []
        if whole:
            self._read_whole(whole, kind, adopted)

    def _read_parts(
        self, parts: list[Piece], whole: list[Piece], kind: PayloadKind, adopted: AdoptedFiles | None
    ) -> None:
        """Read the whole chunks of the parts, and what is wanted whole along with them."""
        chunks: dict[bytes, bytearray] = {}
        wanted = list(whole)
        for piece in parts:
            if piece.digest not in chunks:
                # Of what is adopted nothing is kept: that its file is gone, or changed, is told by the next read.
                chunk = self.decoded.buffer(piece.size) if adopted is None else bytearray(piece.size)
                chunks[piece.digest] = chunk
                wanted.append(piece._replace(skip=0, out=memoryview(chunk)))
        self._read_whole(wanted, kind, adopted)
        for piece in parts:
            copy_part(chunks[piece.digest], piece)
        if adopted is None:
            for digest, chunk in chunks.items():
                self.decoded.keep(digest, chunk)

    def _read_whole(self, pieces: list[Piece], kind: PayloadKind, adopted: AdoptedFiles | None) -> None:
        size, threads = sum(piece.size for piece in pieces), self._workers.threads
        if threads == 1 or size <= _PARALLEL_ABOVE or len(pieces) == 1:
            failed = self._read_span(self._located(pieces), kind, adopted)
        else:
            failed = []
            spans = deque(_spans(pieces, min(_SPAN_SIZE, size // threads)))
            self._workers.share(partial(self._read_spans, spans, failed, kind, adopted))
        for piece in failed:
            self._read_anywhere(piece, kind, adopted)

    def _read_spans(
        self, spans: deque[list[Piece]], failed: list[Piece], kind: PayloadKind, adopted: AdoptedFiles | None
    ) -> None:
        """Until none is left. Spans are shared with other threads, which stop when this one fails."""
        try:
            mine = self._next_span(spans)
            while mine is not None:
                # The disk fetches what comes next while this is decoded.
                upcoming = self._next_span(spans)
                failed += self._read_span(mine, kind, adopted)
                mine = upcoming
        except BaseException:
            spans.clear()
            raise

    def _next_span(self, spans: deque[list[Piece]]) -> _Span | None:
        try:
            span = self._located(spans.popleft())
        except IndexError:
            return None
        for reader, run in span.runs:
            if reader is not None:
                reader.read_ahead(run.start, run.stop - run.start)
        return span

    def _located(self, pieces: list[Piece]) -> _Span:
        hints = self._lookup.locate({piece.digest for piece in pieces})
        located: list[tuple[Location, Piece]] = []
        absent: list[Piece] = []
        for piece in pieces:
            if locations := hints.get(piece.digest):
                located.append((locations[0], piece))
            else:
                absent.append(piece)
        return _Span([(self._reader(run.pack_id), run) for run in _runs(located)], absent)

    def _reader(self, pack_id: bytes) -> PackReader | None:
        try:
            return self._lookup.packs.get(pack_id)
        except (FileNotFoundError, DamagedPackError):
            return None

    def _read_span(self, span: _Span, kind: PayloadKind, adopted: AdoptedFiles | None) -> list[Piece]:
        """Returns the pieces that were not good where they were expected."""
        # Before the tables are searched for them: what is adopted is in no pack, normally.
        failed = adopted.fill(span.absent) if adopted is not None and span.absent else list(span.absent)
        for reader, run in span.runs:
            failed += self._read_run(reader, run, kind)
        return failed

    def _read_run(self, reader: PackReader | None, run: _Run, kind: PayloadKind) -> list[Piece]:
        """Returns the pieces that were not good here."""
        try:
            if reader is None:
                raise FileNotFoundError
            data = self._buffer(run.stop - run.start)
            reader.read_into(data, run.start)
        except (FileNotFoundError, DamagedPackError):
            # Missing, cut short or unreadable: each piece is tried alone, and elsewhere.
            return [piece for _, piece in run.items]
        failed = []
        for location, piece in run.items:
            start = location.offset - run.start
            try:
                self._decode(data[start : location.stop - run.start], piece, kind)
            except (PackFormatError, DecodeError):
                failed.append(piece)
        return failed

    def _decode(self, data: memoryview, piece: Piece, kind: PayloadKind) -> None:
        """data: payload header to payload end. Raises PackFormatError or DecodeError; `out` is then undefined."""
        header = decode_payload_header(data)
        if header.digest != piece.digest or header.kind != kind or header.raw_size != piece.size:
            raise PackFormatError("another payload is there")
        payload = data[PAYLOAD_HEADER_SIZE + len(header.parameters) :]
        if len(payload) != header.payload_size:
            raise PackFormatError("the payload's size is not what was expected")
        self._decoder().decode_into(header.codec, header.parameters, payload, piece.out)
        if payload_digest(kind, piece.out) != piece.digest:
            raise PackFormatError("its bytes do not have the digest that they are stored under")

    def _read_anywhere(self, piece: Piece, kind: PayloadKind, adopted: AdoptedFiles | None) -> None:
        """The slow and thorough way, for a piece that was not where the index said: every location of every table."""
        damage: DamagedPackError | None = None
        tried: set[tuple[bytes, int]] = set()
        for location in self._everywhere(piece.digest):
            if (location.pack_id, location.offset) in tried:
                continue
            tried.add((location.pack_id, location.offset))
            try:
                self._read_at(location, piece, kind)
                return
            except FileNotFoundError:
                continue
            except DamagedPackError as exc:
                damage = exc
                self._lookup.mark_damaged(piece.digest, location)
        if adopted is not None:
            try:
                adopted.read(piece)
                return
            except AdoptedFileError:
                if damage is None:
                    raise
        raise damage or self.missing("chunk", piece.digest)

    def missing(self, what: str, digest: bytes) -> KacasError:
        """The error for a payload that no table knows; it names a pack that cannot be read, if there is one."""
        self._lookup.unmark_whole()
        for pack_id, problem in self._lookup.tables.problems.items():
            if isinstance(problem, NewerFormatError):
                return problem
            return DamagedPackError(
                f"{what} {digest.hex()[:16]}… was not found, but not every pack can be read: {problem}",
                pack=pack_id.hex(),
                digest=digest.hex(),
            )
        return DamagedContentError(
            f"{what} {digest.hex()} is in no pack of this store: a pack is missing. "
            "Restore it from a backup, or store the content again",
            digest=digest.hex(),
        )

    def _everywhere(self, digest: bytes) -> Iterator[Location]:
        if self._batch is not None:
            yield from self._batch.pending([digest]).values()
        yield from self._lookup.locate([digest]).get(digest, ())
        yield from self._lookup.tables.locations(digest)

    def _read_at(self, location: Location, piece: Piece, kind: PayloadKind) -> None:
        pending = self._batch.read(location) if self._batch is not None else None
        if pending is not None:
            self._decode(memoryview(pending), piece, kind)
            return
        reader = self._lookup.packs.get(location.pack_id)
        if location.raw_size != piece.size or location.payload_size > MAX_CHUNK_SIZE:
            raise reader.damage("its table gives the chunk another size", digest=piece.digest)
        data = self._buffer(location.stop - location.offset)
        reader.read_into(data, location.offset)
        try:
            self._decode(data, piece, kind)
        except (PackFormatError, DecodeError) as exc:
            if isinstance(exc, UnknownCodecError) and self._is_as_written(data):
                raise NewerFormatError(
                    f"pack {reader.name} (chunk {piece.digest.hex()[:16]}…): {exc}; upgrade kacas to read it",
                    needed=FORMAT_VERSION + 1,
                    pack=reader.pack_id.hex(),
                ) from exc
            if isinstance(exc, MissingCodecError) and self._is_as_written(data):
                where = f"pack {reader.name} (chunk {piece.digest.hex()[:16]}…)"
                raise MissingPackageError(f"{where}: {exc}", package=exc.package) from exc
            raise reader.damage(str(exc), digest=piece.digest) from exc

    @staticmethod
    def _is_as_written(data: memoryview) -> bool:
        try:
            header = decode_payload_header(data)
            check_payload(header, data, data[PAYLOAD_HEADER_SIZE + len(header.parameters) :])
        except PackFormatError:
            return False
        return True

    def find_payload(self, digest: bytes, *, prove: bool = True) -> Location | None:
        """A place whose payload header is that of the digest; None if there is none.

        The index is asked first, then, to `prove` that there is none, all tables.
        """
        if self._batch is not None and (pending := self._batch.pending([digest])):
            return pending[digest]
        if found := self._lookup.confirmed([digest]):
            return found[digest]
        return next(self._lookup.tables.locations(digest), None) if prove else None

    def payload(self, digest: bytes, kind: PayloadKind, size: int) -> bytes:
        """One whole payload, raw and verified. size: as declared, bounded before it is taken."""
        if size > MAX_CHUNK_SIZE:
            raise DamagedContentError(f"payload {digest.hex()} declares {size} bytes", digest=digest.hex())
        raw = bytearray(size)
        self.read_pieces([Piece(digest, size, 0, memoryview(raw))], kind)
        return bytes(raw)

    def sizes(self, digests: Iterable[bytes]) -> dict[bytes, int]:
        """Bytes that the payloads take in packs, headers included; unknown ones are left out."""
        found = self._lookup.locate(digests)
        return {digest: places[0].stop - places[0].offset for digest, places in found.items()}

    def codecs(self, digests: Iterable[bytes]) -> dict[str, int]:
        """How many of the payloads have which codec, by its name; unknown payloads are left out."""
        counts = Counter(places[0].codec for places in self._lookup.locate(digests).values())
        return {codec_name(codec): count for codec, count in sorted(counts.items())}

    def _buffer(self, size: int) -> memoryview:
        """A reused buffer of this thread: fresh pages would cost more than the copy."""
        buffer: bytearray | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self._local.buffer = bytearray(max(size, MIB))
        return memoryview(buffer)[:size]

    def _decoder(self) -> Decoder:
        decoder: Decoder | None = getattr(self._local, "decoder", None)
        if decoder is None:
            decoder = self._local.decoder = Decoder()
        return decoder


def _spans(pieces: list[Piece], size: int) -> Iterator[list[Piece]]:
    """Cut into lists of about so many raw bytes, each of one piece at least."""
    span: list[Piece] = []
    left = size
    for piece in pieces:
        if span and piece.size > left:
            yield span
            span, left = [], size
        span.append(piece)
        left -= piece.size
    if span:
        yield span


def _runs(located: list[tuple[Location, Piece]]) -> Iterator[_Run]:
    """Group neighbours of one pack, so that they are read in one call."""
    located.sort(key=lambda item: (item[0].pack_id, item[0].offset))
    run: _Run | None = None
    for location, piece in located:
        near = (
            run is not None
            and run.pack_id == location.pack_id
            and location.offset - run.stop <= _RUN_GAP
            and location.stop - run.start <= _RUN_SIZE
        )
        if run is not None and near:
            run.items.append((location, piece))
            run = run._replace(stop=max(run.stop, location.stop))
        else:
            if run is not None:
                yield run
            run = _Run(location.pack_id, location.offset, location.stop, [(location, piece)])
    if run is not None:
        yield run
