"""Keeping: what was read through goes into packs of the store, in groups, behind the reader's back.

Such packs are FETCHED and have no entries: nobody claims what is in them, and who needs room may drop them.
"""

from __future__ import annotations

import atexit
import threading
import warnings
import weakref
from collections.abc import Callable, Collection, Sequence

from kacas.disk.batch import Batch
from kacas.disk.forked import Forked
from kacas.disk.lookup import Lookup
from kacas.disk.volume import Volume
from kacas.errors import KacasError, ReadOnlyStoreError
from kacas.model.codec import MIB
from kacas.model.pack_format import Purpose, decode_payload_header
from kacas.read_through import Payload

_GROUP_SIZE = 16 * MIB  # bytes that make a pack
_MOST_WAITING = 64 * MIB  # beyond it, who reads waits for the disk
_PAUSE_S = 2.0  # a smaller group waits for more to come


class Keeping:
    """Payloads on their way into packs. Thread-safe; a forked child begins without any, as its parent keeps them."""

    def __init__(self, volume: Volume, lookup: Lookup, published: Callable[[], None]) -> None:
        """published: is called after a pack was."""
        self._volume = volume
        self._lookup = lookup
        self._published = published
        self._is_given_up = not volume.is_writable
        self._renew()
        self._forked = Forked(self._renew)
        _every.add(self)

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._publishing = threading.Lock()
        self._waiting: dict[bytes, memoryview] = {}
        self._size = 0
        self._thread: threading.Thread | None = None

    def get(self, digests: Collection[bytes]) -> dict[bytes, memoryview]:
        """See Kept."""
        self._forked.check()
        if not self._waiting:
            return {}
        with self._changed:
            return {digest: self._waiting[digest] for digest in digests if digest in self._waiting}

    def keep(self, payloads: Sequence[Payload]) -> None:
        """See Kept."""
        self._forked.check()
        if self._is_given_up or not payloads:
            return
        with self._changed:
            for header, payload in payloads:
                if header.digest not in self._waiting:
                    self._waiting[header.digest] = memoryview(header.encode(payload) + bytes(payload))
                    self._size += header.total_size
            begun = self._begin()
            self._changed.notify_all()
        if not begun or self._size > _MOST_WAITING:
            self.flush()

    def _begin(self) -> bool:
        """Have a thread that publishes; False if none can be had, as at the end of the program."""
        if self._thread is None:
            thread = threading.Thread(target=_publish_often, args=(weakref.ref(self),), name="kacas-keep", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def wait(self) -> bool:
        """Until there is a group to be published; False if for a while there was nothing at all."""
        with self._changed:
            self._changed.wait_for(lambda: self._size >= _GROUP_SIZE, _PAUSE_S)
            if not self._waiting:
                self._thread = None
                return False
            return True

    def flush(self) -> None:
        """Publish what waits. What cannot be written is dropped, and nothing is kept from then on; that is warned of once."""
        self._forked.check()
        with self._publishing:
            with self._changed:
                taken = dict(self._waiting)
            if not taken:
                return
            try:
                if not self._is_given_up:
                    self._publish(taken)
            except ReadOnlyStoreError:
                self._is_given_up = True  # nobody expects that anything is kept
            except KacasError as exc:
                self._is_given_up = True
                text = f"{exc}. What is read of remote content is not kept any more; `kacas doctor` tells more"
                warnings.warn(text, RuntimeWarning, stacklevel=3)
            finally:
                with self._changed:
                    for digest, data in taken.items():
                        if self._waiting.pop(digest, None) is not None:
                            self._size -= len(data)

    def _publish(self, taken: dict[bytes, memoryview]) -> None:
        batch = Batch(self._volume, self._lookup, Purpose.FETCHED)
        try:
            known = self._lookup.locate(taken)  # other threads and processes keep, too
            new = [(decode_payload_header(data), (data,)) for digest, data in taken.items() if digest not in known]
            if new:
                batch.append_framed(new)
            batch.finish()
        except BaseException:
            batch.discard()
            raise
        self._published()


def _publish_often(keeping: weakref.ref[Keeping]) -> None:
    while True:
        found = keeping()
        if found is None or not found.wait():
            return
        found.flush()
        del found


_every: weakref.WeakSet[Keeping] = weakref.WeakSet()


def _flush_all() -> None:
    for keeping in list(_every):
        keeping.flush()


atexit.register(_flush_all)
