"""Read through: what a store has not comes from a source behind it, many payloads at once, is verified as ever, and kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Protocol

from kacas.decoded import DecodedChunks
from kacas.disk.adopted import AdoptedFiles
from kacas.disk.lookup import Lookup
from kacas.errors import KacasError
from kacas.fetch import Fetch
from kacas.model.codec import MIB, DecodeError
from kacas.model.digest import PayloadKind
from kacas.model.location import Declared
from kacas.model.pack_format import PAYLOAD_HEADER_SIZE, PackFormatError, PayloadHeader, decode_payload_header
from kacas.spans import Spans, Wanted
from kacas.workers import Workers

IN_FLIGHT = 8  # threads that ask a source: they wait for answers more than they work
_LEAST_SPAN, _MOST_SPAN = MIB, 4 * MIB  # raw bytes that one of them asks for at once
_TRIES = 3

Payload = tuple[PayloadHeader, bytes | memoryview]


class ChunkSource(Protocol):
    """Gives payloads by their digests. It need not be trusted: who asks decodes them and compares the digests."""

    def get_many(self, digests: Sequence[bytes]) -> dict[bytes, memoryview]:
        """Payload headers, parameters and payloads, as a pack has them; those that are not at hand are left out."""
        ...


class PartSource(ChunkSource, Protocol):
    """The source of one layout's payloads. Thread-safe, safe after fork. It may raise StoreError."""

    def declared(self, digest: bytes) -> Declared | None:
        """What is said of the payload, or of what will be one, without reading it where that can be avoided."""
        ...

    def expect(self, digest: bytes) -> None:
        """This node was had elsewhere: what is below it may be asked for."""
        ...

    def read_tree(self) -> None:
        """All of it will be asked for: what can be had of the places of chunks in few large requests may be read now."""
        ...

    def lies(self, digest: bytes) -> tuple[str, int] | None:
        """What it is a part of there, and how many bytes it takes in it, if that is known without asking."""
        ...

    def reject(self, digest: bytes, why: str) -> None:
        """What was given is not this payload: the next time, it is to come from another place, or to be left out."""
        ...

    def error(self, digest: bytes) -> KacasError:
        """Why the payload is not to be had; raise it."""
        ...


class Kept(Protocol):
    """Keeps what was read."""

    def get(self, digests: Collection[bytes]) -> dict[bytes, memoryview]:
        """Those that are on their way into the store."""
        ...

    def keep(self, payloads: Sequence[Payload]) -> None:
        """Take verified payloads; their buffers are free when this returns."""
        ...


class ReadThrough(Fetch):
    """A Fetch of one layout: what its store has not is asked of a source, in so few and large requests as can be."""

    def __init__(
        self, lookup: Lookup, source: PartSource, kept: Kept, *, workers: Workers, decoded: DecodedChunks, room: int
    ) -> None:
        """workers, decoded: which others of the store use, too. room: see Fetch."""
        self._begin(lookup, workers, decoded, room)
        self.source = source
        self._kept = kept

    def read(
        self,
        wanted: Iterable[Wanted],
        size: int,
        kind: PayloadKind = PayloadKind.CHUNK,
        adopted: AdoptedFiles | None = None,
    ) -> None:
        """See Fetch."""
        if size <= _LEAST_SPAN:
            self._read_span(self._located(wanted), kind, adopted)
            return
        spans = Spans(wanted, max(_LEAST_SPAN, min(_MOST_SPAN, size // self._workers.threads)))
        self._workers.share(partial(self._read_spans, spans, kind, adopted))

    def _read_behind(self, wanted: list[Wanted], kind: PayloadKind) -> list[Wanted]:
        """See Fetch. What is wrong is rejected, and asked for again, as long as there is another place to have it from."""
        good: dict[bytes, Payload] = {}
        absent: list[Wanted] = []
        for _ in range(_TRIES):
            digests = list(dict.fromkeys(one.digest for one in wanted))
            near = self._kept.get(digests)
            far = self.source.get_many([digest for digest in digests if digest not in near])
            wrong: list[Wanted] = []
            for one in wanted:
                data = near.get(one.digest, far.get(one.digest))
                if data is None:
                    absent.append(one)
                    continue
                piece = self._place_for(one)
                try:
                    self._decode(data, piece, kind)
                except (PackFormatError, DecodeError) as exc:
                    self.source.reject(one.digest, str(exc))
                    wrong.append(one)
                    continue
                self._hand_over(one, piece)
                if one.digest in far:
                    good[one.digest] = _split(data)
            wanted = wrong
            if not wanted:
                break
        self._kept.keep(list(good.values()))
        return absent + wanted

    def declared(self, digest: bytes, *, prove: bool = True) -> Declared | None:
        """As of the store, or as the source says. Not every table is searched, as the source has what is not in the index."""
        if (said := super().declared(digest, prove=False)) is not None:
            if said.kind != PayloadKind.CHUNK:
                self.source.expect(digest)
            return said
        return self.source.declared(digest)

    def missing(self, what: str, digest: bytes) -> KacasError:
        """See Fetch: why the source does not give it."""
        return self.source.error(digest)


def _split(data: memoryview) -> Payload:
    header = decode_payload_header(data)
    return header, data[PAYLOAD_HEADER_SIZE + len(header.parameters) :]
