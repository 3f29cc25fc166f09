"""The repository: put, resolve, read and forget by identity. Composes the disk and the pipelines; owns their lifetime."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kacas.claims import Claims, has_same
from kacas.content import Content
from kacas.describing import described
from kacas.disk.identities import Identity
from kacas.disk.lookup import Lookup
from kacas.disk.merger import Merger
from kacas.disk.segment_maker import SegmentMaker
from kacas.disk.statistics import count, count_segments
from kacas.disk.volume import Volume
from kacas.errors import NotFoundError, StoreClosedError, WrongKindError
from kacas.fetch import Fetch
from kacas.gathering import BatchScope, GatheringBatch
from kacas.ingest import Ingest, Ingested, identify
from kacas.ingest_tiles import TileIngest
from kacas.layouts import Layouts
from kacas.model.cuts import CHUNK_TARGET, Cutter
from kacas.model.description import Description, Forgotten, HistoryItem, SegmentStats, StoreStats
from kacas.model.digest import ID_SIZE
from kacas.model.encoder import ZSTD, Recipe
from kacas.model.entry import Action, Entry, Kind
from kacas.model.source import BufferSource, Source
from kacas.model.tiling import Tiling
from kacas.model.uri import Uri, label_bytes
from kacas.small_chunks import SmallChunks
from kacas.tiers import Tiers
from kacas.upstream_chain import UpstreamChain

if TYPE_CHECKING:
    from kacas.model.digest import Buffer

T = TypeVar("T")
Progress = Callable[[str, int, int | None], None]
_KEPT_SHARE = 4  # of the memory, a quarter is for decoded chunks
_ROOM_SHARE = 4  # and another for what is put in order while it is read


class Repository:
    """One store's content. Thread-safe; a batch belongs to the thread that opened it."""

    def __init__(
        self,
        volume: Volume,
        cache: Path,
        *,
        owner: str,
        threads: int,
        memory: int,
        progress: Progress | None = None,
        behind: UpstreamChain | None = None,
    ) -> None:
        """cache: host-local. threads: for one call. memory: bytes. behind: where what is not here comes from."""
        self.volume = volume
        self.cache = cache
        self.lookup = Lookup(volume, cache)
        self._threads = threads
        self._memory = memory
        self.claims = Claims(self.lookup, owner.encode("utf-8", "surrogateescape"), threads, self.room)
        self._merger = Merger(volume, self.lookup)
        self.segment_maker = SegmentMaker(volume, self.lookup)
        self._progress = progress
        self.behind = behind or UpstreamChain()
        self._begin()
        # One for each thread and asyncio task: a put that is not in the block must not wait for its end.
        self.current_batch: ContextVar[GatheringBatch | None] = ContextVar("batch", default=None)
        self.closed = False
        self.segment_maker.make_if_due()

    def _begin(self) -> None:
        """Make what a forked child cannot take over: locks and pools, whose threads do not come along."""
        self._pid = os.getpid()
        self._ingest = Ingest(self._threads, self._memory)
        self._ingest_tiles = TileIngest(self._ingest, self._threads, self.cache, self._memory)
        self._fetch = Fetch(self.lookup, self._threads, room=self.room, kept=self._memory // _KEPT_SHARE)
        self._layouts = Layouts(self.lookup, self._fetch)
        self._small_chunks = SmallChunks(self.lookup)
        self.tiers = Tiers(
            self.volume, self.lookup, self._layouts, self.behind, threads=self._threads, room=self.room,
            kept=self._memory // _KEPT_SHARE, report=self.report_progress, published=self._published,
        )  # fmt: skip

    def close(self) -> None:
        """Release index and files. Content that is open for reading stays readable; a new call is refused."""
        if not self.closed:
            self.closed = True
            parts = (self._ingest, self._fetch, self.tiers, self.behind, self.segment_maker, self.lookup)
            for part in parts:
                part.close()

    @property
    def room(self) -> int:
        """Bytes for what is put in order while it is read."""
        return self._memory // _ROOM_SHARE

    def _check_open(self) -> None:
        if self.closed:
            raise StoreClosedError(f"the store at {self.volume.path} was closed; open it again")
        if os.getpid() != self._pid:
            self._begin()

    # --- writing ----------------------------------------------------------------------------

    def batch(self) -> AbstractContextManager[None]:
        """Puts of this thread (or asyncio task) are published together at the end; an inner batch joins the outer."""
        self._check_open()
        return BatchScope(self.current_batch, self.begin_batch, self.end_batch)

    def begin_batch(self) -> GatheringBatch:
        """A batch that `end_batch` publishes."""
        return GatheringBatch(self.volume, self.lookup, self.claims)

    def end_batch(self, batch: GatheringBatch) -> None:
        """Publish what the batch holds, after a last look at what others stored and forgot meanwhile."""
        batch.flush()
        self.claims.settle(batch)
        batch.finish()
        self._published()

    def _published(self) -> None:
        self._merger.merge_if_due()
        self.segment_maker.make_if_due()

    def _within_batch(self, work: Callable[[GatheringBatch], T]) -> T:
        """Do it in the batch that is open here, or in one of its own."""
        self._check_open()
        current = self.current_batch.get()
        if current is not None:
            return work(current)
        batch = self.begin_batch()
        try:
            result = work(batch)
            self.end_batch(batch)
        except BaseException:
            batch.discard()
            raise
        return result

    def put(
        self,
        source: Source,
        kind: Kind,
        label: str | None,
        *,
        cutter: Cutter | Tiling | None = None,
        head: bytes = b"",
        description: dict[str, object] | None = None,
        recipe: Recipe = ZSTD,
        adopted_path: bytes | None = None,
        expected: bytes | None = None,
    ) -> Entry:
        """Store head and source as one content and claim it for the owner. Returns the claim.

        cutter: by default the store's for files; or the tiles of an array, whose header is the head. recipe: for chunks.
        adopted_path: of the file that the bytes come from, to leave its chunks there and store only what verifies them.
        expected: the SHA-1 that it must have, else WrongIdentityError.
        Raises CollisionError, what the source raises, NewerFormatError if the store's cutter is unknown, and StoreError
        if the store cannot be written.
        """
        encoded_label = label_bytes(label or "")
        file_cutter = self.volume.file_cutter()  # for arrays too: a store of an unknown kind is only read

        def work(batch: GatheringBatch) -> Entry:
            batch.flush()  # what is on its way is compared with this, too
            progress = self._stage("storing" if adopted_path is None else "linking")
            if isinstance(cutter, Tiling):
                ingested = self._ingest_tiles.put(
                    source, cutter, batch, head=head, description=description or {}, recipe=recipe, progress=progress
                )
            else:
                ingested = self._ingest.put(
                    source,
                    cutter or file_cutter,
                    batch,
                    head=head,
                    description=description,
                    recipe=recipe,
                    progress=progress,
                    store_chunks=adopted_path is None,
                )
            ingested.check(expected)
            entry = self._entry(ingested, kind, encoded_label)
            if adopted_path is not None:
                self.claims.adopt(batch, entry, adopted_path)
            self.claims.claim(batch, entry)
            return entry

        return self._within_batch(work)

    def claim(self, identity: Identity, kind: Kind, label: str | None) -> bool:
        """Claim content that the store has, without its bytes. False if not all of it is surely here: then put it."""
        encoded_label = label_bytes(label or "")

        def work(batch: GatheringBatch) -> bool:
            batch.flush()
            if not self.claims.whole(batch, [identity]):
                return False
            self.claims.claim(batch, self._entry(Ingested(*identity), kind, encoded_label))
            return True

        return self._within_batch(work)

    def put_small(self, data: bytes | memoryview, kind: Kind, label: str | None) -> Uri:
        """Store bytes; inside a batch, small ones are kept back and written in groups. Raises as `put`."""
        batch = self.current_batch.get()
        if batch is None or len(data) > CHUNK_TARGET:
            return Uri(self.put(BufferSource(data), kind, label).sha1, label or "")
        self._check_open()
        raw = bytes(data)
        entry = self._entry(identify(raw), kind, label_bytes(label or ""))
        mine = batch.entries(entry.sha1)
        # Another root is to be compared, byte by byte; and what this batch only links is not stored.
        doubtful = any(other.root != entry.root or other.action == Action.ADOPTED for other in mine)
        if doubtful:
            batch.flush()
        if doubtful or self.lookup.entries(entry.sha1):
            # Known is not enough: it is looked whether the chunk is there and good, and else stored again.
            self.put(BufferSource(raw), kind, label)
        elif not has_same(entry, mine):
            batch.gather(entry, raw)
        return Uri(entry.sha1, label or "")

    def put_member(
        self,
        content: bytes | Source,
        kind: Kind,
        *,
        cutter: Cutter | None = None,
        head: bytes = b"",
        description: dict[str, object] | None = None,
        recipe: Recipe = ZSTD,
        adopted_path: bytes | None = None,
    ) -> Ingested:
        """Store content for a directory, which will keep it; nobody claims it for itself. Raises as `put`."""

        file_cutter = self.volume.file_cutter()

        def work(batch: GatheringBatch) -> Ingested:
            if isinstance(content, bytes) and len(content) <= CHUNK_TARGET:
                return batch.gather_members([content], kind)[0]
            source = BufferSource(content) if isinstance(content, bytes) else content
            batch.flush()
            found = self._ingest.put(
                source,
                cutter or file_cutter,
                batch,
                head=head,
                description=description,
                recipe=recipe,
                store_chunks=adopted_path is None,
            )
            if adopted_path is not None:
                self.claims.adopt(batch, self._entry(found, kind, b""), adopted_path)
            batch.add_member(found, kind)
            return found

        return self._within_batch(work)

    def _entry(self, content: Ingested, kind: Kind, label: bytes) -> Entry:
        return Entry(
            secrets.token_bytes(ID_SIZE), content.sha1, content.root, content.size, time.time_ns(), kind,
            self.claims.owner, label,
        )  # fmt: skip

    def _stage(self, name: str) -> Callable[[int, int | None], None] | None:
        progress = self._progress
        return None if progress is None else lambda done, total: progress(name, done, total)

    def report_progress(self, stage: str, done: int, total: int | None) -> None:
        """Tell the observer, if there is one, how far long work has come."""
        if self._progress is not None:
            self._progress(stage, done, total)

    # --- reading ----------------------------------------------------------------------------

    def resolve(self, uri: Uri) -> tuple[Entry, Content]:
        """The entry and the open content of a URI: of the layouts that can be read the newest that is a sequence, as what
        is read from front to back costs least there; else the newest.

        Raises NotFoundError when every table says so, a DamagedError or NewerFormatError when one cannot be read.
        """
        self._check_open()
        return self.tiers.sequence(uri)

    def readable(self, uri: Uri) -> list[tuple[Entry, Content]]:
        """Every layout that can be read, the newest first. Raises as `resolve`."""
        self._check_open()
        return self.tiers.readable(uri)

    def bring(self, uri: Uri) -> None:
        """All of the content will be read: it is fetched if it is not here. Raises as `resolve`."""
        self._check_open()
        self.tiers.bring(uri)

    def bring_tree(self, sha1: bytes) -> None:
        """As `bring`, for a directory and all below it."""
        self._check_open()
        self.tiers.bring_tree(sha1)

    def read_whole(self, uri: Uri) -> bytes:
        """All bytes, of content that is fetched if it is not here. Raises as `read`."""
        self._check_open()
        found = self.tiers.whole(uri)[1].read(None, None, str(uri))
        self.tiers.heal(uri)
        return found

    def size(self, uri: Uri) -> int:
        """Bytes of the content. Raises as `resolve`."""
        self._check_open()
        return self.tiers.size(uri)

    def exists(self, uri: Uri) -> bool:
        """Whether the content can be loaded (its root is there; `verify` looks at every byte)."""
        try:
            self.size(uri)
        except NotFoundError:
            return False
        return True

    def read(self, uri: Uri, start: int | None = None, stop: int | None = None) -> bytes:
        """Bytes start:stop, as a slice of the content. Raises SizeLimitError before memory is taken."""
        return self.resolve(uri)[1].read(start, stop, str(uri))

    def begin_many(self, sizes: dict[bytes, int], worker: Executor) -> Callable[[], dict[bytes, Buffer]]:
        """Begin to read contents that are one chunk each, by SHA-1, in few large reads, which the worker does.

        sizes: what each is said to have. What is returned waits for the contents. One that is not found as such at once,
        or has another size, is left out: `resolve` tells why.
        """
        self._check_open()
        roots = self.lookup.roots({sha1: size for sha1, size in sizes.items() if size <= CHUNK_TARGET})
        end = self._small_chunks.begin({root: sizes[sha1] for sha1, root in roots.items()}, worker)

        def contents() -> dict[bytes, Buffer]:
            chunks = end()
            return {sha1: chunks[root] for sha1, root in roots.items() if root in chunks}

        return contents

    # --- claims -----------------------------------------------------------------------------

    def describe(self, uri: Uri) -> Description:
        """What is known of the content, here or else in the upstream; raises as `resolve`."""
        self._check_open()
        return self.tiers.described(uri, self._described)

    def _described(self, uri: Uri) -> Description:
        entry, content = self._layouts.sequence(uri)
        return described(self.lookup, self._fetch, uri, entry, content)

    def forget(self, uri: Uri) -> Forgotten:
        """End my claims on the content, naming their entries: a store that runs at the same time wins."""
        self._check_open()
        return self.claims.forget(uri, lambda entry: self._within_batch(lambda batch: batch.add_entry(entry)))

    def history(self) -> Iterator[HistoryItem]:
        """What the owner stored, newest first."""
        self._check_open()
        yield from self.claims.history()

    def stats(self) -> StoreStats:
        """Counted from the tables of every pack that can be read."""
        self._check_open()
        return count(self.volume, self.lookup.tables)

    def rebuild_index(self) -> int:
        """Make the index anew from the packs' tables. Returns the number of chunk records."""
        self._check_open()
        return self.lookup.rebuild()

    def merge_segments(self) -> SegmentStats:
        """Hold the tables of all packs, but of small ones, in one segment or few. Returns what segments hold then."""
        self._check_open()
        self.segment_maker.make_all()
        return self.segment_stats()

    def segment_stats(self) -> SegmentStats:
        """What is held by the segments that serve."""
        self._check_open()
        return count_segments(self.volume, self.lookup.serving())

    def wrong_kind(self, uri: Uri, why: str) -> WrongKindError:
        """The error for content that exists but is not what was asked for; raise it."""
        kinds = {entry.kind_name for entry, _ in self.lookup.entries(uri.sha1) if entry.names_layout}
        stored = f"it was stored as {' and '.join(sorted(kinds))}" if kinds else "load it with load_bytes or load_file"
        return WrongKindError(f"{uri}: {why}; {stored}", sha1=uri.sha1.hex())
