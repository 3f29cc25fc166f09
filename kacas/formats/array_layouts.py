"""The layouts of one array: what is wanted is read from the one that decodes the fewest bytes for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from kacas.content import Content
from kacas.errors import DamagedError, MissingPackageError, StoreError
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.npy_header import NpyHeader
from kacas.model.selection import Positions, fill_box
from kacas.model.tile_plan import bytes_spanned
from kacas.tiled_content import TiledContent

C = TypeVar("C", bound=Content)


class ArrayLayouts:
    """One or more layouts of the same .npy file. Where the best cannot be read, the others are tried."""

    def __init__(self, contents: Sequence[Content], header: NpyHeader) -> None:
        """contents: the newest first."""
        self._header = header
        self._shape = header.shape[::-1] if header.fortran_order else header.shape
        # A sequence is the better one for what is read from front to back.
        self._contents = sorted(contents, key=lambda content: content.tiling is not None)
        self._tiled = [content for content in self._contents if self._is_tiled(content)]

    def _is_tiled(self, content: Content) -> bool:
        """Whether boxes can be read: tiles of another shape with the same bytes are good for these alone."""
        *outer, last = self._shape or (1,)
        item_size = self._header.dtype.itemsize
        if content.tiling is None or content.tiling.tile[-1] % item_size:
            return False
        return content.tiling.shape == (*outer, last * item_size)

    @property
    def tiles(self) -> tuple[int, ...] | None:
        """The shape of the newest layout's tiles; None if there are none."""
        for content in self._tiled:
            assert content.tiling is not None
            *outer, last = content.tiling.tile
            lengths = (*outer, last // self._header.dtype.itemsize) if self._shape else ()
            return lengths[::-1] if self._header.fortran_order else lengths
        return None

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the data from `start` on."""
        _first_good(self._contents, lambda content: content.read_into(self._header.size + start, out))

    def read_scattered(self, in_order: NDArray[Any]) -> bool:
        """Fill an array that lies in several pieces, axes in memory order; False if the layout can be read into one only,
        or cannot be read as it is."""
        boxes = [content for content in self._contents if isinstance(content, TiledContent) and content in self._tiled]
        if len(boxes) < len(self._contents):
            return False
        whole = [range(length) for length in in_order.shape]
        try:
            _first_good(boxes, lambda content: content.read_box(whole, in_order))
        except (DamagedError, MissingPackageError):
            return False  # piece by piece, spares can help
        return True

    def read_box(self, positions: Sequence[Positions], box: NDArray[Any]) -> None:
        """See `select`."""
        contents = self._contents
        if self._tiled and len(contents) > 1:
            contents = sorted(contents, key=lambda content: self._cost(content, positions))
        try:
            _first_good(contents, lambda content: self._read_box(content, positions, box))
        except (DamagedError, MissingPackageError, StoreError):
            # A spare has ranges of bytes, not boxes.
            spared = next((content for content in contents if content.has_spares), None)
            if spared is None:
                raise
            self._read_ranges(spared, positions, box)

    def _cost(self, content: Content, positions: Sequence[Positions]) -> int:
        item_size = self._header.dtype.itemsize
        if isinstance(content, TiledContent) and content in self._tiled:
            return content.cost(positions, item_size)
        return bytes_spanned(self._shape, positions, item_size, CHUNK_TARGET)

    def _read_box(self, content: Content, positions: Sequence[Positions], box: NDArray[Any]) -> None:
        if isinstance(content, TiledContent) and content in self._tiled:
            content.read_box(positions, box)
        else:
            self._read_ranges(content, positions, box)

    def _read_ranges(self, content: Content, positions: Sequence[Positions], box: NDArray[Any]) -> None:
        size = self._header.size
        fill_box(box, positions, self._shape, lambda start, out: content.read_into(size + start, out))


def _first_good(contents: Sequence[C], read: Callable[[C], None]) -> None:
    for content in contents[:-1]:
        try:
            read(content)
        except (DamagedError, MissingPackageError):
            continue
        return
    read(contents[-1])
