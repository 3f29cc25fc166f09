"""Samples: bounded, in the right order, of the user's own bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kacas import Store
from kacas.upkeep.profile import sample as sample_module
from kacas.upkeep.profile.generated import recording
from kacas.upkeep.profile.sample import Sample, generated, sample_of
from tests.faults.children import become_nobody, run

MOST = 1 << 20


def saved(directory: Path, array: NDArray[Any]) -> Path:
    np.save(directory / "array.npy", array)
    return directory / "array.npy"


def test_the_recording_has_the_same_bytes_on_every_machine() -> None:
    digest = hashlib.sha1(recording(5 << 20).tobytes()).hexdigest()
    assert digest == "6110e871c223631f517b9787b7724cc5711ff891"


def test_the_recording_compresses_as_recordings_do() -> None:
    array = recording(1 << 20)
    assert 30 < array.std() < 60
    assert (np.abs(array) < 1000).all()


@given(size=st.integers(0, 3 << 20))
def test_a_recording_has_whole_rows_within_the_size(size: int) -> None:
    array = recording(size)
    assert array.shape[1] == 128
    assert array.nbytes <= max(size, 256)


def check_rows(sample: Sample, array: NDArray[Any]) -> None:
    """The sample's rows are rows of the array, in order."""
    assert sample.array is not None
    assert 0 < sample.array.nbytes <= MOST
    assert sample.array.shape[1:] == array.shape[1:]
    rows = {row.tobytes(): number for number, row in enumerate(array)}
    places = [rows[row.tobytes()] for row in sample.array]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, len(array) - 1)


def test_of_a_large_array_rows_from_all_over_it_are_taken(tmp_path: Path) -> None:
    array = np.arange(1_000_000, dtype=np.int32).reshape(-1, 10)
    check_rows(sample_of(saved(tmp_path, array), MOST, tmp_path), array)


def test_of_a_large_fortran_array_it_is_the_last_axis(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(1_000_000, dtype=np.int32).reshape(10, -1))
    sample = sample_of(saved(tmp_path, array), MOST, tmp_path)
    assert sample.array is not None
    assert sample.array.flags.f_contiguous
    check_rows(Sample(sample.data, sample.raw, sample.ends, sample.array.T), array.T)


def test_rows_that_are_too_large_are_cut_further(tmp_path: Path) -> None:
    array = np.arange(4_000_000, dtype=np.int32).reshape(2, -1, 4)
    sample = sample_of(saved(tmp_path, array), MOST, tmp_path)
    check_rows(sample, array[1])


def test_a_small_array_is_taken_whole(tmp_path: Path) -> None:
    array = np.arange(60.0).reshape(3, 4, 5)
    sample = sample_of(saved(tmp_path, array), MOST, tmp_path)
    assert sample.array is not None
    assert (sample.array == array).all()
    assert sample.notes == ()


def test_an_array_of_few_large_rows_is_taken_whole_if_it_fits(tmp_path: Path) -> None:
    array = np.arange(MOST // 8, dtype=np.float64).reshape(2, -1)
    for order in ("C", "F"):
        sample = sample_of(saved(tmp_path, np.asarray(array, order=order)), MOST, tmp_path)
        assert sample.array is not None
        assert (sample.array == array).all()
        assert sample.notes == ()


def test_of_a_large_file_parts_from_all_over_it_are_taken(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 * MOST)
    (tmp_path / "file.nwb").write_bytes(data)
    (tmp_path / "room").mkdir()
    sample = sample_of(tmp_path / "file.nwb", MOST, tmp_path / "room")
    quarter = MOST // 4
    raw = bytes(sample.raw)
    assert (raw[:quarter], raw[-quarter:]) == (data[:quarter], data[-quarter:])
    assert all(raw[start : start + quarter] in data for start in range(0, MOST, quarter))
    assert sample.path is not None
    assert sample.path.read_bytes() == raw
    assert sample.path.suffix == ".nwb"


def test_of_a_directory_on_a_slow_disk_fewer_files_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening and making thousands of files there would take minutes, several times."""
    (tmp_path / "files").mkdir()
    for number in range(20):
        (tmp_path / "files" / str(number)).write_bytes(b"data")
    (tmp_path / "room").mkdir()
    monkeypatch.setattr(sample_module, "_COPY_S", -1.0)
    sample = sample_of(tmp_path / "files", MOST, tmp_path / "room")
    assert (sample.data.files, sample.data.size, bytes(sample.raw)) == (1, 80, b"data")
    assert any("1 of 20 files" in note for note in sample.notes)
    assert any("the disk is slow" in note for note in sample.notes)


def test_chunks_are_all_of_the_sample_cut_as_it_is_stored(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    data = [np.random.default_rng(number).bytes(size) for number, size in enumerate((0, 10, 700_000, 5))]
    for number, part in enumerate(data):
        (tmp_path / "files" / str(number)).write_bytes(part)
    (tmp_path / "room").mkdir()
    sample = sample_of(tmp_path / "files", MOST, tmp_path / "room")
    chunks = sample.chunks()
    assert b"".join(chunks) == b"".join(data)
    assert {10, 5} <= set(map(len, chunks))
    assert max(map(len, chunks)) <= 1 << 20
    rows = generated(MOST).chunks()
    assert {len(chunk) for chunk in rows} == {1 << 18}


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights")
def test_parts_of_a_directory_that_cannot_be_read_are_left_out_and_named(open_place: Path) -> None:
    for name in ("good", "closed"):
        (open_place / "source" / name).mkdir(parents=True)
        (open_place / "source" / name / "file").write_bytes(b"content")
    (open_place / "source" / "secret").write_bytes(b"secret")
    (open_place / "source" / "secret").chmod(0)
    (open_place / "source" / "closed").chmod(0)
    (open_place / "room").mkdir()
    (open_place / "room").chmod(0o777)

    def take() -> tuple[bytes, int, tuple[str, ...]]:
        become_nobody(open_place)
        sample = sample_of(open_place / "source", MOST, open_place / "room")
        return bytes(sample.raw), sample.data.files, sample.notes

    raw, files, notes = run(take).get()
    (open_place / "source" / "closed").chmod(0o755)
    assert (raw, files) == (b"content", 1)
    assert any("2 parts of" in note and "cannot be read" in note for note in notes)


def test_an_hdf5_file_is_cut_as_it_is_stored(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.nwb", "w") as file:
        file.create_dataset("data", data=np.arange(400_000, dtype=np.int16).reshape(-1, 8), chunks=(4096, 8))
    sample = sample_of(tmp_path / "file.nwb", MOST, tmp_path)
    assert sample.has_recipes
    chunks = sample.chunks()
    assert b"".join(chunks) == (tmp_path / "file.nwb").read_bytes()
    with Store.open(tmp_path / "store") as store:
        stored = store.describe(store.store_file(tmp_path / "file.nwb", codec="zstd"))
    assert len(set(map(bytes, chunks))) == stored.chunks
    (tmp_path / "other").write_bytes(bytes(MOST))
    assert not sample_of(tmp_path / "other", MOST, tmp_path).has_recipes
