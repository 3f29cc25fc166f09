"""Pull of small contents, each one chunk: looked up, asked for, decoded and named many at once, each proved."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

from kacas.ahead import Ahead
from kacas.disk.batch import Batch
from kacas.disk.pack_writer import Framed
from kacas.model.codec import MIB, Decoder
from kacas.model.digest import ID_SIZE, PayloadKind, chunk_digest, new_sha1
from kacas.model.entry import Kind, Origin, encode_members
from kacas.model.pack_format import (
    PAYLOAD_HEADER_SIZE,
    PackFormatError,
    PayloadHeader,
    check_payload,
    decode_payload_header,
)
from kacas.upstream import Upstream

if TYPE_CHECKING:
    from kacas.model.digest import Buffer

_GROUP_SIZE = 4 * MIB  # raw bytes that are asked for together
_GROUP_COUNT = 512
_CHUNK = int(PayloadKind.CHUNK)  # comparing with a member of an enumeration takes twice as long

Small = tuple[bytes, bytes, int]
"""A content: its SHA-1, root and size. Without names for them: Python's garbage collector soon leaves plain tuples alone."""


class _Came(NamedTuple):
    """Chunks as they came, each its header, payload, and header and payload together; and what they are decoded to, if that
    can be done. Neither checks nor digests are compared."""

    chunks: list[tuple[PayloadHeader, memoryview, memoryview]]
    raws: list[Buffer | None]


class SmallPull:
    """Copies into one batch. Used by one thread."""

    def __init__(self, upstream: Upstream, batch: Batch, asking: int, step: Callable[[int], None]) -> None:
        """asking: threads that ask. step: see Pull."""
        self._upstream = upstream
        self._batch = batch
        self._asking = asking
        self._step = step
        self._decoder = Decoder()  # of the one thread that decodes

    def contents(self, sizes: dict[bytes, int], kind: Kind) -> set[bytes]:
        """See `Pull.small`."""
        done: set[bytes] = set()
        done_size = 0
        roots = self._upstream.roots(sizes)
        groups = _groups((sha1, root, sizes[sha1]) for sha1, root in roots.items())

        def ask(group: list[Small]) -> dict[bytes, memoryview]:
            return self._upstream.get_many([root for _, root, _ in group])

        # Beside us is done what takes few long calls, to fetch and to decode. To prove takes many short ones: two threads that
        # make those wait for one another.
        with Ahead(self._asking, "kacas-ask") as asking, Ahead(1, "kacas-pull") as decoding:
            for group, came in decoding.map(self._decode, asking.begun(ask, groups)):
                taken = self._take(group, came, kind)
                done |= taken
                done_size += sum(sizes[sha1] for sha1 in taken)
                self._step(done_size)
        return done

    def _decode(self, asked: tuple[list[Small], Future[dict[bytes, memoryview]]]) -> tuple[list[Small], _Came]:
        """The group, and those of its chunks that came. Nothing is proved yet."""
        group, answer = asked
        found = answer.result()
        self._batch.write_gathered()  # of a group before, while others do Python's work
        chunks: list[tuple[PayloadHeader, memoryview, memoryview]] = []
        for _, root, size in group:
            if (data := found.pop(root, None)) is not None:
                try:
                    chunks.append((*named(data, root, size, _CHUNK), data))
                except PackFormatError:
                    continue
        raws = self._decoder.decode_many(
            [(header.codec, header.parameters, payload, header.raw_size) for header, payload, _ in chunks]
        )
        return group, _Came(chunks, raws)

    def _take(self, group: list[Small], came: _Came, kind: Kind) -> set[bytes]:
        good: dict[bytes, Buffer] = {}
        payloads: list[Framed] = []
        for (header, payload, data), raw in zip(*came, strict=True):
            if raw is not None and chunk_digest(raw) == header.digest:
                try:
                    check_payload(header, data, payload)
                except PackFormatError:
                    continue
                good[header.digest] = raw
                payloads.append((header, (data,)))
        append_new(self._batch, payloads, lasting=True)
        layouts = [one for one in group if (raw := good.get(one[1])) is not None and new_sha1(raw).digest() == one[0]]
        ids = secrets.token_bytes(ID_SIZE * len(layouts))
        entries = encode_members(layouts, kind, time.time_ns(), ids, Origin.FETCHED)
        self._batch.add_members({sha1: entry for (sha1, *_), entry in zip(layouts, entries, strict=True)})
        return {sha1 for sha1, *_ in layouts}


def _groups(contents: Iterable[Small]) -> Iterator[list[Small]]:
    """Contents of so many bytes at most, or one."""
    group: list[Small] = []
    room = _GROUP_SIZE
    for one in contents:
        room -= one[2]
        if group and (room < 0 or len(group) >= _GROUP_COUNT):
            yield group
            group, room = [], _GROUP_SIZE - one[2]
        group.append(one)
    if group:
        yield group


def append_new(batch: Batch, payloads: list[Framed], *, lasting: bool = False) -> None:
    """Those that nobody has appended meanwhile. lasting: see `Batch.append_framed`."""
    pending = batch.pending([header.digest for header, _ in payloads])
    new = [payload for payload in payloads if payload[0].digest not in pending]
    if new:
        batch.append_framed(new, lasting=lasting)


def named(data: memoryview, digest: bytes, size: int, kind: int) -> tuple[PayloadHeader, memoryview]:
    """Header and payload, of so many raw bytes, under this digest. Raises PackFormatError if they are another's."""
    header = decode_payload_header(data)
    if (header.digest, header.kind, header.raw_size) != (digest, kind, size):
        raise PackFormatError("another payload is there")
    payload = data[PAYLOAD_HEADER_SIZE + len(header.parameters) :]
    if len(payload) != header.payload_size:
        raise PackFormatError("the payload's size is not what was expected")
    return header, payload
