"""An HDF5 file as recordings are kept in, and the same with rows appended; the same arguments give the same datasets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from bench.workloads import BLOCK_ROWS, CHANNELS, blocks, recording_block

CHUNK_ROWS = 4096  # 1 MiB before compression
ROW_SIZE = 2 * CHANNELS  # bytes


def write_hdf5(path: Path, size: int) -> None:
    """A recording of `size` bytes with its rate and times, compressed as most are: gzip 4 after a byte shuffle.

    A file already there is kept.
    """
    if path.exists():
        return
    import h5py

    unfinished = path.with_suffix(".unfinished")
    with h5py.File(unfinished, "w") as file:
        file.attrs["rows"] = size // ROW_SIZE
        voltage = _dataset(file, "acquisition/voltage", (0, CHANNELS), np.int16)
        voltage.attrs["rate"] = 30_000.0
        _dataset(file, "acquisition/times", (0,), np.float64)
        _append(file, size, first_block=0)
    unfinished.rename(path)


def write_appended(source: Path, path: Path, size: int) -> None:
    """Copy `source` and append `size` bytes of rows with h5py, their times, too; an attribute changes.

    A file already there is kept.
    """
    if path.exists():
        return
    import h5py

    unfinished = path.with_suffix(".unfinished")
    shutil.copyfile(source, unfinished)
    with h5py.File(unfinished, "a") as file:
        before = len(file["acquisition/voltage"])
        _append(file, size, first_block=-(-before // BLOCK_ROWS))
        file.attrs["rows"] = before + size // ROW_SIZE
    unfinished.rename(path)


def _dataset(file: Any, name: str, shape: tuple[int, ...], dtype: type) -> Any:
    return file.create_dataset(
        name,
        shape=shape,
        maxshape=(None, *shape[1:]),
        chunks=(CHUNK_ROWS, *shape[1:]),
        dtype=dtype,
        compression="gzip",
        compression_opts=4,
        shuffle=True,
    )


def _append(file: Any, size: int, *, first_block: int) -> None:
    """Append `size` bytes of rows, which begin with block `first_block` of the recording."""
    voltage, times = file["acquisition/voltage"], file["acquisition/times"]
    for block in blocks(lambda index: recording_block(first_block + index), size):
        start, stop = len(voltage), len(voltage) + len(block)
        voltage.resize(stop, axis=0)
        voltage[start:] = block
        times.resize(stop, axis=0)
        times[start:] = np.arange(start, stop) / 30_000
