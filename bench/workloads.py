"""Deterministic data to measure with, made block by block, so that memory stays bounded at any size.

The same arguments give the same bytes on every machine with the same NumPy.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIB = 1 << 20
GIB = 1 << 30
CHANNELS = 128
BLOCK_ROWS = 32768  # rows made at once: 8 MiB of int16, 32 MiB of float32 on the way

# Tuned on 64 MiB so that zstd level 1 on 1 MiB pieces gives 1.55, level 3 1.7, row delta + zigzag +
# byte shuffle + zstd 1 2.2: what extracellular recordings of silicon probes give.
NOISE_SIGMA = 39.0  # int16 steps
SPIKES_PER_SECOND = 5.0  # per channel, at 30,000 rows a second
SPIKE_SHAPE = np.array([-20, -70, -150, -190, -130, -50, 20, 60, 75, 70, 55, 40, 28, 18, 10, 5], dtype=np.float32)

# Tuned on 64 MiB, like the recording: zstd level 1 1.3, byte shuffle + zstd 1 1.9, bit shuffle + LZ4 1.8.
FIELD_PLANE = 128  # elements along the second and the third axis; a plane is 64 KiB
FIELD_CELL = 64  # elements between two knots of the smooth field, along each axis
FIELD_PLANES = 128  # made at once: 8 MiB of float32
FIELD_AMPLITUDE, FIELD_NOISE = np.float32(0.02), np.float32(2e-4)  # around 1.0

# The same: zstd level 1 1.75, byte shuffle + zstd 1 2.25, bit shuffle + LZ4 1.95.
FRAME = 256  # pixels along each axis; a frame is 128 KiB
FRAMES = 64  # made at once: 8 MiB of uint16
FRAME_BACKGROUND, BLOB_PHOTONS = 400.0, 400.0  # photons a pixel
BLOBS, BLOB_RADIUS, FLICKER = 12, 16.0, 0.5

Block = NDArray[Any]


def recording_block(index: int) -> Block:
    """Block `index` of the recording, shape (32768, 128): band-limited noise, spikes on three channels."""
    rng = np.random.default_rng([1, index])
    white = rng.standard_normal((BLOCK_ROWS, CHANNELS), dtype=np.float32)
    voltage = white + np.roll(white, 1, axis=0) + np.roll(white, 2, axis=0)  # a low-pass of three taps
    voltage *= np.float32(NOISE_SIGMA / np.sqrt(3))
    count = int(SPIKES_PER_SECOND * CHANNELS * BLOCK_ROWS / 30_000)
    starts = rng.integers(0, BLOCK_ROWS - len(SPIKE_SHAPE), count)
    for start, channel, size in zip(
        starts, rng.integers(1, CHANNELS - 1, count), rng.uniform(0.5, 3, count), strict=True
    ):
        stop = start + len(SPIKE_SHAPE)
        for neighbour, share in ((channel - 1, 0.4), (channel, 1.0), (channel + 1, 0.4)):
            voltage[start:stop, neighbour] += np.float32(size * share) * SPIKE_SHAPE
    block: Block = np.rint(voltage).astype(np.int16)
    return block


def random_block(index: int) -> Block:
    """Block `index` of incompressible data: shape (32768, 128), every int16 equally likely."""
    words = np.frombuffer(np.random.default_rng([2, index]).bytes(BLOCK_ROWS * CHANNELS * 2), dtype=np.int16)
    return words.reshape(BLOCK_ROWS, CHANNELS)


def field_block(index: int) -> Block:
    """Block `index` of a smooth field of float32 with noisy low bits, shape (128, 128, 128).

    It is smooth between random knots, across blocks, too. Only sums and products: no libm makes it differ.
    """
    cells = FIELD_PLANES // FIELD_CELL
    knots = [_knot_plane(index * cells + cell) for cell in range(cells + 1)]
    rise = _smooth_rise(FIELD_CELL)[:, None, None]
    smooth = np.concatenate([low + (high - low) * rise for low, high in itertools.pairwise(knots)])
    noise = np.random.default_rng([5, index]).standard_normal(smooth.shape, dtype=np.float32)
    block: Block = 1 + FIELD_AMPLITUDE * smooth + FIELD_NOISE * noise
    return block


def imaging_block(index: int) -> Block:
    """Block `index` of a film of uint16, shape (64, 256, 256): photon noise on blobs that flicker."""
    rng = np.random.default_rng([6, index])
    axis = np.arange(FRAME)
    blobs = np.zeros((FRAME, FRAME))
    for y, x, height, width in rng.uniform((0, 0, 0.2, 0.5), (FRAME, FRAME, 1, 1.5), (BLOBS, 4)):
        distance = ((axis - y) ** 2)[:, None] + (axis - x) ** 2
        blobs += height * np.clip(1 - distance / (width * BLOB_RADIUS) ** 2, 0, None) ** 2
    brightness = BLOB_PHOTONS * rng.uniform(1 - FLICKER, 1 + FLICKER, (FRAMES, 1, 1))
    block: Block = rng.poisson(FRAME_BACKGROUND + brightness * blobs).astype(np.uint16)
    return block


def blocks(make: Callable[[int], Block], size: int) -> Iterator[Block]:
    """`make`'s blocks until their bytes are `size`, the last one cut between rows.

    Raises ValueError if size is not a whole number of rows (256 bytes of a recording).
    """
    left = size
    for index in itertools.count():
        block = make(index)
        rows, rest = divmod(left, block[0].nbytes)
        if rest:
            raise ValueError(f"size {size} is not a multiple of a row's {block[0].nbytes} bytes")
        yield block[:rows]
        left -= block[:rows].nbytes
        if not left:
            return


def write_npy(path: Path, make: Callable[[int], Block], size: int) -> None:
    """Write `make`'s array as np.save would, in the memory of one block; a file already there is kept."""
    header_size = 128  # what NumPy's header takes for such a shape; checked below
    if path.exists() and path.stat().st_size == size + header_size:
        return
    unfinished = path.with_suffix(".unfinished")
    first = make(0)
    shape = (size // first[0].nbytes, *first.shape[1:])
    array = np.lib.format.open_memmap(unfinished, "w+", first.dtype, shape)
    start = 0
    for block in blocks(make, size):
        array[start : start + len(block)] = block
        start += len(block)
    array.flush()
    del array
    assert unfinished.stat().st_size == size + header_size
    unfinished.rename(path)


def json_documents(count: int, size: int, seed: int = 0) -> list[dict[str, object]]:
    """`count` different documents of `size` bytes each as compact JSON, like a sorting run's parameters.

    Raises ValueError if size is too small for one (under 400 bytes).
    """
    rng = np.random.default_rng([3, seed])
    documents: list[dict[str, object]] = []
    for number in range(count):
        document: dict[str, object] = {
            "session": f"sub-{seed:03d}_ses-{number:06d}",
            "detect_threshold": round(float(rng.uniform(3, 9)), 6),
            "channels": rng.integers(0, CHANNELS, 24).tolist(),
            "templates": [round(value, 5) for value in rng.standard_normal(24).tolist()],
            "note": "",
        }
        missing = size - len(json.dumps(document, separators=(",", ":")))
        if missing < 0:
            raise ValueError(f"a document takes {size - missing} bytes, not {size}")
        document["note"] = rng.bytes((missing + 1) // 2).hex()[:missing]
        documents.append(document)
    return documents


def _knot_plane(number: int) -> NDArray[np.float32]:
    """A plane of the field between random corners."""
    corners = FIELD_PLANE // FIELD_CELL + 1
    plane = np.random.default_rng([4, number]).standard_normal((corners, corners), dtype=np.float32)
    rise = _smooth_rise(FIELD_CELL)[:, None]
    for _ in range(2):  # along one axis, then along the other
        plane = np.concatenate([low + (high - low) * rise for low, high in itertools.pairwise(plane)]).T
    return plane


def _smooth_rise(count: int) -> NDArray[np.float32]:
    """From 0 to nearly 1, level at both ends."""
    at = np.arange(count, dtype=np.float32) / np.float32(count)
    rise: NDArray[np.float32] = at * at * (3 - 2 * at)
    return rise
