"""Batches whose first pack is full and on its way, and a disk that is slow or bad for the while."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable

from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
from kacas.disk.pack_writer import Payload
from kacas.disk.volume import Volume
from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind, chunk_digest
from kacas.model.entry import Entry
from kacas.model.pack_format import PayloadHeader


class Disk:
    """Syncs of files end when they may, or fail."""

    def __init__(self, sync: Callable[[int], None]) -> None:
        self._sync = sync
        self.may_end, self.is_bad = threading.Event(), False
        self.may_end.set()
        self.syncing = threading.Event()

    def __call__(self, fd: int) -> None:
        self.syncing.set()
        assert self.may_end.wait(10)
        if self.is_bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._sync(fd)

    def hold(self) -> None:
        """Until `go_on`; who waits for a sync meanwhile waits until that fails."""
        self.may_end.clear()

    def go_on(self) -> None:
        """In a moment, when somebody waits."""
        threading.Timer(0.1, self.may_end.set).start()


def raw(i: int) -> bytes:
    return random.Random(i).randbytes(300)


def digest(i: int) -> bytes:
    return chunk_digest(raw(i))


def payload(i: int) -> Payload:
    return PayloadHeader(PayloadKind.CHUNK, Codec.RAW, 300, 300, digest(i)), raw(i)


def entry(i: int) -> Entry:
    return Entry(os.urandom(16), b"%020d" % i, digest(i), 300, 1000 + i, 0, b"me", b"label")


def full_batch(volume: Volume, lookup: Lookup) -> Batch:
    """One whose first pack is full, and on its way."""
    batch = Batch(volume, lookup, pack_size=1000)
    batch.add_entry(entry(1))
    batch.append([payload(1), payload(2), payload(3)])
    return batch


def names(volume: Volume) -> list[str]:
    return sorted(os.listdir(volume.packs))
