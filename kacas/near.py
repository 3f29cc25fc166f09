"""The near store: opens what lies in a remote, reads of it what is not here, and keeps what it read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from kacas.content import Content
from kacas.decoded import DecodedChunks
from kacas.disk.lookup import Lookup
from kacas.disk.volume import Volume
from kacas.keeping import Keeping
from kacas.layouts import open_content
from kacas.model.entry import Entry
from kacas.read_through import IN_FLIGHT, PartSource, ReadThrough
from kacas.workers import Workers

_CONTENTS_KEPT = 64


class NearStore:
    """See Near. Thread-safe; not across a fork."""

    def __init__(
        self, volume: Volume, lookup: Lookup, *, threads: int, room: int, kept: int, published: Callable[[], None]
    ) -> None:
        """room, kept: see Fetch. published: is called after a pack was."""
        self._lookup = lookup
        self._room = room
        self._workers = Workers(max(threads, IN_FLIGHT), "kacas-far")
        self._decoded = DecodedChunks(kept)
        self._keeping = Keeping(volume, lookup, published)
        self._contents: OrderedDict[tuple[int, bytes], tuple[PartSource, Content]] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, entry: Entry, source: PartSource) -> Content:
        """See Near. What was opened of a source stays open for a while, with what was learned of its tree."""
        key = id(source), entry.root  # of a source that is held as long as the key is
        with self._lock:
            if key in self._contents:
                self._contents.move_to_end(key)
                return self._contents[key][1]
        fetch = ReadThrough(
            self._lookup, source, self._keeping, workers=self._workers, decoded=self._decoded, room=self._room
        )
        content = open_content(fetch, entry.root, entry.size)
        with self._lock:
            self._contents[key] = source, content
            while len(self._contents) > _CONTENTS_KEPT:
                self._contents.popitem(last=False)
        return content

    def flush(self) -> None:
        """Publish what was read through so far."""
        self._keeping.flush()

    def close(self) -> None:
        """Let the threads end, and publish what was read through. What is read later has new ones."""
        self._workers.close()
        self._keeping.flush()
