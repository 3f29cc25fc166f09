"""Deterministic data to measure with, made block by block, so that memory stays bounded at any size.

The same arguments give the same bytes on every machine with the same NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

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

Block = NDArray[np.int16]


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


def blocks(make: Callable[[int], Block], size: int) -> Iterator[Block]:
    """`make`'s blocks until their bytes are `size`, the last one cut between rows.

    Raises ValueError if size is not a whole number of rows (256 bytes).
    """
    rows, rest = divmod(size, CHANNELS * 2)
    if rest:
        raise ValueError(f"size {size} is not a multiple of a row's {CHANNELS * 2} bytes")
    for index, start in enumerate(range(0, rows, BLOCK_ROWS)):
        yield make(index)[: rows - start]


def recording(size: int) -> NDArray[np.int16]:
    """An int16 recording of 128 channels, shape (rows, 128), `size` bytes."""
    return _filled(recording_block, size)


def random_array(size: int) -> NDArray[np.int16]:
    """Incompressible int16, shape (rows, 128), `size` bytes."""
    return _filled(random_block, size)


def write_npy(path: Path, make: Callable[[int], Block], size: int) -> None:
    """Write `make`'s array as np.save would, in the memory of one block; a file already there is kept."""
    header_size = 128  # what NumPy's header takes for such a shape; checked below
    if path.exists() and path.stat().st_size == size + header_size:
        return
    unfinished = path.with_suffix(".unfinished")
    array = np.lib.format.open_memmap(unfinished, "w+", np.int16, (size // (CHANNELS * 2), CHANNELS))
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


def _filled(make: Callable[[int], Block], size: int) -> NDArray[np.int16]:
    array = np.empty((size // (CHANNELS * 2), CHANNELS), dtype=np.int16)
    start = 0
    for block in blocks(make, size):
        array[start : start + len(block)] = block
        start += len(block)
    return array
