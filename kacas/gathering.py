"""Batches: their block, and small contents, kept back until there are enough to look up, encode and write together."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

from kacas.claims import Claims
from kacas.disk.batch import Batch
from kacas.disk.identities import Identity
from kacas.disk.lookup import Lookup
from kacas.disk.volume import Volume
from kacas.errors import WriteError
from kacas.ingest import Ingested, identify
from kacas.model.codec import MIB
from kacas.model.digest import DIGEST_SIZE, ID_SIZE, PayloadKind, checksum
from kacas.model.encoder import Encoded, Encoder
from kacas.model.entry import Action, Entry, Kind, encode_members
from kacas.model.pack_format import PayloadHeader

_GROUP_COUNT = 512
_GROUP_SIZE = 2 * MIB
_THREAD_ABOVE = 1 * MIB  # a group that is smaller is mostly Python's work, which a thread would not take off the caller
_IN_FLIGHT = 1
_MEMBER = int(Action.MEMBER)


@dataclass
class _Group:
    """Small contents that wait. claims: entries of some. members: what others, that directories will keep, are, by kind."""

    raws: dict[bytes, bytes] = field(default_factory=dict)  # by root
    claims: list[Entry] = field(default_factory=list)
    members: dict[int, list[Ingested]] = field(default_factory=dict)
    count: int = 0
    size: int = 0


class _Encoding(NamedTuple):
    """A group whose payloads are being made, or will be when it is appended. new: chunks by digest that no pack has."""

    group: _Group
    new: dict[bytes, bytes]
    payloads: Future[list[Encoded]] | None


def _directory_key(sha1: bytes) -> bytes:
    """What is marked whole for a directory: no root of anything."""
    return checksum(DIGEST_SIZE, b"kacas directory, whole", sha1)


def _named(sha1: bytes, root: bytes, size: int) -> Entry:
    """What a member entry says of the content."""
    return Entry(b"", sha1, root, size, 0, Kind.FILE, b"", b"", _MEMBER)


class GatheringBatch(Batch):
    """A batch that takes small contents with their entries: `gather`. Each must fit in one chunk."""

    def __init__(self, volume: Volume, lookup: Lookup, claims: Claims) -> None:
        super().__init__(volume, lookup)
        self._claims = claims
        self._group = _Group()
        self._gathered: dict[bytes, list[Entry]] = {}
        self._gather_lock = threading.Lock()
        # From taking a group to having appended it: who ends the batch must not find it nowhere, as others share it.
        self._sending = threading.RLock()
        self._local = threading.local()
        self._worker: ThreadPoolExecutor | None = None
        self._encoding: deque[_Encoding] = deque()
        self._trusted: set[bytes] = set()  # keys of directories whose mark this batch believed
        self._directories: set[bytes] = set()  # keys of those that are whole when this batch has ended

    def gather(self, entry: Entry, raw: bytes) -> None:
        """Take an entry and the one chunk that is its content; they are written later, with others.

        Raises what failed with earlier ones: CollisionError, StoreError. The batch has then failed as a whole.
        """
        try:
            with self._gather_lock:
                self._gathered.setdefault(entry.sha1, []).append(entry)
            self._take({entry.root: raw}, [entry], [], entry.kind)
        except BaseException as exc:
            self._fail(exc)  # by Ctrl-C it may be noted and not taken: the next put of the same would rely on it
            raise

    def gather_members(self, raws: Sequence[bytes], kind: Kind) -> list[Ingested]:
        """As `gather`, for contents that a directory will keep. Returns what each is."""
        contents = [identify(raw) for raw in raws]
        self._take({content.root: raw for content, raw in zip(contents, raws, strict=True)}, [], contents, kind)
        return contents

    def known_members(self, identities: Collection[Identity]) -> set[Identity]:
        """Those that the store has, wholly and surely: their layouts are named for a directory, which may rely on them."""
        self.flush()  # what is on its way is compared with them, too
        found = self._claims.whole(self, identities)
        self._add_members(found, Kind.FILE)
        return found

    def has_directory(self, sha1: bytes) -> bool:
        """Whether a directory's document and all below it is in the store, with nothing lost since. Then it is relied on."""
        key = _directory_key(sha1)
        if not self._lookup.whole({key}):
            return False
        packs = [p for entry, p in self._lookup.entries(sha1) if entry.kind == Kind.DIRECTORY and entry.names_layout]
        if packs:
            self._trusted.add(key)
            self.rely(packs)
        return bool(packs)

    def note_directory(self, sha1: bytes) -> None:
        """All below the directory is stored, or will be when this batch ends."""
        self._directories.add(_directory_key(sha1))

    def _take(self, raws: dict[bytes, bytes], claims: list[Entry], members: list[Ingested], kind: int) -> None:
        with self._gather_lock:
            self._check_open()
            group = self._group
            group.raws |= raws
            group.claims += claims
            if members:
                group.members.setdefault(kind, []).extend(members)
            group.count += len(claims) + len(members)
            group.size += sum(map(len, raws.values()))
            full = group.count >= _GROUP_COUNT or group.size >= _GROUP_SIZE
        if full:
            self._send()

    def add_member(self, content: Ingested, kind: Kind) -> None:
        """Name the layout of content that was appended, unless that is done already. Raises CollisionError."""
        self._add_members([content], kind)

    def entries(self, sha1: bytes) -> list[Entry]:
        return super().entries(sha1) + self._gathered.get(sha1, [])

    def flush(self) -> None:
        """Append what was gathered. Raises as `gather`."""
        self._check_open()  # a forked child must not wait for its parent's thread
        with self._sending:
            self._send()
            try:
                self._append_encoded(0)
            except BaseException as exc:
                self._fail(exc)  # what is left must not be published as if it were all
                raise

    def _send(self) -> None:
        """Let the group be encoded. The encoder needs no GIL, so it works beside us; all that is Python's is done here."""
        with self._sending:
            self._send_group()

    def _send_group(self) -> None:
        try:
            with self._gather_lock:
                group, self._group = self._group, _Group()
            if not group.count:
                return
            self._check_open()
            raws = group.raws
            with self._gather_lock:
                known = {root for encoding in self._encoding for root in encoding.new if root in raws}
            known |= self.known(raws.keys() - known)
            new = {root: raw for root, raw in raws.items() if root not in known}
            in_thread = group.size > _THREAD_ABOVE
            with self._gather_lock:
                encoding = self._encoded_beside(list(new.values())) if in_thread else None
                self._encoding.append(_Encoding(group, new, encoding))
            self._append_encoded(_IN_FLIGHT if in_thread else 0)
        except BaseException as exc:
            self._fail(exc)  # the group is lost, by Ctrl-C perhaps, and its URIs were handed out
            raise

    def _encoded_beside(self, raws: list[bytes]) -> Future[list[Encoded]] | None:
        """None if the program is ending, when no thread can be had: then it is encoded when it is appended."""
        self._worker = self._worker or ThreadPoolExecutor(1, "kacas-gather")
        try:
            return self._worker.submit(self._write_and_encode, raws)
        except RuntimeError:
            return None

    def _append_encoded(self, left: int) -> None:
        """Append groups, waiting for their payloads, until so many at most are being encoded."""
        while True:
            with self._gather_lock:
                if len(self._encoding) <= left:
                    return
                first = self._encoding.popleft()
            self._append_group(first)

    def _append_group(self, encoding: _Encoding) -> None:
        group, new = encoding.group, encoding.new
        encoded = encoding.payloads.result() if encoding.payloads else self._encode(list(new.values()))
        payloads = [
            (PayloadHeader(PayloadKind.CHUNK, codec, len(payload), len(raw), digest, parameters), payload)
            for (digest, raw), (codec, parameters, payload) in zip(new.items(), encoded, strict=True)
        ]
        if payloads:
            self.append(payloads, lasting=True)
        self._check_group(group)
        if group.claims:
            self.add_entries(group.claims)
        for kind, contents in group.members.items():
            self._add_members(contents, kind)
        with self._gather_lock:
            for claim in group.claims:
                waiting = [entry for entry in self._gathered.pop(claim.sha1, ()) if entry is not claim]
                if waiting:  # in a later group
                    self._gathered[claim.sha1] = waiting

    def _write_and_encode(self, raws: Sequence[bytes]) -> list[Encoded]:
        self.write_gathered()  # of the group before: it is on the way to the disk while we do Python's work
        return self._encode(raws)

    def _encode(self, raws: Sequence[bytes]) -> list[Encoded]:
        encoder: Encoder | None = getattr(self._local, "encoder", None)
        if encoder is None:
            encoder = self._local.encoder = Encoder()
        return encoder.encode_many(raws)

    def _check_group(self, group: _Group) -> None:
        """Raises CollisionError for two contents of one SHA-1 within the batch: the group's own, or one before."""
        contents = [Ingested(claim.sha1, claim.root, claim.size) for claim in group.claims]
        for members in group.members.values():
            contents += members
        last = {content.sha1: content for content in contents}
        before = self.has_entries(last)
        for content in dict.fromkeys(contents):
            one = last[content.sha1]
            if one.root != content.root or content.sha1 in before:
                others = [_named(*one), *super().entries(content.sha1)]
                self._claims.check_collision(
                    self, _named(*content), [other for other in others if other.root != content.root]
                )

    def _add_members(self, layouts: Iterable[tuple[bytes, bytes, int]], kind: int) -> None:
        """Name layouts (SHA-1, root, size) for a directory, but for those that are named already. Raises CollisionError."""
        wanted = {layout[0]: layout for layout in layouts}
        published = self._lookup.entries_of_many(wanted)
        for sha1 in published.keys() | self.has_entries(wanted):
            there = published.get(sha1, [])
            known = [known for known, _ in there] + super().entries(sha1)
            entry = _named(*wanted[sha1])
            self._claims.check_collision(self, entry, known)
            if any(other.is_member and other.root == entry.root for other in known):
                self.rely(pack_id for _, pack_id in there)
                del wanted[sha1]
        ids = secrets.token_bytes(ID_SIZE * len(wanted))
        encoded = encode_members(wanted.values(), kind, time.time_ns(), ids)
        self.add_members(dict(zip(wanted, encoded, strict=True)))

    def finish(self) -> None:
        self.flush()
        self._stop()
        if self._trusted:
            self._lookup.refresh()
            if self._lookup.whole(self._trusted) != self._trusted:
                raise WriteError(
                    "packs vanished, or damage was found, while a directory was stored that relied on them; store it again",
                    path=str(self._lookup.store_path),
                )
        super().finish()
        if self._directories:
            self._lookup.mark_whole(self._directories)

    def discard(self) -> None:
        if os.getpid() == self._pid:
            self._group = _Group()
            self._stop()
        super().discard()

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.shutdown(wait=True, cancel_futures=True)


class BatchScope:
    """`with repository.batch():`. Leave it in the thread that entered it."""

    def __init__(
        self,
        current: ContextVar[GatheringBatch | None],
        begin: Callable[[], GatheringBatch],
        end: Callable[[GatheringBatch], None],
    ) -> None:
        """current: the batch that puts go into, set inside the block. end: publishes it."""
        self._current = current
        self._begin = begin
        self._end = end
        self._batch: GatheringBatch | None = None  # None: the outer batch is joined

    def __enter__(self) -> None:
        if self._current.get() is None:
            self._batch = self._begin()
            self._current.set(self._batch)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        self._current.set(None)
        try:
            if kind is None:
                self._end(batch)
        finally:
            batch.discard()  # nothing, if it was finished
