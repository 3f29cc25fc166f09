"""Small chunks, many at once: looked up together, read in few large reads, decoded together, each verified."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, NamedTuple

from kacas.disk.lookup import Lookup
from kacas.errors import DamagedPackError
from kacas.model.codec import MIB, Decoder
from kacas.model.digest import PayloadKind, chunk_digest
from kacas.model.location import Location
from kacas.model.pack_format import PAYLOAD_HEADER_SIZE

if TYPE_CHECKING:
    from kacas.model.digest import Buffer

_CHUNK = int(PayloadKind.CHUNK)
_RUN_SIZE = 4 * MIB  # neighbours are read in one call up to this size
_RUN_GAP = 64 * 1024  # and what lies between them is read along


class _Run(NamedTuple):
    """Chunks of one pack that are read in one call; locations with their digests, in the pack's order."""

    pack_id: bytes
    start: int
    stop: int
    chunks: list[tuple[Location, bytes]]


class SmallChunks:
    """Reads chunks by digest. Thread-safe."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._local = threading.local()

    def begin(self, sizes: Mapping[bytes, int], worker: Executor) -> Callable[[], dict[bytes, Buffer]]:
        """Look chunks up and let the worker read and decode them. What is returned waits for that: their raw bytes.

        sizes: of each chunk, raw, by digest. This is the quick way, which trusts the index for places and the digests
        for content. A chunk that is not whole and good at its first place, or has another size, is left out: `Fetch`
        finds out why. They are verified by the caller's thread: the worker's calls are few and long, and two threads
        that make short ones wait for one another more than they work.
        """
        places = self._lookup.locate(sizes)
        located = sorted(
            (locations[0], digest)
            for digest, locations in places.items()
            if locations[0].kind == _CHUNK and locations[0].raw_size == sizes[digest]
        )
        runs = [(run.chunks, worker.submit(self._read_run, run)) for run in _runs(located)]

        def end() -> dict[bytes, Buffer]:
            return {
                digest: raw
                for chunks, reading in runs
                for (_, digest), raw in zip(chunks, reading.result(), strict=False)
                if raw is not None and chunk_digest(raw) == digest
            }

        return end

    def _read_run(self, run: _Run) -> list[Buffer | None]:
        """What each chunk is decoded to; nothing of a run that cannot be read."""
        try:
            data = self._buffer(run.stop - run.start)
            self._lookup.packs.get(run.pack_id).read_into(data, run.start)
        except (FileNotFoundError, DamagedPackError):
            return []
        payloads, before = [], run.start - PAYLOAD_HEADER_SIZE
        for (_, offset, payload_size, raw_size, parameters_size, _, codec, _), _ in run.chunks:
            start = offset - before + parameters_size
            parameters = bytes(data[start - parameters_size : start]) if parameters_size else b""
            payloads.append((codec, parameters, data[start : start + payload_size], raw_size))
        return self._decoder().decode_many(payloads)

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


def _runs(located: list[tuple[Location, bytes]]) -> Iterator[_Run]:
    pack_id, start, stop = b"", 0, 0
    chunks: list[tuple[Location, bytes]] = []
    for chunk in located:
        other, offset, payload_size, _, parameters_size, *_ = chunk[0]
        end = offset + PAYLOAD_HEADER_SIZE + parameters_size + payload_size
        if chunks and other == pack_id and offset - stop <= _RUN_GAP and end - start <= _RUN_SIZE:
            stop = max(stop, end)
        else:
            if chunks:
                yield _Run(pack_id, start, stop, chunks)
            pack_id, start, stop, chunks = other, offset, end, []
        chunks.append(chunk)
    if chunks:
        yield _Run(pack_id, start, stop, chunks)
