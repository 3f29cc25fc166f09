"""The read pipeline: from a root to verified bytes, in the caller's buffer."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from typing import NamedTuple

from kacas.disk.adopted import AdoptedFiles
from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
from kacas.errors import AdoptedFileError, DamagedContentError, DamagedPackError, KacasError, NewerFormatError
from kacas.model.codec import MAX_CHUNK_SIZE, MIB, DecodeError, Decoder, UnknownCodecError
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.digest import PayloadKind, payload_digest
from kacas.model.location import Location, Piece
from kacas.model.manifest import Child, Manifest, ManifestError, decode_manifest, decode_node
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
_NODES_KEPT = 256  # per content: 10 KiB each


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


class Content:
    """One layout, open for verified reading of any range. Thread-safe."""

    def __init__(
        self, fetch: Fetch, root: bytes, manifest: Manifest | None, size: int, adopted: AdoptedFiles | None
    ) -> None:
        """manifest: None if the root is the digest of the only chunk. adopted: where chunks lie that no pack has."""
        self._fetch = fetch
        self.adopted = adopted
        self.root = root
        self.size = size
        self.manifest = manifest
        self._level = manifest.level if manifest else 0
        self._head = manifest.head if manifest else b""
        self._top = manifest.children if manifest else (Child(root, size),)
        self._nodes: dict[bytes, tuple[Child, ...]] = {}

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start` on. The range must lie inside the content."""
        stop = start + len(out)
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"{start}:{stop} is not inside 0:{self.size}")
        from_head = self._head[start:stop]
        out[: len(from_head)] = from_head
        start += len(from_head)
        if start < stop:
            base = len(self._head)
            view = out[len(from_head) :]
            pieces = list(self._pieces(self._top, self._level, base, start - base, stop - base, view))
            self._fetch.read_pieces(pieces, adopted=self.adopted)

    def _pieces(
        self, children: tuple[Child, ...], level: int, at: int, start: int, stop: int, out: memoryview
    ) -> Iterator[Piece]:
        """Chunks under `children`, which begin `at` in the content, that overlap start:stop (offsets from the first child
        on), with their part of out."""
        ends = list(accumulate(child.size for child in children))
        index = bisect_right(ends, start)
        while index < len(children) and (begin := ends[index] - children[index].size) < stop:
            child = children[index]
            low, high = max(start, begin), min(stop, ends[index])
            part = out[low - start : high - start]
            if level == 0:
                yield Piece(child.digest, child.size, low - begin, part, at + begin)
            else:
                below = self._node(child, level)
                yield from self._pieces(below, level - 1, at + begin, low - begin, high - begin, part)
            index += 1

    def _node(self, child: Child, level: int) -> tuple[Child, ...]:
        children = self._nodes.get(child.digest)
        if children is None:
            raw = _payload_of(self._fetch, child.digest, PayloadKind.NODE)
            try:
                children = decode_node(raw, level=level, size=child.size).children
            except ManifestError as exc:
                raise DamagedContentError(f"node {child.digest.hex()}: {exc}", digest=child.digest.hex()) from exc
            if len(self._nodes) >= _NODES_KEPT:
                self._nodes = {}  # anew rather than in order: a lock would not survive a fork
            self._nodes[child.digest] = children
        return children

    def chunks(self) -> Iterator[Child]:
        """Every chunk; those of a repeated node once."""
        for child, level in self.walk():
            if level == 0:
                yield child

    def walk(self) -> Iterator[tuple[Child, int]]:
        """Every node and chunk below the root with its level (0: a chunk), parents first; a repeated node once.

        A tree of a few nodes that name one another many times declares exabytes: it is not walked for ever.
        """
        stack = [(child, self._level) for child in reversed(self._top)]
        seen: set[bytes] = set()
        while stack:
            child, level = stack.pop()
            if level:
                if child.digest in seen:
                    continue
                seen.add(child.digest)
                stack += [(below, level - 1) for below in reversed(self._node(child, level))]
            yield child, level


def _payload_of(fetch: Fetch, digest: bytes, kind: PayloadKind) -> bytes:
    location = fetch.find_payload(digest)
    if location is None:
        raise fetch.missing("node", digest)
    return fetch.payload(digest, kind, location.raw_size)


def open_content(fetch: Fetch, root: bytes, size: int, adopted: AdoptedFiles | None = None) -> Content:
    """Open the layout with this root; size: what the entry says; adopted: the files that its entries name.

    Raises DamagedContentError, DamagedPackError or NewerFormatError.
    """
    # An adopted file of one chunk has no manifest, and normally nothing of it is in a pack.
    one_chunk = adopted is not None and size <= CHUNK_TARGET
    location = fetch.find_payload(root, prove=not one_chunk)
    if location is None and one_chunk:
        return Content(fetch, root, None, size, adopted)
    if location is None:
        raise fetch.missing("root", root)
    if location.kind == PayloadKind.CHUNK:
        found, content = location.raw_size, Content(fetch, root, None, size, adopted)
    else:
        try:
            manifest = decode_manifest(fetch.payload(root, PayloadKind.MANIFEST, location.raw_size))
        except ManifestError as exc:
            raise DamagedContentError(f"manifest {root.hex()}: {exc}", digest=root.hex()) from exc
        found, content = manifest.size, Content(fetch, root, manifest, size, adopted)
    if found != size:
        raise DamagedContentError(f"root {root.hex()} has {found} bytes, its entry says {size}", digest=root.hex())
    return content
