"""The repository: put, resolve, read and forget by identity. Composes the disk and the pipelines; owns their lifetime."""

from __future__ import annotations

import io
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
from kacas.disk.memory import check_affordable
from kacas.disk.merger import Merger
from kacas.disk.volume import Volume
from kacas.errors import (
    CollisionError,
    DamagedError,
    InvalidRangeError,
    NotFoundError,
    StoreClosedError,
    WrongKindError,
)
from kacas.fetch import Content, Fetch, open_content, same_bytes
from kacas.ingest import Ingest
from kacas.model.cuts import Cutter, file_cutter
from kacas.model.description import Claim, Description, Forgotten, HistoryItem, StoreStats
from kacas.model.digest import DIGEST_SIZE, ID_SIZE
from kacas.model.entry import MAX_CANCELS, Action, Entry, Kind, live
from kacas.model.source import Source
from kacas.model.uri import Uri, label_bytes

T = TypeVar("T")
Progress = Callable[[str, int, int | None], None]
_CONTENTS_KEPT = 64


class Repository:
    """One store's content. Thread-safe; a batch belongs to the thread that opened it."""

    def __init__(
        self, volume: Volume, cache: Path, *, owner: str, threads: int, progress: Progress | None = None
    ) -> None:
        self.volume = volume
        self.cache = cache
        self.lookup = Lookup(volume, cache)
        self._merger = Merger(volume, self.lookup)
        self._owner = owner.encode("utf-8", "surrogateescape")
        self._threads = threads
        self._progress = progress
        self._ingest = Ingest(threads)
        self._fetch = Fetch(self.lookup, threads)
        # One for each thread and asyncio task: a put that is not in the block must not wait for its end.
        self.current_batch: ContextVar[Batch | None] = ContextVar("batch", default=None)
        self._contents: OrderedDict[bytes, Content] = OrderedDict()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self.closed = False

    def close(self) -> None:
        """Release index and files. Content that is open for reading stays readable; a new call is refused."""
        if not self.closed:
            self.closed = True
            self.lookup.close()

    def _check_open(self) -> None:
        if self.closed:
            raise StoreClosedError(f"the store at {self.volume.path} was closed; open it again")
        if os.getpid() != self._pid:
            # Locks and pools of the parent mean nothing here; threads that held them did not come along.
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._ingest = Ingest(self._threads)
            self._fetch = Fetch(self.lookup, self._threads)
            self._contents.clear()

    # --- writing ----------------------------------------------------------------------------

    def batch(self) -> AbstractContextManager[None]:
        """Puts of this thread (or asyncio task) are published together at the end; an inner batch joins the outer."""
        self._check_open()
        return _BatchScope(self)

    def begin_batch(self) -> Batch:
        """A batch that `end_batch` publishes."""
        return Batch(self.volume, self.lookup)

    def end_batch(self, batch: Batch) -> None:
        """Publish what the batch holds, after a last look at what others stored and forgot meanwhile."""
        own = batch.own_entries()
        if own or batch.skipped:
            # What we rely on may have been forgotten just now; a colliding SHA-1 may be noticed a little later.
            if batch.skipped:
                self.lookup.refresh()
            else:
                self.lookup.refresh_soon()
            found = self.lookup.entries_of_many({entry.sha1 for entry in own})
            for entry in own:
                if entry.sha1 in found:
                    self._check_collision(batch, entry, [known for known, _ in found[entry.sha1]])
            for entry in batch.skipped:
                # Whoever forgot the entry that we counted on did so while we stored: the store wins.
                if not self._has_same(entry, self._known(batch, entry.sha1)):
                    batch.add_entry(entry)
        batch.finish()
        self._merger.merge_if_due()

    def _known(self, batch: Batch, sha1: bytes) -> list[Entry]:
        return [known for known, _ in self.lookup.entries(sha1)] + batch.entries(sha1)

    def _within_batch(self, work: Callable[[Batch], T]) -> T:
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
        cutter: Cutter | None = None,
        head: bytes = b"",
        description: dict[str, object] | None = None,
    ) -> Uri:
        """Store head and source as one content and claim it for the owner.

        Raises CollisionError, what the source raises, and StoreError if the store cannot be written.
        """
        encoded_label = label_bytes(label or "")

        def work(batch: Batch) -> Uri:
            ingested = self._ingest.put(
                source,
                cutter or file_cutter(),
                batch,
                head=head,
                description=description,
                progress=self._stage("storing"),
            )
            entry = Entry(
                secrets.token_bytes(ID_SIZE), ingested.sha1, ingested.root, ingested.size, time.time_ns(), kind,
                self._owner, encoded_label,
            )  # fmt: skip
            self._claim(batch, entry)
            return Uri(ingested.sha1, label or "")

        return self._within_batch(work)

    def _stage(self, name: str) -> Callable[[int, int | None], None] | None:
        progress = self._progress
        return None if progress is None else lambda done, total: progress(name, done, total)

    def report_progress(self, stage: str, done: int, total: int | None) -> None:
        """Tell the observer, if there is one, how far long work has come."""
        if self._progress is not None:
            self._progress(stage, done, total)

    def _claim(self, batch: Batch, entry: Entry) -> None:
        """Leave the owner's entry, unless the same one is there and alive."""
        published = self.lookup.entries(entry.sha1)
        known = [known for known, _ in published] + batch.entries(entry.sha1)
        self._check_collision(batch, entry, known)
        if self._has_same(entry, known):
            batch.rely(pack_id for _, pack_id in published)
            batch.skip_entry(entry)
        else:
            batch.add_entry(entry)

    @staticmethod
    def _has_same(entry: Entry, known: list[Entry]) -> bool:
        return any(
            (other.owner, other.root, other.kind, other.label) == (entry.owner, entry.root, entry.kind, entry.label)
            for other in live(known)
        )

    def _check_collision(self, batch: Batch, entry: Entry, known: list[Entry]) -> None:
        """A known SHA-1 with another root: equal bytes are a new layout, others a collision."""
        roots = {other.root: other.size for other in known if other.action == Action.KEEP}
        if not roots or entry.root in roots:
            return
        fetch = Fetch(self.lookup, self._threads, batch)
        new = open_content(fetch, entry.root, entry.size)
        for root, size in roots.items():
            try:
                same = size == entry.size and same_bytes(new, open_content(fetch, root, size))
            except DamagedError:
                continue  # what cannot be read cannot contradict; the new layout was hashed as a whole just now
            if not same:
                raise CollisionError(
                    f"other content with the same SHA-1 {entry.sha1.hex()} is stored already; the new content was not "
                    "stored. Two different files with one SHA-1 are made on purpose: check where yours comes from",
                    sha1=entry.sha1.hex(),
                )
            return

    # --- reading ----------------------------------------------------------------------------

    def resolve(self, uri: Uri) -> tuple[Entry, Content]:
        """The entry and the open content of a URI; the newest layout that can be read.

        Raises NotFoundError when every table says so, a DamagedError or NewerFormatError when one cannot be read.
        """
        self._check_open()
        damage: DamagedError | None = None
        for ask in (self.lookup.entries, self.lookup.proved_entries):
            damage = None  # what a hint led to is no damage: the pack may be gone, entry and all
            for entry in self._layouts(uri, [entry for entry, _ in ask(uri.sha1)]):
                try:
                    return entry, self._content(entry)
                except DamagedError as exc:
                    damage = exc
        if damage is not None:
            raise damage
        raise NotFoundError(
            f"{Uri(uri.sha1, uri.label, uri.root)} is not in the store at {self.volume.path}; "
            "store it here, or point KACAS_DIR to the store that has it",
            sha1=uri.sha1.hex(),
        )

    @staticmethod
    def _layouts(uri: Uri, entries: list[Entry]) -> list[Entry]:
        kept = [entry for entry in entries if entry.action == Action.KEEP and uri.root in (None, entry.root)]
        newest = sorted(kept, key=lambda entry: entry.time_ns, reverse=True)
        return list({entry.root: entry for entry in reversed(newest)}.values())[::-1]

    def _content(self, entry: Entry) -> Content:
        with self._lock:
            content = self._contents.get(entry.root)
            if content is not None and content.size == entry.size:
                self._contents.move_to_end(entry.root)
                return content
        content = open_content(self._fetch, entry.root, entry.size)
        with self._lock:
            self._contents[entry.root] = content
            while len(self._contents) > _CONTENTS_KEPT:
                self._contents.popitem(last=False)
        return content

    def exists(self, uri: Uri) -> bool:
        """Whether the content can be loaded (its root is there; `verify` looks at every byte)."""
        try:
            self.resolve(uri)
        except NotFoundError:
            return False
        return True

    def read(self, uri: Uri, start: int | None = None, stop: int | None = None) -> bytes:
        """Bytes start:stop, as a slice of the content. Raises SizeLimitError before memory is taken."""
        _, content = self.resolve(uri)
        try:
            first, last, _ = slice(start, stop).indices(content.size)
        except TypeError as exc:
            raise InvalidRangeError(
                f"start and stop are whole numbers of bytes or None, not {start!r}, {stop!r}"
            ) from exc
        size = max(0, last - first)
        if size == 0:
            return b""
        check_affordable(size, str(uri))
        # BytesIO hands its buffer out as bytes without the copy that bytes(bytearray) would make.
        buffer = io.BytesIO()
        buffer.seek(size - 1)
        buffer.write(b"\0")
        with buffer.getbuffer() as view:
            content.read_into(first, view)
        return buffer.getvalue()

    # --- claims -----------------------------------------------------------------------------

    def describe(self, uri: Uri) -> Description:
        """What is known of the content; raises as resolve."""
        entry, content = self.resolve(uri)
        self.lookup.refresh()  # claims that others made meanwhile
        known = [known for known, _ in self.lookup.entries(uri.sha1)] or [entry]
        sizes: dict[bytes, int] = {}
        digests = {content.root} | {child.digest for child, _ in content.walk()}
        sizes = self._fetch.sizes(digests)
        claims = tuple(
            Claim(e.owner_text, e.time_ns / 1e9, e.label_text, e.kind_name, e.entry_id.hex()) for e in live(known)
        )
        chunks = {child.digest for child in content.chunks()}
        return Description(
            uri=str(Uri(uri.sha1, uri.label or entry.label_text)),
            sha1=uri.sha1.hex(),
            root=content.root.hex(),
            kind=entry.kind_name,
            size=content.size,
            chunks=len(chunks),
            stored_size=sum(sizes.values()),
            claims=claims,
        )

    def forget(self, uri: Uri) -> Forgotten:
        """End my claims on the content, naming their entries: a store that runs at the same time wins."""
        self._check_open()
        known = [entry for entry, _ in self.lookup.proved_entries(uri.sha1)]
        if not any(entry.action == Action.KEEP for entry in known):
            raise NotFoundError(
                f"{uri} is not in the store at {self.volume.path}; nothing to forget", sha1=uri.sha1.hex()
            )
        # One forget entry names so many at most; the next forget ends the rest.
        mine = [entry for entry in live(known) if entry.owner == self._owner][:MAX_CANCELS]
        others = sorted({entry.owner_text for entry in live(known) if entry.owner != self._owner})
        if mine:
            cancel = Entry(
                secrets.token_bytes(ID_SIZE), uri.sha1, bytes(DIGEST_SIZE), 0, time.time_ns(), mine[0].kind,
                self._owner, b"", Action.FORGET, cancels=tuple(entry.entry_id for entry in mine),
            )  # fmt: skip
            self._within_batch(lambda batch: batch.add_entry(cancel))
        return Forgotten(str(uri), len(mine), tuple(others))

    def history(self) -> Iterator[HistoryItem]:
        """What the owner stored, newest first."""
        self._check_open()
        for entry in self.lookup.log(self._owner):
            known = [known for known, _ in self.lookup.entries(entry.sha1)]
            cancelled = {entry_id for other in known for entry_id in other.cancels}
            yield HistoryItem(
                str(Uri(entry.sha1, entry.label_text)), entry.kind_name, entry.size, entry.time_ns / 1e9,
                entry.label_text, entry.entry_id in cancelled,
            )  # fmt: skip

    def stats(self) -> StoreStats:
        """Counted from the tables of every pack that can be read."""
        self._check_open()
        chunks = raw_size = payload_size = 0
        contents, entries = set[bytes](), set[bytes]()
        for _, table in self.lookup.tables.uncovered():
            chunks += len(table.records)
            raw_size += int(table.records["raw_size"].sum())
            payload_size += int(table.records["payload_size"].sum())
            claims = [entry for entry in table.entries() if entry.action != Action.MERGED]
            entries.update(entry.entry_id for entry in claims)
            contents.update(entry.sha1 for entry in claims if entry.action == Action.KEEP)
        packs = self.volume.list_packs() - self.lookup.tables.problems.keys()
        pack_size = sum(map(self.volume.pack_size, packs))
        settings = self.volume.settings
        return StoreStats(
            str(self.volume.path), settings.store_id, settings.format_version, settings.durability, len(packs),
            pack_size, chunks, raw_size, payload_size, len(entries), len(contents),
        )  # fmt: skip

    def rebuild_index(self) -> int:
        """Make the index anew from the packs' tables. Returns the number of chunk records."""
        self._check_open()
        return self.lookup.rebuild()

    def wrong_kind(self, uri: Uri, why: str) -> WrongKindError:
        """The error for content that exists but is not what was asked for; raise it."""
        kinds = {entry.kind_name for entry, _ in self.lookup.entries(uri.sha1) if entry.action == Action.KEEP}
        stored = f"it was stored as {' and '.join(sorted(kinds))}" if kinds else "load it with load_bytes or load_file"
        return WrongKindError(f"{uri}: {why}; {stored}", sha1=uri.sha1.hex())


class _BatchScope:
    """`with repository.batch():`. Leave it in the thread that entered it."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._batch: Batch | None = None  # None: the outer batch is joined

    def __enter__(self) -> None:
        current = self._repository.current_batch
        if current.get() is None:
            self._batch = self._repository.begin_batch()
            current.set(self._batch)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        self._repository.current_batch.set(None)
        try:
            if kind is None:
                self._repository.end_batch(batch)
        finally:
            batch.discard()  # nothing, if it was finished
