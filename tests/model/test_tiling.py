"""Tiles: every byte has its place, the places of a range or box are found, and a tiling that cannot be is refused."""

from __future__ import annotations

import math
import struct
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.errors import InvalidChunksError
from kacas.model.codec import MAX_CHUNK_SIZE
from kacas.model.manifest import Child, Manifest, ManifestError, TreeBuilder, decode_manifest
from kacas.model.selection import select
from kacas.model.tile_plan import Box, box_of, boxes_of_range, bytes_read, reads_of
from kacas.model.tiling import FAN_OUT, LEAST_TILE_SIZE, MAX_AXES, Tiling, check_chunks, decode_tiling, tiling_of
from tests.model.test_selection import indices

Array = np.ndarray[Any, Any]


@st.composite
def tilings(draw: st.DrawFn, item_size: int = 1, most: int = 400) -> Tiling:
    shape, left = [], most
    for _ in range(draw(st.integers(1, 4))):
        shape.append(draw(st.integers(1, min(left, 40))))
        left //= shape[-1]
    tile = [draw(st.integers(1, length)) for length in shape]
    return Tiling((*shape[:-1], shape[-1] * item_size), (*tile[:-1], tile[-1] * item_size))


def tiles_of(tiling: Tiling, data: Array) -> list[Array]:
    """The tiles, the plain way. data: bytes."""
    whole = data.reshape(tiling.shape)
    found = []
    for corner in product(*map(range, tiling.grid)):
        box = tuple(
            slice(at * step, (at + 1) * step) for at, step in zip(corner, tiling.tile, strict=True)
        )  # which NumPy clips
        found.append(np.ascontiguousarray(whole[box]).reshape(-1))
    return found


def read(tiling: Tiling, tiles: list[Array], unit: int, boxes: list[Box]) -> list[int]:
    """Read the tiles as TiledContent does. Returns their numbers."""
    numbers = []
    for wanted in reads_of(tiling, unit, boxes):
        raw = tiles[wanted.number]
        assert raw.nbytes == wanted.size
        if (whole := wanted.whole) is not None:
            whole[:] = raw.data
        else:
            wanted.scatter(raw.data)
        numbers.append(wanted.number)
    assert numbers == sorted(set(numbers))
    return numbers


def random_bytes(size: int) -> Array:
    return np.random.default_rng(size).integers(0, 256, size, np.uint8)


@settings(max_examples=300)
@given(tilings())
def test_tiles_are_numbered_and_sized_as_they_lie(tiling: Tiling) -> None:
    tiles = tiles_of(tiling, random_bytes(tiling.size))
    assert tiling.count == len(tiles)
    ends = [0, *np.cumsum([tile.nbytes for tile in tiles]).tolist()]
    assert [tiling.size_before(number) for number in range(len(ends))] == ends
    for number, tile in enumerate(tiles):
        assert math.prod(part.stop - part.start for part in tiling.box(tiling.corner(number))) == tile.nbytes


@given(tilings())
def test_the_blocks_tiles_are_those_of_the_whole(tiling: Tiling) -> None:
    data = random_bytes(tiling.size)
    expected = [tile.tobytes() for tile in tiles_of(tiling, data)]
    found, at = [], 0
    for block in tiling.blocks():
        found += [tile.tobytes() for tile in tiles_of(block, data[at : at + block.size])]
        at += block.size
    assert found == expected
    assert at == tiling.size


@given(tilings(most=3000))
def test_the_children_have_the_sizes_that_the_fan_out_gives_them(tiling: Tiling) -> None:
    tiles = [Child(bytes(32), LEAST_TILE_SIZE * tile.nbytes) for tile in tiles_of(tiling, random_bytes(tiling.size))]
    tiling = Tiling(*((*axes[:-1], LEAST_TILE_SIZE * axes[-1]) for axes in (tiling.shape, tiling.tile)))
    builder = TreeBuilder(lambda digest, node: None)
    builder.add(tiles)
    manifest, _ = builder.finish(b"head", {"kind": "npy"}, tiling)
    assert manifest.level == tiling.level
    assert [child.size for child in manifest.children] == tiling.child_sizes()
    assert decode_manifest(manifest.encode()) == manifest


@settings(max_examples=500)
@given(st.data())
def test_any_range_of_bytes_is_read_from_its_tiles(data: st.DataObject) -> None:
    tiling = data.draw(tilings(data.draw(st.sampled_from([1, 2, 3, 4, 8, 12, 16]))))
    raw = random_bytes(tiling.size)
    tiles = tiles_of(tiling, raw)
    start = data.draw(st.integers(0, tiling.size - 1))
    stop = data.draw(st.integers(start + 1, tiling.size))
    out = bytearray(stop - start)
    numbers = read(tiling, tiles, *boxes_of_range(tiling, start, memoryview(out)))
    assert out == raw[start:stop].tobytes()
    # And from no others.
    where = tiles_of(tiling, np.arange(tiling.size))
    assert numbers == [number for number, at in enumerate(where) if ((start <= at) & (at < stop)).any()]


@settings(max_examples=500)
@given(st.data())
def test_any_selection_is_read_from_its_tiles(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(["u1", ">i2", "f4", "c16", "S3", "U1", [("a", "u1"), ("b", "<f8")]])))
    fortran_order = data.draw(st.booleans())
    tiling = data.draw(tilings(dtype.itemsize))
    raw = random_bytes(tiling.size)
    raw[:: dtype.itemsize] &= 1  # U1 holds no number above 0x10ffff
    if dtype.kind == "U":
        raw.view("u4")[:] = raw.view("u4") & 0xFFFF
    tiles = tiles_of(tiling, raw)
    in_order = raw.view(dtype).reshape(*tiling.shape[:-1], -1)
    array = in_order.T if fortran_order else in_order
    index = data.draw(indices(array.shape))

    def read_box(positions: Any, box: Array) -> None:
        unit, planned = box_of(tiling, positions, dtype.itemsize, box)
        numbers = read(tiling, tiles, unit, [planned])
        assert sum(tiles[number].nbytes for number in numbers) == bytes_read(tiling, positions, dtype.itemsize)

    opaque = array.view(f"V{dtype.itemsize}")
    try:
        expected = opaque[index]
    except IndexError:
        with pytest.raises(IndexError):
            select(index, array.shape, dtype, fortran_order, read_box)
        return
    found = select(index, array.shape, dtype, fortran_order, read_box)
    assert np.shape(found) == np.shape(expected)
    assert np.asarray(found, dtype).tobytes() == np.asarray(expected).tobytes()


# --- the encoded form -------------------------------------------------------------------------


@given(tilings(LEAST_TILE_SIZE), st.binary(max_size=20))
def test_a_tiling_is_read_back_from_its_bytes(tiling: Tiling, more: bytes) -> None:
    encoded = tiling.encode()
    assert len(encoded) == 8 + 16 * len(tiling.shape)
    assert decode_tiling(memoryview(encoded + more)) == (tiling, len(encoded))


def encoded(*axes: tuple[int, int], front: bytes | None = None) -> bytes:
    return (bytes([len(axes)]) + bytes(7) if front is None else front) + b"".join(
        struct.pack("<QQ", *axis) for axis in axes
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(8),
        encoded((4, 2))[:-1],
        encoded((4, 2), front=b"\2" + bytes(7)),
        encoded((4, 2), front=b"\1" + bytes(6) + b"\1"),
        encoded((4, 0)),
        encoded((0, 0)),
        encoded((4, 5)),
        encoded((0, 1)),
        encoded((2**63, LEAST_TILE_SIZE)),
        encoded((2**62 + 1, LEAST_TILE_SIZE)),
        encoded((2**31, LEAST_TILE_SIZE), (2**32, 1)),
        encoded((MAX_CHUNK_SIZE + 1, MAX_CHUNK_SIZE + 1)),
        encoded((4096, 4096), (4097, 4097)),
        encoded(*[(1, 1)] * (MAX_AXES + 1)),
        encoded((2 * LEAST_TILE_SIZE, LEAST_TILE_SIZE - 1)),
        encoded((10, 2), (LEAST_TILE_SIZE, LEAST_TILE_SIZE // 2 - 1)),
        encoded((3, 1), (100, 100)),
    ],
)
def test_a_tiling_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_tiling(memoryview(data))


SIX_TILES = Tiling((5, 7 * 1024), (2, 4 * 1024))


def in_kib(*sizes: int) -> list[int]:
    return [size * 1024 for size in sizes]


def manifest_of(tiling: Tiling, sizes: list[int], level: int = 0, head: bytes = b"head") -> bytes:
    children = tuple(Child(bytes([number]) * 32, size) for number, size in enumerate(sizes))
    return Manifest(len(head) + sum(sizes), level, head, {"kind": "npy"}, children, tiling).encode()


def test_children_of_other_sizes_than_their_tiles_are_refused() -> None:
    assert SIX_TILES.child_sizes() == in_kib(8, 6, 8, 6, 4, 3)
    assert decode_manifest(manifest_of(SIX_TILES, in_kib(8, 6, 8, 6, 4, 3))).tiling == SIX_TILES
    for sizes in ([6, 8, 8, 6, 4, 3], [8, 6, 8, 6, 7], [8, 6, 8, 6, 4, 2, 1], [8, 6, 8, 6, 4, 2], [8, 6, 8, 6, 4, 4]):
        with pytest.raises(ManifestError):
            decode_manifest(manifest_of(SIX_TILES, in_kib(*sizes)))


def test_a_level_that_the_fan_out_does_not_give_is_refused() -> None:
    with pytest.raises(ManifestError, match="level"):
        decode_manifest(manifest_of(SIX_TILES, in_kib(35), level=1))
    many = Tiling(((FAN_OUT + 1) * LEAST_TILE_SIZE,), (LEAST_TILE_SIZE,))
    with pytest.raises(ManifestError, match="level"):
        decode_manifest(manifest_of(many, [LEAST_TILE_SIZE] * FAN_OUT))


@settings(max_examples=300)
@given(st.data())
def test_any_manifest_of_tiles_is_decoded_or_refused_with_a_typed_error(data: st.DataObject) -> None:
    raw = bytearray(manifest_of(SIX_TILES, in_kib(8, 6, 8, 6, 4, 3)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_manifest(raw).encode() == raw or raw[28:].find(b"{") >= 0
    except (ManifestError, ValueError):
        pass
    except Exception as exc:  # noqa: BLE001
        assert type(exc).__name__ == "NewerFormatError"


# --- what a user asks for ---------------------------------------------------------------------


def test_whole_axes_and_longer_ones_are_cut_to_the_array() -> None:
    assert check_chunks((10, None, -1), (5, 6, 7)) == (10, 6, 7)
    assert check_chunks([np.int64(3)], (5,)) == (3,)
    assert check_chunks(3, (5,)) == (3,)
    assert check_chunks((), ()) == ()
    assert tiling_of((10, None, 100), (50, 60, 700), 4, False) == Tiling((50, 60, 2800), (10, 60, 400))
    assert tiling_of((10, None, 100), (50, 60, 700), 4, True) == Tiling((700, 60, 200), (100, 60, 40))
    assert tiling_of((), (), 300_000, False) == Tiling((300_000,), (300_000,))


@pytest.mark.parametrize(
    "chunks", [(2, 3), (2, 3, 4, 5), 5, (0, 2, 2), (-2, 2, 2), (1.5, 2, 2), ("2", 2, 2), (True, 2, 2), "abc"]
)
def test_chunks_that_are_no_tiles_of_the_array_are_refused_in_words(chunks: Any) -> None:
    with pytest.raises(InvalidChunksError, match="chunks=") as caught:
        check_chunks(chunks, (5, 6, 7))
    assert isinstance(caught.value, ValueError)


def test_tiles_that_are_too_large_or_too_small_are_refused() -> None:
    shape = (10_000, 10_000)
    assert tiling_of((4096, 4096), shape, 1, False).tile_size == MAX_CHUNK_SIZE
    with pytest.raises(InvalidChunksError, match="at most"):
        tiling_of((4096, 4097), shape, 1, False)
    assert tiling_of((1, LEAST_TILE_SIZE), shape, 1, False).tile_size == LEAST_TILE_SIZE
    with pytest.raises(InvalidChunksError, match="the least"):
        tiling_of((1, LEAST_TILE_SIZE - 1), shape, 1, False)
