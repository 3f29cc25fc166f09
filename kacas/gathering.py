"""Batches: their block, and small contents, kept back until there are enough to look up, encode and write together."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple

from kacas.claims import Claims
from kacas.disk.batch import Batch
from kacas.disk.identities import Identity
from kacas.disk.lookup import Lookup
from kacas.disk.volume import Volume
from kacas.errors import WriteError
from kacas.ingest import Ingested
from kacas.model.codec import MIB
from kacas.model.digest import DIGEST_SIZE, ID_SIZE, PayloadKind, checksum
from kacas.model.encoder import Encoded, Encoder
from kacas.model.entry import Action, Entry, Kind
from kacas.model.pack_format import PayloadHeader

_GROUP_COUNT = 512
_GROUP_SIZE = 2 * MIB
_THREAD_ABOVE = 1 * MIB  # a group that is smaller is mostly Python's work, which a thread would not take off the caller
_IN_FLIGHT = 1
_MEMBER = int(Action.MEMBER)


class _Small(NamedTuple):
    """One small content. claim: its entry; or, of a directory's member, the root: the entry is made with the group."""

    sha1: bytes
    raw: bytes
    claim: Entry | bytes
    kind: int

    @property
    def root(self) -> bytes:
        return self.claim.root if isinstance(self.claim, Entry) else self.claim


class _Encoding(NamedTuple):
    """A group whose payloads are being made, or will be when it is appended. new: chunks by digest that no pack has."""

    group: list[_Small]
    new: dict[bytes, bytes]
    payloads: Future[list[Encoded]] | None


def _directory_key(sha1: bytes) -> bytes:
    """What is marked whole for a directory: no root of anything."""
    return checksum(DIGEST_SIZE, b"kacas directory, whole", sha1)


def _entries(group: list[_Small]) -> list[Entry]:
    now, ids = time.time_ns(), secrets.token_bytes(ID_SIZE * len(group))
    return [
        claim
        if isinstance(claim, Entry)
        else _member(ids[at * ID_SIZE : (at + 1) * ID_SIZE], sha1, claim, len(raw), kind, now)
        for at, (sha1, raw, claim, kind) in enumerate(group)
    ]


def _member(entry_id: bytes, sha1: bytes, root: bytes, size: int, kind: int, time_ns: int) -> Entry:
    return Entry(entry_id, sha1, root, size, time_ns, kind, b"", b"", _MEMBER)


class GatheringBatch(Batch):
    """A batch that takes small contents with their entries: `gather`. Each must fit in one chunk."""

    def __init__(self, volume: Volume, lookup: Lookup, claims: Claims) -> None:
        super().__init__(volume, lookup)
        self._claims = claims
        self._group: list[_Small] = []
        self._group_size = 0
        self._gathered: dict[bytes, list[Entry]] = {}
        self._gather_lock = threading.Lock()
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
            self._take(_Small(entry.sha1, raw, entry, entry.kind))
        except BaseException as exc:
            self._fail(exc)  # by Ctrl-C it may be noted and not taken: the next put of the same would rely on it
            raise

    def gather_member(self, content: Ingested, raw: bytes, kind: Kind) -> None:
        """As `gather`, for content that a directory will keep."""
        self._take(_Small(content.sha1, raw, content.root, kind))

    def known_members(self, identities: Collection[Identity]) -> set[Identity]:
        """Those that the store has, wholly and surely: their layouts are named for a directory, which may rely on them."""
        self.flush()  # what is on its way is compared with them, too
        found = self._claims.whole(self, identities)
        now = time.time_ns()
        self.add_entries(
            self._wanted([_member(secrets.token_bytes(ID_SIZE), *identity, Kind.FILE, now) for identity in found])
        )
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

    def _take(self, small: _Small) -> None:
        with self._gather_lock:
            self._check_open()
            self._group.append(small)
            self._group_size += len(small.raw)
            full = len(self._group) >= _GROUP_COUNT or self._group_size >= _GROUP_SIZE
        if full:
            self._send()

    def add_member(self, content: Ingested, kind: Kind) -> None:
        """Name the layout of content that was appended, unless that is done already. Raises CollisionError."""
        entry = _member(secrets.token_bytes(ID_SIZE), *content, kind, time.time_ns())
        self.add_entries(self._wanted([entry]))

    def entries(self, sha1: bytes) -> list[Entry]:
        return super().entries(sha1) + self._gathered.get(sha1, [])

    def flush(self) -> None:
        """Append what was gathered. Raises as `gather`."""
        self._check_open()  # a forked child must not wait for its parent's thread
        self._send()
        try:
            self._append_encoded(0)
        except BaseException as exc:
            self._fail(exc)  # what is left must not be published as if it were all
            raise

    def _send(self) -> None:
        """Let the group be encoded. The encoder needs no GIL, so it works beside us; all that is Python's is done here."""
        try:
            with self._gather_lock:
                group, size = self._group, self._group_size
                self._group, self._group_size = [], 0
            if not group:
                return
            self._check_open()
            raws = {small.root: small.raw for small in group}
            with self._gather_lock:
                known = {root for encoding in self._encoding for root in encoding.new if root in raws}
            known |= self.known(raws.keys() - known)
            new = {root: raw for root, raw in raws.items() if root not in known}
            in_thread = size > _THREAD_ABOVE
            with self._gather_lock:
                if in_thread and self._worker is None:
                    self._worker = ThreadPoolExecutor(1, "kacas-gather")
                encoding = self._worker.submit(self._encode, list(new.values())) if self._worker and in_thread else None
                self._encoding.append(_Encoding(group, new, encoding))
            self._append_encoded(_IN_FLIGHT if in_thread else 0)
        except BaseException as exc:
            self._fail(exc)  # the group is lost, by Ctrl-C perhaps, and its URIs were handed out
            raise

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
            self.append(payloads)
        entries = _entries(group)
        self._check_group(entries)
        self.add_entries(self._wanted(entries))
        with self._gather_lock:
            for small in group:
                waiting = [entry for entry in self._gathered.pop(small.sha1, ()) if entry is not small.claim]
                if waiting:  # in a later group
                    self._gathered[small.sha1] = waiting

    def _encode(self, raws: Sequence[bytes]) -> list[Encoded]:
        encoder: Encoder | None = getattr(self._local, "encoder", None)
        if encoder is None:
            encoder = self._local.encoder = Encoder()
        return encoder.encode_many(raws)

    def _check_group(self, entries: list[Entry]) -> None:
        """Raises CollisionError for two contents of one SHA-1 within the batch: the group's own, or one before."""
        first: dict[bytes, Entry] = {}
        before = self.has_entries(entry.sha1 for entry in entries)
        for entry in entries:
            one = first.setdefault(entry.sha1, entry)
            if one is not entry or entry.sha1 in before:
                others = [other for other in (one, *super().entries(entry.sha1)) if other.root != entry.root]
                if others:
                    self._claims.check_collision(self, entry, others)

    def _wanted(self, entries: list[Entry]) -> list[Entry]:
        """Without the member entries that are there already. Raises CollisionError."""
        members = {entry.sha1: entry for entry in entries if entry.action == _MEMBER}
        if not members:
            return entries
        published = self._lookup.entries_of_many(members)
        needless: set[bytes] = set()
        for sha1 in published.keys() | self.has_entries(members):
            entry, there = members[sha1], published.get(sha1, [])
            known = [known for known, _ in there] + super().entries(sha1)
            self._claims.check_collision(self, entry, known)
            if any(other.action == _MEMBER and other.root == entry.root for other in known):
                self.rely(pack_id for _, pack_id in there)
                needless.add(sha1)
        return [
            entry
            for entry in entries
            if entry.action != _MEMBER or (entry is members[entry.sha1] and entry.sha1 not in needless)
        ]

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
            self._group = []
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
