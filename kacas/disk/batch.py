"""One batch of puts: packs being written, what they hold so far, and what else they rely on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from kacas.disk.leaving import Leaving
from kacas.disk.lookup import Lookup
from kacas.disk.pack_writer import Framed, PackWriter, Payload, framed
from kacas.disk.volume import Volume
from kacas.errors import StoreClosedError, WriteError
from kacas.model.entry import Action, Entry, decode_entry
from kacas.model.location import Location
from kacas.model.pack_format import Purpose

PACK_SIZE = 256 << 20  # bytes; a fuller pack is published and the next one begun
# Bounds the memory of a table before it is written: 80 MiB with its entries, and as much for the pack that leaves.
_PACK_PAYLOADS = 1 << 17
_MAX_SKIPPED = 1 << 16
_PACK_ENTRIES_SIZE = 16 << 20
_MAX_TREES = 1 << 16


class _Pack:
    """A pack under construction, and what it will hold. own: its entries by SHA-1, but for members."""

    def __init__(self) -> None:
        self.writer: PackWriter | None = None  # from when there is something for it until it is published
        self.records: dict[bytes, bytes] = {}  # of chunks, by digest
        self.entries: list[bytes] = []
        self.entries_size = 0
        self.own: dict[bytes, list[Entry]] = {}
        self.members: dict[bytes, bytes] = {}  # entries that were added in bulk, by SHA-1, encoded


class Batch:
    """Collects payloads and entries; `finish` publishes them. Thread-safe; not across a fork.

    A pack that fills up is published before the end, while the next one is written: its chunks, and the entries of puts that
    are complete.
    """

    def __init__(
        self, volume: Volume, lookup: Lookup, purpose: Purpose = Purpose.STORED, pack_size: int = PACK_SIZE
    ) -> None:
        """pack_size: bytes at which a pack is published."""
        self._volume = volume
        self._purpose = purpose
        self._pack_size = pack_size
        self._lookup = lookup
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._pack = _Pack()
        # The one before, full, on its way or there. Its entries are told until the next is full: who asked the index just
        # before they were there misses nothing.
        self._full = _Pack()
        self._leaving: Leaving | None = None
        self._relied: set[bytes] = set()
        self._trees: set[bytes] = set()  # roots: when the batch has ended, all below them is in packs
        self.skipped: list[Entry] = []
        self._packs: set[bytes] = set()
        self._ended = False
        self._failure: BaseException | None = None

    def known(self, digests: Iterable[bytes]) -> set[bytes]:
        """Those that need not be stored again: pending in this batch, or seen in a pack of this store just now."""
        wanted = set(digests)
        with self._lock:
            here = {digest for digest in wanted if digest in self._pack.records or digest in self._full.records}
        confirmed = self._lookup.confirmed(wanted - here)
        self.rely(location.pack_id for location in confirmed.values())
        return here | confirmed.keys()

    def rely(self, pack_ids: Iterable[bytes]) -> None:
        """What is in these packs is not stored again: they must be there, and durable, when the batch ends."""
        with self._lock:
            self._relied.update(pack_ids)

    def append(self, payloads: Sequence[Payload], *, lasting: bool = False) -> None:
        """As `append_framed`, for payloads without their headers."""
        self.append_framed(framed(payloads), lasting=lasting)

    def append_framed(self, payloads: Sequence[Framed], *, lasting: bool = False) -> None:
        """Take payloads; their buffers are free when this returns, unless they are lasting: see `PackWriter.append_framed`."""
        with self._lock:
            self._check_open()
            try:
                writer = self._open_writer()
                records = writer.append_framed(payloads, lasting=lasting)
            except BaseException as exc:
                # A pack with a hole is never published, even if the caller goes on with other puts.
                self._fail(exc)
                raise
            for (header, _), record in zip(payloads, records, strict=True):
                self._pack.records[header.digest] = record
            if writer.size >= self._pack_size or writer.payload_count >= _PACK_PAYLOADS:
                self._let_go()

    def _open_writer(self) -> PackWriter:
        self._pack.writer = self._pack.writer or PackWriter(self._volume, self._purpose)
        return self._pack.writer

    def add_entry(self, entry: Entry) -> None:
        """As `add_entries`, for one."""
        self.add_entries([entry])

    def add_entries(self, entries: Iterable[Entry]) -> None:
        """Everything that the entries' roots need must have been appended, or be known."""
        with self._lock:
            self._check_open()
            for entry in entries:
                encoded = entry.encode()
                self._pack.entries.append(encoded)
                self._pack.entries_size += len(encoded)
                self._pack.own.setdefault(entry.sha1, []).append(entry)
            self._let_many_entries_go()

    def add_members(self, encoded: Mapping[bytes, bytes]) -> None:
        """As `add_entries`, for encoded member entries by the SHA-1 that each is about."""
        with self._lock:
            self._check_open()
            self._pack.entries.extend(encoded.values())
            self._pack.entries_size += sum(map(len, encoded.values()))
            self._pack.members.update(encoded)
            self._let_many_entries_go()

    def _let_many_entries_go(self) -> None:
        if self._pack.entries_size >= _PACK_ENTRIES_SIZE:
            self._open_writer()
            self._let_go()

    def has_entries(self, sha1s: Iterable[bytes]) -> set[bytes]:
        """Those of which `entries` knows any."""
        with self._lock:
            wanted = set(sha1s)
            return {
                sha1
                for pack in (self._full, self._pack)
                for sha1 in wanted & pack.own.keys() | wanted & pack.members.keys()
            }

    def entries(self, sha1: bytes) -> list[Entry]:
        """Entries of this batch, those at least that are not published yet."""
        with self._lock:
            found: list[Entry] = []
            for pack in (self._full, self._pack):
                found += pack.own.get(sha1, ())
                if member := pack.members.get(sha1):
                    found.append(decode_entry(member)[0])
            return found

    def own_entries(self) -> list[Entry]:
        """All keep entries that are neither published nor on their way."""
        with self._lock:
            return [entry for entries in self._pack.own.values() for entry in entries if entry.action == Action.KEEP]

    def skip_entry(self, entry: Entry) -> None:
        """Leave out an entry because the owner's same entry is alive; `skipped` is looked at again before the end."""
        if len(self.skipped) < _MAX_SKIPPED:
            self.skipped.append(entry)
        else:
            self.add_entry(entry)  # bounds the memory: a second claim does no harm

    def note_whole(self, root: bytes) -> None:
        """Every payload of the root's tree, chunks included, was appended or is known."""
        with self._lock:
            if len(self._trees) < _MAX_TREES:
                self._trees.add(root)

    def pending(self, digests: Iterable[bytes]) -> dict[bytes, Location]:
        """Where payloads are of this batch's packs that are not published; read them with `read`."""
        wanted = set(digests)
        with self._lock:
            places = [(pack.writer, pack.records) for pack in (self._full, self._pack)]
            return {
                digest: writer.location(records[digest])
                for writer, records in places
                if writer is not None
                for digest in wanted & records.keys()
            }

    def read(self, location: Location) -> bytes | None:
        """Header, parameters and payload from the pack under construction; None if they are in a published one.

        Waits for the pack that is on its way; raises what made the batch fail.
        """
        with self._lock:
            writer = self._pack.writer
            if writer is not None and writer.pack_id == location.pack_id:
                return writer.read(location.offset, location.stop - location.offset)
            full = self._full.writer
            if full is not None and full.pack_id == location.pack_id:
                self._await_full()
                if self._failure is not None:
                    raise self._failure  # not that it is missing, but why
            return None

    def write_gathered(self) -> None:
        """Write lasting payloads that were taken."""
        writer = self._pack.writer  # without our lock: who appends need not wait for the disk
        if writer is not None:
            try:
                writer.write_gathered()
            except BaseException as exc:
                with self._lock:
                    self._fail(exc)
                raise

    def write_back(self) -> None:
        """Begin to sync what is there, if it is much: `finish` will come soon."""
        with self._lock:
            if self._pack.writer is not None:
                self._pack.writer.write_back()

    def finish(self) -> None:
        """Publish what is left. When this returns, every entry of the batch is durable and every pack relied on is there."""
        with self._lock:
            self._check_open()
            try:
                self._await_full()
                self._check_open()
                if self._pack.entries:
                    self._open_writer()  # an entry is published even if every chunk was there
                if self._pack.writer is not None:
                    self._publish(self._pack)
                self._lookup.settle(self._relied - self._packs)
                self._check_relied()
                self._lookup.mark_whole(self._trees)
            except BaseException as exc:
                self._fail(exc)
                raise
            self._end()

    def discard(self) -> None:
        """Publish nothing more. Packs that filled up before stay: their complete puts are claims, the rest orphans."""
        if os.getpid() == self._pid:
            with self._lock:
                try:
                    self._await_full()
                finally:
                    self._end()

    def _let_go(self) -> None:
        """Have the pack published, which is full. Who appends need not wait for the disk, unless that is a whole pack behind."""
        self._await_full()
        self._check_open()
        leaving = Leaving(partial(self._publish, self._pack))
        # In one go, and begun after it: by Ctrl-C the pack is still the one that is written, or waited for.
        self._leaving, self._full, self._pack = leaving, self._pack, _Pack()
        leaving.begin()

    def _await_full(self) -> None:
        leaving = self._leaving
        if leaving is None or os.getpid() != self._pid:
            return
        try:
            leaving.wait()
        finally:
            if leaving.failure is not None:
                self._leaving = None
                self._fail(leaving.failure)
        self._leaving = None

    def _publish(self, pack: _Pack) -> None:
        """Without the lock, as a thread does it that a forked child does not have."""
        assert pack.writer is not None
        pack_id = pack.writer.pack_id
        table = pack.writer.finish(pack.entries)
        self._packs.add(pack_id)
        self._lookup.settled([pack_id])
        self._lookup.published(pack_id, table)
        pack.records, pack.entries, pack.writer = {}, [], None  # the index has them

    def _check_relied(self) -> None:
        for pack_id in self._relied - self._packs:
            path = self._volume.pack_path(pack_id)
            if not self._lookup.packs.is_current(pack_id):
                self._lookup.packs.forget(pack_id)
                self._lookup.refresh()
                raise WriteError(
                    f"pack {path.name} vanished or changed while its chunks were relied on; store again", path=str(path)
                )

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise StoreClosedError("this batch belongs to the parent process; open one after the fork")
        leaving = self._leaving
        if leaving is not None and leaving.failure is not None:
            self._fail(leaving.failure)
        if self._failure is not None:
            raise self._failure  # not that it has ended, but why
        if self._ended:
            raise StoreClosedError("this batch has ended; nothing of it that was still open is stored")

    def _fail(self, why: BaseException) -> None:
        if self._failure is None:
            self._failure = why
        self._end()

    def _end(self) -> None:
        self._ended = True
        if os.getpid() != self._pid:
            return  # the files are the parent's
        # What is on its way is left to who publishes it.
        ending = [self._pack] if self._leaving is not None else [self._full, self._pack]
        for pack in ending:
            if pack.writer is not None:
                pack.writer.discard()
        self._pack = _Pack()
        if self._leaving is None:
            self._full = _Pack()
