"""Tiled content: a layout of tiles, open for verified reading of any range of bytes and of any box of the array."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kacas.content import WINDOW_SIZE, Content
from kacas.disk.room import room_for
from kacas.errors import DamagedContentError
from kacas.fetch import Fetch
from kacas.model.codec import MIB
from kacas.model.location import Piece
from kacas.model.manifest import Child, Manifest
from kacas.model.selection import Positions
from kacas.model.tile_plan import TileRead, box_of, boxes_of_range, bytes_read, reads_of
from kacas.model.tiling import FAN_OUT, Tiling

_LEAST_TOGETHER, _MOST_TOGETHER = (
    512 * 1024,
    2 * MIB,
)  # bytes of tiles that one thread reads at a time: a cache holds them
_MOST_IN_MEMORY = 64 * MIB  # of tiles that are read from front to back
_MOST_AHEAD = 8 * MIB
_FLYING = 3  # groups for each thread: bounds the plan of a large read


class TiledContent(Content):
    """As its parent; a file that was linked does not help here, since a tile is no run of its bytes."""

    def __init__(self, fetch: Fetch, root: bytes, manifest: Manifest, tiling: Tiling) -> None:
        super().__init__(fetch, root, manifest, manifest.size, None)
        self._tiles = tiling
        self._threads = fetch.threads
        self._one_by_one = fetch.for_one_thread()
        self._decoded = fetch.decoded
        self._local = threading.local()

    def _read_data(self, start: int, out: memoryview) -> None:
        """Every tile is decoded once."""
        unit, boxes = boxes_of_range(self._tiles, start, out)
        self._read(reads_of(self._tiles, unit, boxes), len(out))

    def read_box(self, positions: Sequence[Positions], box: NDArray[Any]) -> None:
        """Fill an array with the items at these positions along each axis in memory order.

        The content's shape must be that of an array of such items.
        """
        unit, planned = box_of(self._tiles, positions, box.itemsize, box)
        self._read(reads_of(self._tiles, unit, [planned]), self.cost(positions, box.itemsize))

    def cost(self, positions: Sequence[Positions], item_size: int) -> int:
        """Bytes that `read_box` decodes."""
        return bytes_read(self._tiles, positions, item_size)

    @property
    def read_ahead(self) -> int:
        """A row of tiles, if it is not too large."""
        return min(max(super().read_ahead, self._tiles.row_size), _MOST_AHEAD)

    def windows(self) -> Iterator[memoryview]:
        """See Content. A row of tiles that is larger than memory should hold waits in a file."""
        if self.head:
            yield memoryview(self.head)
        at = len(self.head)
        room: memoryview | None = None
        for block in self._tiles.blocks():
            if room is None:
                room = room_for(block.size, self._fetch.cache, _MOST_IN_MEMORY)
            self.read_into(at, room[: block.size])
            for start in range(0, block.size, WINDOW_SIZE):
                yield room[start : min(start + WINDOW_SIZE, block.size)]
            at += block.size

    def _read(self, reads: Iterable[TileRead], size: int) -> None:
        """size: about the bytes of the tiles. Those of which a part is wanted are kept decoded, if all of them can be."""
        read_group = partial(self._read_group, keep=size <= self._decoded.budget)
        groups = _groups(reads, min(_MOST_TOGETHER, max(_LEAST_TOGETHER, size // (2 * self._threads))))
        ahead = list(islice(groups, 2))
        if len(ahead) < 2 or self._threads < 2:
            for group in (*ahead, *groups):
                read_group(group)
            return
        flying: deque[Future[None]] = deque()
        with ThreadPoolExecutor(self._threads, "kacas-tiles") as pool:
            try:
                for more in (ahead, groups):
                    for group in more:
                        flying.append(pool.submit(read_group, group))
                        if len(flying) > _FLYING * self._threads:
                            flying.popleft().result()
                while flying:
                    flying.popleft().result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _read_group(self, group: list[TileRead], keep: bool) -> None:
        """Decode the tiles, in place where one lies in one piece there, else into a buffer of this thread, or one to keep."""
        buffer = self._buffer(sum(read.size for read in group))
        pieces, waiting = [], []
        new: list[tuple[bytes, bytearray]] = []
        at = 0
        for read in group:
            piece = Piece(self._tile(read.number, read.size).digest, read.size, 0, read.whole or memoryview(b""))
            if not piece.out:
                piece = piece._replace(out=buffer[at : at + read.size])
                at += read.size
                keeping = keep and read.is_part
                there = keeping and self._decoded.copy(piece)
                if keeping and not there:
                    chunk = self._decoded.buffer(read.size)
                    new.append((piece.digest, chunk))
                    piece = piece._replace(out=memoryview(chunk))
                waiting.append((read, piece.out))
                if there:
                    continue
            pieces.append(piece)
        self._one_by_one.read_pieces(pieces)
        for read, raw in waiting:
            dtype = read.copies[0].target.dtype
            tile = np.frombuffer(raw, np.uint8).view(dtype).reshape(read.extents)
            for copy in read.copies:
                copy.run(tile)
        for digest, chunk in new:
            self._decoded.keep(digest, chunk)

    def _tile(self, number: int, size: int) -> Child:
        """The tile's chunk, which must have the size that its place demands."""
        level, children = self._level, self._top.children
        while True:
            index, number = divmod(number, int(FAN_OUT**level))
            if index >= len(children):
                raise self._misplaced(f"lacks tile {number}")
            child = children[index]
            if level == 0:
                break
            children = self._node(child, level).children
            level -= 1
        if child.size != size:
            raise self._misplaced(f"gives a tile of {size} bytes the size {child.size}")
        return child

    def _misplaced(self, what: str) -> DamagedContentError:
        return DamagedContentError(
            f"the tree of root {self.root.hex()} {what}; it was not written by kacas", digest=self.root.hex()
        )

    def _buffer(self, size: int) -> memoryview:
        """A reused buffer of this thread: fresh pages would cost more than the copy."""
        buffer: bytearray | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self._local.buffer = bytearray(max(size, MIB))
        return memoryview(buffer)[:size]


def _groups(reads: Iterable[TileRead], most: int) -> Iterator[list[TileRead]]:
    group: list[TileRead] = []
    size = 0
    for read in reads:
        if group and size + read.size > most:
            yield group
            group, size = [], 0
        group.append(read)
        size += read.size
    if group:
        yield group
