"""Small chunks, many at once: looked up together, read in few large reads, each decoded in one call and verified."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import NamedTuple

from kacas.disk.lookup import Lookup
from kacas.errors import DamagedPackError
from kacas.model.codec import MIB, DecodeError, Decoder
from kacas.model.digest import PayloadKind, chunk_digest
from kacas.model.location import Location
from kacas.model.pack_format import PAYLOAD_HEADER_SIZE

_RUN_SIZE = 4 * MIB  # neighbours are read in one call up to this size
_RUN_GAP = 64 * 1024  # and what lies between them is read along


class _Run(NamedTuple):
    """Chunks of one pack that are read in one call; digests with their locations, in the pack's order."""

    pack_id: bytes
    start: int
    stop: int
    chunks: list[tuple[bytes, Location]]


class SmallChunks:
    """Reads chunks by digest. Thread-safe."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._local = threading.local()

    def read(self, sizes: Mapping[bytes, int]) -> dict[bytes, bytes]:
        """The raw bytes of chunks; sizes: of each, raw, by digest.

        This is the quick way, which trusts the index for places and the digests for content. A chunk that is not
        whole and good at its first place, or has another size, is left out: `Fetch` finds out why.
        """
        places = self._lookup.locate(sizes)
        located = sorted(
            (
                (location.pack_id, location.offset, digest, location)
                for digest, (location, *_) in places.items()
                if location.kind == PayloadKind.CHUNK and location.raw_size == sizes[digest]
            ),
            key=itemgetter(0, 1),
        )
        found: dict[bytes, bytes] = {}
        for run in _runs(located):
            self._read_run(run, found)
        return found

    def _read_run(self, run: _Run, found: dict[bytes, bytes]) -> None:
        try:
            data = self._buffer(run.stop - run.start)
            self._lookup.packs.get(run.pack_id).read_into(data, run.start)
        except (FileNotFoundError, DamagedPackError):
            return
        decode = self._decoder().decode
        for digest, location in run.chunks:
            stop = location.stop - run.start
            start = stop - location.payload_size
            parameters = bytes(data[start - location.parameters_size : start])
            try:
                raw = decode(location.codec, parameters, data[start:stop], location.raw_size)
            except DecodeError:
                continue
            if chunk_digest(raw) == digest:
                found[digest] = raw

    def _buffer(self, size: int) -> memoryview:
        """A reused buffer of this thread: fresh pages would cost more than the read."""
        buffer: bytearray | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self._local.buffer = bytearray(max(size, MIB))
        return memoryview(buffer)[:size]

    def _decoder(self) -> Decoder:
        decoder: Decoder | None = getattr(self._local, "decoder", None)
        if decoder is None:
            decoder = self._local.decoder = Decoder()
        return decoder


def _runs(located: list[tuple[bytes, int, bytes, Location]]) -> Iterator[_Run]:
    pack_id, start, stop = b"", 0, 0
    chunks: list[tuple[bytes, Location]] = []
    for other, offset, digest, location in located:
        end = offset + PAYLOAD_HEADER_SIZE + location.parameters_size + location.payload_size
        if chunks and other == pack_id and offset - stop <= _RUN_GAP and end - start <= _RUN_SIZE:
            stop = max(stop, end)
        else:
            if chunks:
                yield _Run(pack_id, start, stop, chunks)
            pack_id, start, stop, chunks = other, offset, end, []
        chunks.append((digest, location))
    if chunks:
        yield _Run(pack_id, start, stop, chunks)
