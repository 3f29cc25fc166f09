"""Sending packs: a few at the same time, from buffers that are used again."""

from __future__ import annotations

import mmap
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

from kacas.model.pack_format import Table
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.layout import pack_key
from kacas_remote.push.packs import PACK_SIZE, PackBuilder

IN_FLIGHT = 4
"""Buffers, too: while one is filled, three are on their way."""
_SMALLEST = 1 << 20
_TICK_S = 0.2


class Landed(NamedTuple):
    """A pack that is in the bucket now. size: bytes of all of it."""

    pack_id: bytes
    table: Table
    size: int


class Sender:
    """Sends packs by daemon threads: who is interrupted need not wait for them. Used by one thread. A context manager."""

    def __init__(self, blobs: BlobStore, limit_bytes_s: float | None = None, size: int = 0) -> None:
        """limit_bytes_s: that `blobs` keeps. size: about what will be sent, bytes."""
        self._blobs = blobs
        self._landed: list[Landed] = []
        self._count = IN_FLIGHT
        self._full_size = PACK_SIZE
        if limit_bytes_s:
            # One second's worth at a time, so that the line is used evenly.
            self._full_size, self._count = max(_SMALLEST, min(PACK_SIZE, int(limit_bytes_s))), 1
        # The sooner the first one goes, the sooner the service has something to do; of many it is one more.
        self.pack_size = self._full_size // 4 if size >= IN_FLIGHT * PACK_SIZE else self._full_size
        self._waiting: SimpleQueue[PackBuilder | None] = SimpleQueue()
        self._free: list[mmap.mmap] = []
        self._changed = threading.Condition()
        self._buffers = self._flying = 0
        self._failure: BaseException | None = None
        self._ended = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing more is sent; what is on its way may arrive."""
        with self._changed:
            self._ended = True
            self._free.clear()  # at once: there are circles of references, which are not collected for long
        for _thread in self._threads:
            self._waiting.put(None)

    def buffer(self) -> mmap.mmap:
        """One that nobody uses; waits for it. Raises what sending raised."""
        with self._changed:
            while not self._free and self._buffers >= self._count:
                self._check()
                self._changed.wait(_TICK_S)  # a signal is to be noticed
            self._check()
            if self._free:
                return self._free.pop()
            self._buffers += 1
        return _new_buffer()

    def landed(self) -> list[Landed]:
        """The packs that arrived since this was asked last."""
        with self._changed:
            landed, self._landed = self._landed, []
            return landed

    def send(self, pack: PackBuilder) -> None:
        """Let the pack go. Raises what sending raised before."""
        with self._changed:
            self._check()
            self.pack_size = self._full_size
            self._flying += 1
            if len(self._threads) < min(self._count, self._flying):
                thread = threading.Thread(target=self._work, name="kacas-push", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._waiting.put(pack)

    def next_landed(self) -> list[Landed]:
        """As `landed`, but waits until one has arrived; none if all have. Raises what sending raised."""
        with self._changed:
            while self._flying and not self._landed and self._failure is None:
                self._changed.wait(_TICK_S)
            self._check()
        return self.landed()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (pack := self._waiting.get()) is not None:
            try:
                if self._failure is None and not self._ended:
                    self._send(pack)
            except BaseException as exc:  # noqa: BLE001 - it is raised where the packs come from
                with self._changed:
                    self._failure = self._failure or exc
            with self._changed:
                if not self._ended:
                    self._free.append(pack.buffer)
                self._flying -= 1
                self._changed.notify_all()

    def _send(self, pack: PackBuilder) -> None:
        data, table = pack.finish()
        if not self._blobs.put_if_absent(pack_key(pack.pack_id), data):
            raise AssertionError(f"pack {pack.pack_id.hex()} was there before it was made")
        with self._changed:
            self._landed.append(Landed(pack.pack_id, table, len(data)))


def _new_buffer() -> mmap.mmap:
    """Not of the heap, which keeps what it had. Large pages take a third of the time to touch."""
    buffer = mmap.mmap(-1, PACK_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer
