"""Tiled content: a layout of tiles, open for verified reading of any range of bytes and of any box of the array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from kacas.content import WINDOW_SIZE, Content
from kacas.disk.room import room_for
from kacas.errors import DamagedContentError
from kacas.fetch import Fetch
from kacas.model.codec import MIB
from kacas.model.location import Piece
from kacas.model.manifest import Child, Manifest
from kacas.model.selection import Positions
from kacas.model.tile_plan import Box, TileRead, box_of, boxes_of_range, bytes_read, reads_of
from kacas.model.tiling import FAN_OUT, Tiling
from kacas.spans import Part, Wanted

_MOST_AHEAD = 8 * MIB


class TiledContent(Content):
    """As its parent; a file that was linked does not help here, since a tile is no run of its bytes."""

    def __init__(self, fetch: Fetch, root: bytes, manifest: Manifest, tiling: Tiling) -> None:
        super().__init__(fetch, root, manifest, manifest.size, None)
        self._tiles = tiling

    def _read_data(self, start: int, out: memoryview) -> None:
        """Every tile is decoded once."""
        unit, boxes = boxes_of_range(self._tiles, start, out)
        self._read(unit, boxes)

    def read_box(self, positions: Sequence[Positions], box: NDArray[Any]) -> None:
        """Fill an array with the items at these positions along each axis in memory order.

        The content's shape must be that of an array of such items.
        """
        unit, planned = box_of(self._tiles, positions, box.itemsize, box)
        self._read(unit, [planned])

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
                room = room_for(block.size, self._fetch.cache, self._fetch.room)
            self.read_into(at, room[: block.size])
            for start in range(0, block.size, WINDOW_SIZE):
                yield room[start : min(start + WINDOW_SIZE, block.size)]
            at += block.size

    def _read(self, unit: int, boxes: Sequence[Box]) -> None:
        """Tiles of which a part is wanted are kept decoded, if all of them can be."""
        size = sum(box.cost for box in boxes)  # a little more, where a tile is in two boxes
        keep = size <= self._fetch.decoded.budget
        self._fetch.read((self._wanted(read, keep) for read in reads_of(self._tiles, unit, boxes)), size)

    def _wanted(self, read: TileRead, keep: bool) -> Wanted:
        """The tile is decoded in place where it lies in one piece there."""
        digest = self._tile(read.number, read.size).digest
        whole = read.whole
        if whole is not None:
            return Piece(digest, read.size, 0, whole)
        return Part(digest, read.size, read.scatter, keep and read.is_part)

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
