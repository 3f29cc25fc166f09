"""The benchmark of HDF5 files: what it measures is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.hdf5 import GROWN, READ, measure_appended, measure_one_dataset, report, targets
from bench.workloads import MIB


@pytest.mark.parametrize("name", GROWN)
def test_appended_rows_add_what_they_are(tmp_path: Path, name: str) -> None:
    libver, filters = GROWN[name]
    found = measure_appended(tmp_path, 8 * MIB, 4 * MIB, libver, filters)
    assert found["appended"] == 4 * MIB
    # The group of chunks that was the last one is another now.
    assert 0.9 * found["file_grew"] < found["new"] <= 1.1 * found["file_grew"] + MIB
    assert not list(tmp_path.iterdir())


def test_a_dataset_is_read_without_the_rest(tmp_path: Path) -> None:
    found = measure_one_dataset(tmp_path, 48 * MIB)
    assert found["store"]["size"] > 44 * MIB
    for kind in READ:
        assert found[kind]["size"] == MIB
        assert MIB // 2 < found[kind]["touched"] <= 8 * MIB
    grown = {"a file": {"appended": 1e6, "file_grew": 2e6, "new": 3e6, "growth": 1.5, "first_s": 1.0, "second_s": 0.1}}
    assert [target.holds for target in targets(grown, found)] == [False, True]
    assert "| a file |" in report(grown, found)


@pytest.mark.heavy
def test_a_dataset_of_1_mib_in_a_file_of_4_gib_is_read_by_touching_8_mib_at_most(tmp_path: Path) -> None:
    found = measure_one_dataset(tmp_path, 4 << 30)
    assert found["store"]["size"] > 0.99 * (4 << 30)
    assert all(found[kind]["touched"] <= 8 * MIB for kind in READ)
