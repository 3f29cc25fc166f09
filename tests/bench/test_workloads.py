"""What the benchmarks of arrays are fed with: the same bytes each time, of the size asked for, and compressible as said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from bench.workloads import (
    MIB,
    Block,
    blocks,
    field_block,
    imaging_block,
    random_block,
    recording_block,
    write_npy,
)

MADE = {
    recording_block: ("<i2", (32768, 128), 1.55),
    random_block: ("<i2", (32768, 128), 1.0),
    field_block: ("<f4", (128, 128, 128), 1.32),
    imaging_block: ("<u2", (64, 256, 256), 1.76),
}
every = pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)


@every
def test_a_block_has_8_mib_the_same_each_time_and_other_ones_each_index(make: Callable[[int], Block]) -> None:
    one = make(3)
    dtype, shape, _ = MADE[make]
    assert (one.dtype.str, one.shape, one.nbytes) == (dtype, shape, 8 * MIB)
    assert np.array_equal(one, make(3))
    assert not np.array_equal(one, make(4))


@every
def test_zstd_makes_of_it_what_was_tuned(make: Callable[[int], Block]) -> None:
    data = make(1).tobytes()
    packed = sum(len(zstandard.compress(data[at : at + MIB], 1)) for at in range(0, len(data), MIB))
    assert len(data) / packed == pytest.approx(MADE[make][2], rel=0.03)


@every
def test_a_file_is_what_numpy_would_save_of_the_blocks(make: Callable[[int], Block], tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    write_npy(path, make, 9 * MIB)
    array = np.load(path)
    assert array.nbytes == 9 * MIB
    assert np.array_equal(array, np.concatenate([make(0), make(1)])[: len(array)])
    np.save(tmp_path / "saved.npy", array)
    same = (
        path.read_bytes() == (tmp_path / "saved.npy").read_bytes()
    )  # not within the assertion: pytest would explain it
    assert same


@every
def test_sizes_that_cut_a_row_are_refused(make: Callable[[int], Block]) -> None:
    with pytest.raises(ValueError):
        list(blocks(make, MIB + 2))


def test_the_field_is_smooth_across_blocks() -> None:
    planes = np.concatenate([field_block(0), field_block(1)]).mean(axis=(1, 2))
    steps = np.abs(np.diff(planes))
    assert steps[127] <= steps.max()
    assert steps.max() < 2e-4
