"""Tiles: an array's data cut along every axis, so that a slice along any of them reads little.

A tiling speaks of bytes in memory order (C order; of a Fortran array the axes are reversed first): the last axis is
counted in bytes, and so no item size is needed to say where a byte lies. Tiles at the upper edges are clipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, prod
from numbers import Integral

from kacas.errors import InvalidChunksError
from kacas.model.codec import MAX_CHUNK_SIZE, MIB

FAN_OUT = 256
MAX_CONTENT_SIZE = 1 << 62
MAX_AXES = 64
LEAST_TILE_SIZE = 4096  # bytes: a smaller tile costs more than it holds, in tables, index and time
TARGET_BLOCK_SIZE = 8 * MIB

_FRONT = struct.Struct("<B7x")
_AXIS = struct.Struct("<QQ")

Chunks = int | Sequence[int | None]
"""Lengths of a tile along each axis, as a user gives them; None for the whole axis."""


@dataclass(frozen=True)
class Tiling:
    """shape: of the data. tile: of a tile that is not clipped. Both in memory order, the last axis in bytes."""

    shape: tuple[int, ...]
    tile: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the data."""
        return prod(self.shape)

    @property
    def tile_size(self) -> int:
        """Bytes of a tile that is not clipped."""
        return prod(self.tile)

    @property
    def grid(self) -> tuple[int, ...]:
        """Tiles along each axis. They are numbered in C order."""
        return tuple(-(-length // step) for length, step in zip(self.shape, self.tile, strict=True))

    @property
    def count(self) -> int:
        return prod(self.grid)

    @property
    def unit(self) -> int:
        """1, 2, 4, 8 or 16 bytes: what the last axis can be counted in, so that a copy moves many at once."""
        return widest(self.shape[-1], self.tile[-1])

    def corner(self, number: int) -> tuple[int, ...]:
        """Where a tile lies in the grid."""
        places = []
        for length in reversed(self.grid):
            number, place = divmod(number, length)
            places.append(place)
        return tuple(reversed(places))

    def box(self, corner: Sequence[int]) -> tuple[slice, ...]:
        """What the tile at a place of the grid covers."""
        return tuple(
            slice(at * step, min((at + 1) * step, length))
            for at, step, length in zip(corner, self.tile, self.shape, strict=True)
        )

    def size_before(self, number: int) -> int:
        """Bytes of all tiles with a lower number."""
        if number >= self.count:
            return self.size
        total, here, rest = 0, 1, self.size
        for part, length in zip(self.box(self.corner(number)), self.shape, strict=True):
            rest //= length
            total += here * part.start * rest
            here *= part.stop - part.start
        return total

    @property
    def level(self) -> int:
        """Of the manifest's children, by the rule of the fan-out."""
        level, row = 0, self.count
        while row > FAN_OUT:
            level, row = level + 1, -(-row // FAN_OUT)
        return level

    def child_sizes(self) -> list[int]:
        """Bytes that each child of the manifest must have."""
        span = FAN_OUT**self.level
        ends = [self.size_before(number) for number in range(0, self.count + span, span)]
        return [stop - start for start, stop in pairwise(ends)]

    def blocks(self) -> Iterator[Tiling]:
        """The data in parts that lie in one piece: some rows of tiles each, of about TARGET_BLOCK_SIZE if one row is less.

        Their tiles, in order, are those of the whole.
        """
        for start in range(0, self.size, self.block_size):
            yield self.block_of(min(self.block_size, self.size - start))

    def block_of(self, size: int) -> Tiling:
        """The block that has so many bytes."""
        return Tiling((size // prod(self.shape[1:]), *self.shape[1:]), self.tile)

    @property
    def row_size(self) -> int:
        """Bytes of a row of tiles: of all that have one place along the first axis."""
        return self.tile[0] * prod(self.shape[1:])

    @property
    def block_size(self) -> int:
        """Bytes of each block but the last."""
        return min(self.row_size * max(1, TARGET_BLOCK_SIZE // self.row_size), self.size)

    def encode(self) -> bytes:
        """As it stands in a manifest."""
        axes = [_AXIS.pack(*axis) for axis in zip(self.shape, self.tile, strict=True)]
        return _FRONT.pack(len(axes)) + b"".join(axes)


def decode_tiling(data: memoryview) -> tuple[Tiling, int]:
    """The tiling at the start of `data`, and the bytes that it takes. Strict; raises ValueError."""
    if len(data) < _FRONT.size:
        raise ValueError("its tiles are cut short")
    (axes,) = _FRONT.unpack_from(data)
    stop = _FRONT.size + axes * _AXIS.size
    if not 1 <= axes <= MAX_AXES or len(data) < stop or any(data[1 : _FRONT.size]):
        raise ValueError("its tiles' axes are out of bounds")
    pairs = list(_AXIS.iter_unpack(data[_FRONT.size : stop]))
    tiling = Tiling(tuple(length for length, _ in pairs), tuple(step for _, step in pairs))
    if not all(0 < step <= length for length, step in pairs):
        raise ValueError("its tiles do not fit in its shape")
    if tiling.size > MAX_CONTENT_SIZE or tiling.tile_size > MAX_CHUNK_SIZE:
        raise ValueError("its shape or its tiles are too large")
    if tiling.tile_size < min(LEAST_TILE_SIZE, tiling.size):
        raise ValueError("its tiles are too small: their places would take more memory than the array")
    return tiling, stop


def widest(*sizes: int) -> int:
    """The largest of 1, 2, 4, 8 and 16 that divides all of them."""
    return gcd(16, *sizes)


def tiling_of(chunks: object, shape: tuple[int, ...], item_size: int, fortran_order: bool) -> Tiling:
    """The tiling that a user asks for.

    chunks: lengths of a tile in items, one for each axis of `shape`; None or -1 for the whole axis; one number for an
    array of one axis. What is longer than its axis is cut to it. The array must not be empty.
    Raises InvalidChunksError.
    """
    lengths = check_chunks(chunks, shape)
    tile = [min(step, length) for step, length in zip(lengths, shape, strict=True)]
    if fortran_order:
        shape, tile = shape[::-1], tile[::-1]
    axes = [*shape[:-1], (shape[-1] if shape else 1) * item_size]
    steps = [*tile[:-1], (tile[-1] if tile else 1) * item_size]
    tiling = Tiling(tuple(axes), tuple(steps))
    if tiling.tile_size > MAX_CHUNK_SIZE:
        raise InvalidChunksError(
            f"a tile of chunks={chunks!r} has {tiling.tile_size:,} bytes, at most {MAX_CHUNK_SIZE:,} are possible; "
            "choose shorter ones (some 256 KiB read fastest)"
        )
    if tiling.tile_size < min(LEAST_TILE_SIZE, tiling.size):
        raise InvalidChunksError(
            f"a tile of chunks={chunks!r} has only {tiling.tile_size:,} bytes, {LEAST_TILE_SIZE:,} are the least; "
            "choose longer ones (some 256 KiB read fastest)"
        )
    return tiling


def check_chunks(chunks: object, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The lengths of a tile along each axis, whole axes filled in. Raises InvalidChunksError."""
    given: Sequence[object] = chunks if isinstance(chunks, tuple | list) else (chunks,)
    if any(length is not None and not _is_int(length) for length in given):
        raise InvalidChunksError(
            f"chunks={chunks!r} are no lengths; give whole numbers above 0, or None for a whole axis"
        )
    if len(given) != len(shape):
        raise InvalidChunksError(
            f"chunks={chunks!r} gives {len(given)} lengths, the array has {len(shape)} axes: give one for each, "
            "None for a whole axis"
        )
    lengths = []
    for length, whole in zip(given, shape, strict=True):
        if length is None or (_is_int(length) and length == -1):
            lengths.append(whole)
        elif _is_int(length) and length > 0:  # type: ignore[operator]
            lengths.append(int(length))  # type: ignore[call-overload]
        else:
            raise InvalidChunksError(f"chunks={chunks!r}: {length!r} is no length; give whole numbers above 0, or None")
    return tuple(lengths)


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
