"""Packing: what the bucket lacks of contents is put into packs and sent, with entries of what is whole in a pack."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from kacas.content import Content
from kacas.disk.lookup import Lookup
from kacas.errors import DamagedError
from kacas.model.digest import ID_SIZE
from kacas.model.entry import Action, Entry, Kind, encode_members
from kacas.model.location import Location
from kacas.model.manifest import Child
from kacas_remote.push.inventory import Inventory
from kacas_remote.push.local import CHUNK, LocalPayloads, Payload
from kacas_remote.push.packs import PackBuilder
from kacas_remote.push.plan import Target
from kacas_remote.push.sending import Landed, Sender
from kacas_remote.push.summary import PushSummary

_NODES = 64  # of 10 KiB each
GROUP = 1024  # chunks that are looked for together


class Packing:
    """Used by one thread."""

    def __init__(
        self, lookup: Lookup, inventory: Inventory, sender: Sender, remote_id: bytes, summary: PushSummary
    ) -> None:
        self._inventory = inventory
        self._sender = sender
        self._remote_id = remote_id
        self._summary = summary
        self._payloads = LocalPayloads(lookup, self._room_for)
        self._pack: PackBuilder | None = None
        self._used: set[bytes] = set()  # packs that have parts of the content at hand
        self._late: list[bytes] = []  # entries of what is not whole in one pack that is new

    def content(self, target: Target, content: Content, step: Callable[[int], None]) -> None:
        """Send what is missing of one layout, and name it. step: is called with the raw bytes that are done."""
        self._used = set()
        whole = True
        nodes = content.tree()
        while part := [Payload(digest, int(kind), len(raw), 0, raw) for digest, kind, raw in islice(nodes, _NODES)]:
            whole &= self._send(part, content)
        done = len(content.head)
        for group in _groups(_chunks(content)):
            whole &= self._send([Payload(child.digest, CHUNK, child.size, at) for at, child in group], content)
            done += sum(child.size for _, child in group)
            step(min(done, content.size))
        if target.has_recipe and not target.is_member:
            return
        entry = entry_of(target, content.root)
        pack = self._pack
        if whole and pack is not None and self._used == {pack.pack_id} and pack.room(0) >= len(entry):
            pack.name(entry)
        else:
            self._late.append(entry)

    def small(self, contents: Sequence[tuple[Target, bytes]], places: Mapping[bytes, list[Location]]) -> list[Target]:
        """Send contents that are one chunk each, with their roots, and name them. places: of the chunks. Returns those whose
        chunk is not good."""
        missing = self._inventory.missing(root for _, root in contents)
        new: dict[bytes, tuple[Target, Payload]] = {}
        members = [(target.sha1, root, target.size) for target, root in contents if _is_nameless(target)]
        ids = secrets.token_bytes(ID_SIZE * len(members))
        nameless = iter(encode_members(members, Kind.FILE, time.time_ns(), ids))
        for target, root in contents:
            if _is_nameless(target):
                entry = next(nameless)
            else:
                entry = b"" if target.has_recipe else entry_of(target, root)
            if root in missing and root not in new:
                new[root] = target, Payload(root, CHUNK, target.size, entry=entry)
            else:
                self._summary.chunks_there += 1
                self._summary.raw_size_there += target.size
                self._late += [entry] if entry else []
        landed: set[bytes] = set()

        def land(payloads: Sequence[Payload]) -> None:
            landed.update(payload.digest for payload in payloads)
            self._landed(payloads)

        bad: list[Target] = []
        try:
            self._payloads.copy([payload for _, payload in new.values()], None, land, places)
        except DamagedError:
            for target, payload in new.values():
                if payload.digest not in landed:
                    try:
                        self._payloads.copy([payload], None, land)
                    except DamagedError:
                        bad.append(target)
        return bad

    def _send(self, payloads: list[Payload], content: Content) -> bool:
        """Whether none of them was there already."""
        missing = self._inventory.missing(payload.digest for payload in payloads)
        new: list[Payload] = []
        for payload in payloads:
            if payload.digest in missing:
                missing.discard(payload.digest)
                new.append(payload)
            else:
                self._summary.chunks_there += 1
                self._summary.raw_size_there += payload.raw_size
        self._payloads.copy(new, content, self._landed)
        return len(new) == len(payloads)

    def _landed(self, payloads: Sequence[Payload]) -> None:
        assert self._pack is not None
        self._inventory.sent(payload.digest for payload in payloads)
        self._used.add(self._pack.pack_id)
        self._summary.chunks_sent += len(payloads)
        for payload in payloads:
            if payload.entry:
                self._pack.name(payload.entry)

    def _room_for(self, size: int) -> PackBuilder:
        if self._pack is not None and self._pack.room() < size:
            self._ship()
        if self._pack is None:
            buffer = self._sender.buffer()
            self._note_arrived(self._sender.landed())
            self._pack = PackBuilder(buffer, self._remote_id, self._sender.pack_size)
        return self._pack

    def _ship(self) -> None:
        pack, self._pack = self._pack, None
        if pack is not None:
            self._summary.chunk_size += pack.payload_size
            self._sender.send(pack)

    def _note_arrived(self, packs: list[Landed]) -> None:
        for pack in packs:
            self._summary.packs += 1
            self._inventory.arrived(pack)

    def begin_again(self) -> None:
        """What was to be named waits for packs that went meanwhile."""
        self._late = []

    def settle(self) -> None:
        """Send the rest, and wait until all has arrived."""
        self._ship()
        while packs := self._sender.next_landed():
            self._note_arrived(packs)  # while the others are on their way

    def name(self, target: Target, root: bytes) -> None:
        """Name what is there, when it is late."""
        self._late.append(entry_of(target, root))

    def name_late(self) -> None:
        """Send the entries of contents whose parts are there by now, in a pack of their own."""
        for entry in self._late:
            self._room_for(len(entry)).name(entry)
        self._late = []
        self.settle()


def _chunks(content: Content) -> Iterator[tuple[int, Child]]:
    """With where each begins, which is only told of a sequence."""
    return content.in_order() if content.tiling is None else ((0, child) for child in content.chunks())


def _groups(chunks: Iterator[tuple[int, Child]]) -> Iterator[list[tuple[int, Child]]]:
    while group := list(islice(chunks, GROUP)):
        yield group


def _is_nameless(target: Target) -> bool:
    """Whether it is one of the many files of a directory, whose entries are made at once."""
    return target.is_member and target.kind == Kind.FILE and not target.label


def entry_of(target: Target, root: bytes) -> bytes:
    """What a table says of it. Its owner is nobody: the bucket may be public."""
    return Entry(
        secrets.token_bytes(ID_SIZE), target.sha1, root, target.size, time.time_ns(), Kind(target.kind), b"",
        target.label, Action.MEMBER if target.is_member else Action.KEEP,
    ).encode()  # fmt: skip
