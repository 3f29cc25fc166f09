"""The write pipeline of tiles: one pass over a source, row of tiles by row of tiles, in bounded memory.

The caller's thread reads some rows of tiles into a block; SHA-1 takes the block's bytes in order, and the encoders gather
the tiles from the same bytes. So a source that changes meanwhile can be torn, but never gets another content's identity.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kacas.block_workers import BlockWorkers
from kacas.disk.room import room_for
from kacas.errors import SourceChangedError
from kacas.ingest import Ingest, Ingested, Progress, Sink, Tree
from kacas.model.codec import MIB
from kacas.model.digest import new_sha1
from kacas.model.encoder import Recipe
from kacas.model.manifest import Child
from kacas.model.source import Source
from kacas.model.tile_plan import dtype_of
from kacas.model.tiling import Tiling

_READ_SIZE = 4 * MIB  # that SHA-1 is given at a time
_GROUP_SIZE = 1 * MIB  # bytes of tiles that one thread encodes at a time
_SHARE_OF_MEMORY = 4
_MOST_BLOCKS = 3  # in flight: reading, hashing and encoding overlap
_ROOM = bytearray()  # a block has many flights here, and is free when the last has landed


class TileIngest:
    """Puts arrays as tiles. Thread-safe."""

    def __init__(self, ingest: Ingest, threads: int, cache: Path, memory: int) -> None:
        """memory: bytes, of which a share is taken for rows of tiles; larger ones wait in a file below `cache`."""
        self._ingest = ingest
        self._threads = threads
        self._cache = cache
        self._most = memory // _SHARE_OF_MEMORY
        self._local = threading.local()

    def put(
        self,
        source: Source,
        tiling: Tiling,
        sink: Sink,
        *,
        head: bytes,
        description: dict[str, object],
        recipe: Recipe,
        progress: Progress | None = None,
    ) -> Ingested:
        """As `Ingest.put`, for a source of exactly the tiling's size. Raises SourceChangedError if it has another."""
        sha1 = new_sha1()
        sha1.update(head)
        tree = Tree(sink)
        rooms: deque[tuple[memoryview, int]] = deque()  # blocks on their way, and how many flights each has
        most = max(1, min(_MOST_BLOCKS, self._most // tiling.block_size))
        free: list[memoryview] = []
        done = len(head)
        encode = partial(self._encode, tiling, recipe=recipe, sink=sink)
        with BlockWorkers(self._threads, sha1.update, encode) as workers:
            for block in tiling.blocks():
                while len(rooms) >= most:
                    free.append(_land(workers, rooms, tree))
                room = free.pop() if free else room_for(block.size, self._cache, self._most)
                view, before = room[: block.size], workers.flying
                for start in range(0, block.size, _READ_SIZE):
                    part = view[start : start + _READ_SIZE]
                    _fill(source, part)
                    workers.give(_ROOM, part, view, ())  # hashed at once, encoded when the whole block is there
                    done += len(part)
                    if progress is not None:
                        progress(done, len(head) + tiling.size)
                step = max(1, _GROUP_SIZE // tiling.tile_size)
                for first in range(0, block.count, step):
                    workers.give(_ROOM, view[:0], view, range(first, min(first + step, block.count)))
                rooms.append((room, workers.flying - before))
            if source.readinto(memoryview(bytearray(1))):
                source.check_unchanged()
                raise _another_size()
            source.check_unchanged()
            while rooms:
                _land(workers, rooms, tree)
        root = tree.finish(head, description, tiling)
        sink.note_whole(root)
        return Ingested(sha1.digest(), root, done)

    def _encode(
        self, tiling: Tiling, data: memoryview, tiles: Sequence[int], *, recipe: Recipe, sink: Sink
    ) -> list[Child]:
        """Gather tiles of a block, one behind the other, and digest, look up, compress and append them."""
        if not tiles:
            return []
        block, unit = tiling.block_of(len(data)), tiling.unit
        array = _items(data, unit).reshape(*block.shape[:-1], block.shape[-1] // unit)
        buffer = self._buffer(len(tiles) * tiling.tile_size)
        ends, at = [], 0
        for number in tiles:
            *outer, last = block.box(block.corner(number))
            tile = array[(*outer, slice(last.start // unit, last.stop // unit))]
            np.copyto(_items(buffer[at : at + tile.nbytes], unit).reshape(tile.shape), tile)
            at += tile.nbytes
            ends.append(at)
        return self._ingest.encode_chunks(buffer[:at], ends, recipe=recipe, sink=sink)

    def _buffer(self, size: int) -> memoryview:
        """A reused buffer of this thread: fresh pages would cost more than the copy."""
        buffer: bytearray | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self._local.buffer = bytearray(size)
        return memoryview(buffer)[:size]


def _items(data: memoryview, unit: int) -> NDArray[Any]:
    return np.frombuffer(data, np.uint8).view(dtype_of(unit))


def _land(workers: BlockWorkers, rooms: deque[tuple[memoryview, int]], tree: Tree) -> memoryview:
    """Wait for the oldest block; returns its room."""
    room, flights = rooms.popleft()
    for _ in range(flights):
        tree.add(workers.land().children)
    return room


def _fill(source: Source, view: memoryview) -> None:
    while view:
        count = source.readinto(view)
        if not count:
            source.check_unchanged()
            raise _another_size()
        view = view[count:]


def _another_size() -> SourceChangedError:
    return SourceChangedError("the array's data has another size than its shape says; nothing was kept", path="-")
