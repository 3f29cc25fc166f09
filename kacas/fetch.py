"""The read pipeline: from a root to verified bytes, in the caller's buffer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kacas.disk.adopted import AdoptedFiles
from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
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

_RUN_SIZE = 4 * MIB  # neighbouring payloads are read in one call up to this size
_RUN_GAP = 64 * 1024  # and what lies between them is read along
_PARALLEL_ABOVE = 1 * MIB  # below this a thread costs more than it saves
_ADOPTED_PIECES = 16  # of an adopted file are read by one thread, 4 MiB


class _Run(NamedTuple):
    """Payloads of one pack that are read in one call."""

    pack_id: bytes
    start: int
    stop: int
    items: list[tuple[Location, Piece]]


class Fetch:
    """Reads payloads and verifies them. batch: its unpublished pack is read too (to compare new with old)."""

    def __init__(self, lookup: Lookup, threads: int, batch: Batch | None = None) -> None:
        self._lookup = lookup
        self._threads = threads
        self._batch = batch
        self._local = threading.local()

    @property
    def threads(self) -> int:
        """That may decode for one call."""
        return self._threads

    @property
    def cache(self) -> Path:
        """The store's host-local directory."""
        return self._lookup.cache

    def for_one_thread(self) -> Fetch:
        """The same, for callers that have threads of their own."""
        return Fetch(self._lookup, 1, self._batch)

    def read_pieces(
        self, pieces: Sequence[Piece], kind: PayloadKind = PayloadKind.CHUNK, adopted: AdoptedFiles | None = None
    ) -> None:
        """Fill every piece with verified bytes. adopted: where those lie that no pack has.

        Raises DamagedPackError, DamagedContentError or AdoptedFileError.
        """
        failed: list[Piece] = []
        located: list[tuple[Location, Piece]] = []
        hints = self._lookup.locate({piece.digest for piece in pieces})
        for piece in pieces:
            if locations := hints.get(piece.digest):
                located.append((locations[0], piece))
            else:
                failed.append(piece)
        parts: list[Callable[[], list[Piece]]] = [partial(self._read_run, run, kind) for run in _runs(located)]
        if adopted is not None:
            # Before the tables are searched for them: they are in no pack, normally.
            absent, failed = failed, []
            groups = (absent[at : at + _ADOPTED_PIECES] for at in range(0, len(absent), _ADOPTED_PIECES))
            parts += [partial(adopted.fill, group) for group in groups]
        if len(parts) > 1 and self._threads > 1 and sum(len(p.out) for p in pieces) > _PARALLEL_ABOVE:
            with ThreadPoolExecutor(self._threads, "kacas-decode") as pool:
                for missed in pool.map(lambda part: part(), parts):
                    failed += missed
        else:
            for part in parts:
                failed += part()
        for piece in failed:
            self._read_anywhere(piece, kind, adopted)

    def _read_run(self, run: _Run, kind: PayloadKind) -> list[Piece]:
        """Returns the pieces that were not good here."""
        try:
            reader = self._lookup.packs.get(run.pack_id)
            data = self._buffer("run", run.stop - run.start)
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
        whole = len(piece.out) == piece.size
        raw = piece.out if whole else self._buffer("raw", piece.size)
        self._decoder().decode_into(header.codec, header.parameters, payload, raw)
        if payload_digest(kind, raw) != piece.digest:
            raise PackFormatError("its bytes do not have the digest that they are stored under")
        if not whole:
            piece.out[:] = raw[piece.skip : piece.skip + len(piece.out)]

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
        data = self._buffer("run", location.stop - location.offset)
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

    def _buffer(self, name: str, size: int) -> memoryview:
        """A reused buffer of this thread: fresh pages would cost more than the copy."""
        buffer: bytearray | None = getattr(self._local, name, None)
        if buffer is None or len(buffer) < size:
            buffer = bytearray(max(size, MIB))
            setattr(self._local, name, buffer)
        return memoryview(buffer)[:size]

    def _decoder(self) -> Decoder:
        decoder: Decoder | None = getattr(self._local, "decoder", None)
        if decoder is None:
            decoder = self._local.decoder = Decoder()
        return decoder


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
