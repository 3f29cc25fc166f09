"""The read pipeline: from a root to verified bytes, in the caller's buffer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kacas.decoded import DecodedChunks
from kacas.desk import Desk
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
    MissingCodecError,
    UnknownCodecError,
    codec_name,
)
from kacas.model.digest import PayloadKind, payload_digest
from kacas.model.location import Declared, Location, Piece
from kacas.model.pack_format import (
    FORMAT_VERSION,
    PAYLOAD_HEADER_SIZE,
    PackFormatError,
    check_payload,
    decode_payload_header,
)
from kacas.spans import Part, Place, Run, Spans, Wanted, runs_of
from kacas.workers import Workers

_LEAST_SPAN, _MOST_SPAN = (
    512 * 1024,
    4 * MIB,
)  # raw bytes that one thread looks up, reads and decodes before it takes more
_PARALLEL_ABOVE = 1 * MIB  # below this a second thread costs more than it saves


class _Span(NamedTuple):
    """Chunks that were looked up. absent: those that the index does not know."""

    runs: list[tuple[PackReader | None, Run]]
    absent: list[Wanted]


class Fetch:
    """Reads payloads and verifies them. Thread-safe."""

    def __init__(self, lookup: Lookup, threads: int, batch: Batch | None = None, *, room: int, kept: int = 0) -> None:
        """batch: its unpublished pack is read too (to compare new with old). room: bytes of memory for what its readers put in
        order. kept: bytes of decoded chunks that may be kept because only a part of them was asked for."""
        self._begin(lookup, Workers(threads, "kacas-decode"), DecodedChunks(kept), room, batch)

    def _begin(
        self, lookup: Lookup, workers: Workers, decoded: DecodedChunks, room: int, batch: Batch | None = None
    ) -> None:
        self._lookup = lookup
        self._workers = workers
        self.room = room
        self.decoded = decoded
        self._batch = batch
        self._desk = Desk()

    @property
    def cache(self) -> Path:
        """The store's host-local directory."""
        return self._lookup.cache

    def close(self) -> None:
        """Let the threads end. What is read later has new ones."""
        self._workers.close()

    def read_pieces(
        self, pieces: Iterable[Piece], kind: PayloadKind = PayloadKind.CHUNK, adopted: AdoptedFiles | None = None
    ) -> None:
        """Fill every piece with verified bytes. adopted: where those lie that no pack has.

        Raises DamagedPackError, DamagedContentError or AdoptedFileError.
        """
        wanted: list[Wanted] = []
        size = 0
        # Of what is adopted nothing is kept: that its file is gone, or changed, is told by the next read.
        keep = adopted is None
        for piece in pieces:
            size += piece.size
            if len(piece.out) == piece.size:
                wanted.append(piece)
            else:
                wanted.append(Part(piece.digest, piece.size, partial(_copy_part, piece), keep, piece.at))
        self.read(wanted, size, kind, adopted)

    def read_piece(self, piece: Piece, adopted: AdoptedFiles | None = None) -> None:
        """As `read_pieces`, of one chunk: where it is kept, or good at the first place that is tried, nothing is planned."""
        if adopted is not None or not self._read_at_once(piece):
            self.read_pieces([piece], adopted=adopted)

    def _read_at_once(self, piece: Piece) -> bool:
        """False if it must be looked for."""
        wanted: Wanted = piece
        if len(piece.out) != piece.size:
            wanted = Part(piece.digest, piece.size, partial(_copy_part, piece), True, piece.at)
            if self.decoded.use(wanted.digest, wanted.size, wanted.use):
                return True
        places = self._lookup.locate((piece.digest,))
        if not places:
            return False
        first = places[piece.digest][0]
        place = Place(first.pack_id, first.offset, first.stop, wanted)
        run = Run(place.pack_id, place.start, place.stop, [place])
        return not self._read_run(self._reader(place.pack_id), run, PayloadKind.CHUNK)

    def read(
        self,
        wanted: Iterable[Wanted],
        size: int,
        kind: PayloadKind = PayloadKind.CHUNK,
        adopted: AdoptedFiles | None = None,
    ) -> None:
        """Read whole pieces and parts, as `read_pieces`. size: about the raw bytes of all of them."""
        threads = self._workers.threads
        if size <= _PARALLEL_ABOVE:
            self._read_span(self._located(wanted), kind, adopted)
            return
        spans = Spans(wanted, max(_LEAST_SPAN, min(_MOST_SPAN, size // (2 * threads))))
        self._workers.share(partial(self._read_spans, spans, kind, adopted))

    def _read_spans(self, spans: Spans, kind: PayloadKind, adopted: AdoptedFiles | None) -> None:
        """Until none is left. Spans are shared with other threads, which stop when this one fails."""
        try:
            mine = self._next_span(spans)
            while mine is not None:
                # The disk fetches what comes next while this is decoded.
                upcoming = self._next_span(spans)
                self._read_span(mine, kind, adopted)
                mine = upcoming
        except BaseException:
            spans.stop()
            raise

    def _next_span(self, spans: Spans) -> _Span | None:
        wanted = spans.next()
        if wanted is None:
            return None
        span = self._located(wanted)
        for reader, run in span.runs:
            if reader is not None:
                reader.read_ahead(run.start, run.stop - run.start)
        return span

    def _located(self, wanted: Iterable[Wanted]) -> _Span:
        """Parts of chunks that are kept are used at once."""
        left = [
            one
            for one in wanted
            if isinstance(one, Piece) or not (one.keep and self.decoded.use(one.digest, one.size, one.use))
        ]
        if not left:
            return _Span([], [])
        hints = self._lookup.locate([one.digest for one in left])
        places: list[Place] = []
        absent: list[Wanted] = []
        for one in left:
            if locations := hints.get(one.digest):
                first = locations[0]
                places.append(Place(first.pack_id, first.offset, first.stop, one))
            else:
                absent.append(one)
        return _Span([(self._reader(run.pack_id), run) for run in runs_of(places)], absent)

    def _reader(self, pack_id: bytes) -> PackReader | None:
        try:
            return self._lookup.packs.get(pack_id)
        except (FileNotFoundError, DamagedPackError):
            return None

    def _read_span(self, span: _Span, kind: PayloadKind, adopted: AdoptedFiles | None) -> None:
        failed = span.absent
        if adopted is not None and failed:
            # Before the tables are searched for them: what is adopted is in no pack, normally.
            failed = self._read_adopted(failed, adopted)
        for reader, run in span.runs:
            failed = failed + self._read_run(reader, run, kind)
        for one in self._read_behind(failed, kind) if failed else ():
            self._read_anywhere(one, kind, adopted)

    def _read_behind(self, wanted: list[Wanted], kind: PayloadKind) -> list[Wanted]:
        """From what is behind this store, if that is the business of this. Returns those that are not to be had there."""
        return wanted

    def _read_adopted(self, wanted: list[Wanted], adopted: AdoptedFiles) -> list[Wanted]:
        """Returns those that no adopted file has."""
        pieces = [one for one in wanted if isinstance(one, Piece)]
        failed: list[Wanted] = list(adopted.fill(pieces) if pieces else ())
        for one in wanted:
            if isinstance(one, Part):
                piece = self._place_for(one)
                if adopted.fill([piece]):
                    failed.append(one)
                else:
                    self._hand_over(one, piece)
        return failed

    def _place_for(self, wanted: Wanted) -> Piece:
        """The whole chunk, and where it is decoded."""
        if isinstance(wanted, Piece):
            return wanted
        digest, size, _, keep, at = wanted
        out = self.decoded.buffer(size) if keep and size <= self.decoded.budget else self._desk.raw(size)
        return Piece(digest, size, 0, out, at)

    def _hand_over(self, wanted: Wanted, piece: Piece) -> None:
        """The piece that `_place_for` made of it is filled."""
        if isinstance(wanted, Part):
            wanted.use(piece.out)
            if wanted.keep and wanted.size <= self.decoded.budget:
                self.decoded.keep(wanted.digest, piece.out)

    def _read_run(self, reader: PackReader | None, run: Run, kind: PayloadKind) -> list[Wanted]:
        """Returns what was not good here."""
        data = self._desk.encoded(run.stop - run.start)
        try:
            if reader is None:
                raise FileNotFoundError
            reader.read_into(data, run.start)
        except (FileNotFoundError, DamagedPackError):
            # Missing, cut short or unreadable: each is tried alone, and elsewhere.
            return [place.wanted for place in run.places]
        failed = []
        for _, start, stop, one in run.places:
            piece = self._place_for(one)
            try:
                self._decode(data[start - run.start : stop - run.start], piece, kind)
            except (PackFormatError, DecodeError):
                failed.append(one)
            else:
                self._hand_over(one, piece)
        return failed

    def _decode(self, data: memoryview, piece: Piece, kind: PayloadKind) -> None:
        """data: payload header to payload end. Raises PackFormatError or DecodeError; `out` is then undefined."""
        header = decode_payload_header(data)
        if header.digest != piece.digest or header.kind != kind or header.raw_size != piece.size:
            raise PackFormatError("another payload is there")
        payload = data[PAYLOAD_HEADER_SIZE + len(header.parameters) :]
        if len(payload) != header.payload_size:
            raise PackFormatError("the payload's size is not what was expected")
        self._desk.decoder.decode_into(header.codec, header.parameters, payload, piece.out)
        if payload_digest(kind, piece.out) != piece.digest:
            raise PackFormatError("its bytes do not have the digest that they are stored under")

    def _read_anywhere(self, wanted: Wanted, kind: PayloadKind, adopted: AdoptedFiles | None) -> None:
        """The slow and thorough way, for what was not where the index said."""
        piece = self._place_for(wanted)
        self._fill_from_anywhere(piece, kind, adopted)
        self._hand_over(wanted, piece)

    def _fill_from_anywhere(self, piece: Piece, kind: PayloadKind, adopted: AdoptedFiles | None) -> None:
        """From every location of every table."""
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
        data = self._desk.encoded(location.stop - location.offset)
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

    def declared(self, digest: bytes, *, prove: bool = True) -> Declared | None:
        """Kind and raw size of a payload that `find_payload` finds."""
        location = self.find_payload(digest, prove=prove)
        return Declared(location.kind, location.raw_size) if location is not None else None

    def tree_payload(self, digest: bytes, kind: PayloadKind) -> bytes:
        """A manifest or node, raw and verified."""
        declared = self.declared(digest)
        if declared is None:
            raise self.missing("node", digest)
        return self.payload(digest, kind, declared.raw_size)

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


def _copy_part(piece: Piece, raw: memoryview) -> None:
    """Fill a piece from its whole chunk."""
    piece.out[:] = raw[piece.skip : piece.skip + len(piece.out)]
