"""Payloads of this store, as they are encoded there, put into packs: each is checked before it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from kacas.content import Content
from kacas.disk.lookup import Lookup
from kacas.errors import DamagedContentError, DamagedPackError
from kacas.model.codec import MIB, Codec
from kacas.model.digest import PayloadKind, payload_digest
from kacas.model.encoder import Encoder
from kacas.model.location import Location, Piece
from kacas.model.pack_format import (
    PAYLOAD_HEADER_SIZE,
    PackFormatError,
    PayloadHeader,
    check_payload,
    decode_payload_header,
)
from kacas_remote.push.packs import RECORD_SIZE, PackBuilder

_RUN_SIZE = 1 * MIB  # that is read in one call: it is still in the processor's cache when it is checked
_WINDOW_SIZE = 4 * MIB  # raw bytes that are encoded anew together
_RAW = int(Codec.RAW)
CHUNK = int(PayloadKind.CHUNK)


class Payload(NamedTuple):
    """One that is to be sent. raw: its raw bytes, if they are at hand; at: where a chunk begins in its content.

    entry: names a content that this payload is all of; none if it is a part.
    """

    digest: bytes
    kind: int
    raw_size: int
    at: int = 0
    raw: bytes = b""
    entry: bytes = b""


@dataclass(slots=True)
class _Run:
    """Payloads that follow one another in a pack of this store. payloads: each with its size there."""

    pack_id: bytes
    start: int
    stop: int
    payloads: list[tuple[Payload, int]]


OnLanded = Callable[[Sequence[Payload]], None]


class LocalPayloads:
    """Copies payloads of this store into packs. Used by one thread."""

    def __init__(self, lookup: Lookup, room_for: Callable[[int], PackBuilder]) -> None:
        """room_for: the pack that has room for a payload of so many bytes, and for its entry."""
        self._lookup = lookup
        self._room_for = room_for
        self._encoder = Encoder()

    def copy(
        self,
        payloads: Sequence[Payload],
        content: Content | None,
        landed: OnLanded,
        places: Mapping[bytes, list[Location]] | None = None,
    ) -> None:
        """Put them into packs, in order. content: which they are parts of, to be read from if there is no good copy.

        landed: is told those that were put into a pack, many at once. places: where they were found just now. Raises
        DamagedError, AdoptedFileError, MissingPackageError, for one that is nowhere good.
        """
        if places is None:
            places = self._lookup.locate([payload.digest for payload in payloads])
        window: list[Payload] = []
        run = _Run(b"", 0, 0, [])
        for payload in payloads:
            found = places.get(payload.digest)
            if not found or found[0].raw_size != payload.raw_size:
                self._copy_run(run, content, landed)
                run = _Run(b"", 0, 0, [])
                window.append(payload)
                if sum(one.raw_size for one in window) >= _WINDOW_SIZE:
                    window = self._encode_anew(window, content, landed)
                continue
            if window:
                window = self._encode_anew(window, content, landed)
            place = found[0]
            start, stop = place.offset, place.stop
            if run.stop != start or run.pack_id != place.pack_id or stop - run.start > _RUN_SIZE:
                self._copy_run(run, content, landed)
                run = _Run(place.pack_id, start, start, [])
            run.payloads.append((payload, stop - start))
            run.stop = stop
        self._copy_run(run, content, landed)
        self._encode_anew(window, content, landed)

    def _copy_run(self, run: _Run, content: Content | None, landed: OnLanded) -> None:
        at = 0
        while at < len(run.payloads):
            payload, size = run.payloads[at]
            pack = self._room_for(size + len(payload.entry))
            count = _count_with_room(run.payloads, at, pack)
            data, done = self._read(run, at, count, pack), 0
            good: list[Payload] = []
            for payload, size in run.payloads[at : at + count]:
                header = _checked(data[done : done + size], payload)
                if header is None:
                    break
                pack.take(header)
                good.append(payload)
                done += size
            if good:
                landed(good)
            at += len(good)
            if len(good) < count:
                payload, _ = run.payloads[at]
                self._copy_from_elsewhere(payload, content)
                landed([payload])
                at += 1  # the next ones are read anew: the place is another's

    def _read(self, run: _Run, at: int, count: int, pack: PackBuilder) -> memoryview:
        """So many payloads of the run, from this one on, in the pack's next place; nothing if they cannot be read."""
        place = pack.place(sum(size for _, size in run.payloads[at : at + count]))
        try:
            self._lookup.packs.get(run.pack_id).read_into(place, run.stop - sum(size for _, size in run.payloads[at:]))
        except (FileNotFoundError, DamagedPackError):
            return memoryview(b"")
        return place

    def _copy_from_elsewhere(self, payload: Payload, content: Content | None) -> None:
        """From another pack, or encoded anew."""
        places = [*self._lookup.locate([payload.digest]).get(payload.digest, ())]
        for place in dict.fromkeys([*places, *islice(self._lookup.tables.locations(payload.digest), 64)]):
            if self._copy_from(place, payload):
                return
            self._lookup.mark_damaged(payload.digest, place)
        self._encode_one(payload, self._raw_of(payload, content))

    def _copy_from(self, place: Location, payload: Payload) -> bool:
        size = place.stop - place.offset
        pack = self._room_for(size + len(payload.entry))
        data = pack.place(size)
        try:
            self._lookup.packs.get(place.pack_id).read_into(data, place.offset)
        except (FileNotFoundError, DamagedPackError):
            return False
        header = _checked(data, payload)
        if header is None:
            return False
        pack.take(header)
        return True

    def _raw_of(self, payload: Payload, content: Content | None) -> memoryview:
        if payload.raw or not payload.raw_size:
            return memoryview(payload.raw)
        if content is None:
            raise DamagedContentError(
                f"chunk {payload.digest.hex()} has no good copy in this store; store the content again",
                digest=payload.digest.hex(),
            )
        piece = Piece(payload.digest, payload.raw_size, 0, memoryview(bytearray(payload.raw_size)), payload.at)
        content.read_chunks([piece])
        return piece.out

    def _encode_anew(self, window: list[Payload], content: Content | None, landed: OnLanded) -> list[Payload]:
        """What is in no pack, as of a linked file. Returns an empty window."""
        if window:
            pieces = [
                Piece(one.digest, one.raw_size, 0, memoryview(bytearray(one.raw_size)), one.at)
                for one in window
                if not one.raw
            ]
            if pieces and content is not None:
                content.read_chunks(pieces)
            raws = {piece.digest: piece.out for piece in pieces}
            for one in window:
                self._encode_one(one, raws[one.digest] if content is not None and not one.raw else memoryview(one.raw))
                landed([one])
        return []

    def _encode_one(self, payload: Payload, raw: memoryview) -> None:
        codec, parameters, encoded = self._encoder.encode(raw)
        header = PayloadHeader(payload.kind, codec, len(encoded), len(raw), payload.digest, parameters)
        self._room_for(header.total_size + len(payload.entry)).write(header, encoded)


def _count_with_room(payloads: list[tuple[Payload, int]], at: int, pack: PackBuilder) -> int:
    """How many from this one on the pack takes, with their entries: the first of them in any case."""
    left, count = pack.room(0), 0
    for payload, size in islice(payloads, at, None):
        left -= size + len(payload.entry) + RECORD_SIZE
        if count and left < 0:
            break
        count += 1
    return count


def _checked(data: memoryview, payload: Payload) -> PayloadHeader | None:
    """The header of a payload that is exactly what was written under this digest; None if it is not."""
    try:
        header = decode_payload_header(data)
        if (header.digest, header.kind, header.raw_size) != (payload.digest, payload.kind, payload.raw_size):
            return None
        if header.total_size != len(data):
            return None
        encoded = data[PAYLOAD_HEADER_SIZE + len(header.parameters) :]
        check_payload(header, data, encoded)
    except PackFormatError:
        return None
    if header.codec == _RAW and payload_digest(header.kind, encoded) != payload.digest:
        return None
    return header
