"""Whole profiles on tiny samples: real stores, real files; nothing is left of any. Times are not looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kacas
from kacas.errors import InvalidSettingError, UnreadableSourceError
from kacas.upkeep.profile import Profile, profile
from tests.upkeep.profile.conftest import TINY, settings_in

RANDOM = np.random.default_rng(0)


def listing(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(directory)): (status.st_size, status.st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if (status := path.lstat())
    }


def run(directory: Path, source: Path | None = None) -> Profile:
    return profile(directory / "store", settings=settings_in(directory), source=source, size=TINY)


def test_a_profile_where_no_store_is_makes_none(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not found.place.exists
    assert found.place.scratch.startswith(str(tmp_path / ".kacas-bench"))


def test_a_profile_of_a_store_leaves_nothing_in_it(tmp_path: Path) -> None:
    with kacas.Store.open(tmp_path / "store", settings=settings_in(tmp_path), durability="relaxed") as store:
        store.store_text("mine")
    before = listing(tmp_path)
    found = run(tmp_path)
    after = listing(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= {"store", "cache"}  # the times of two directories
    assert (found.place.exists, found.place.durability) == (True, "relaxed")
    assert Path(found.place.scratch).parent == tmp_path / "store"
    assert found.place.index == str(tmp_path / "cache")


def test_all_that_is_promised_is_measured(tiny: Profile) -> None:
    limits = {figure.key for figure in tiny.limits}
    assert {"sha1", "blake3", "copy", "disk_write", "disk_write_sync", "disk_read_warm"} <= limits
    assert {"index_put", "index_get", "index_open"} <= limits
    steps = {figure.key.partition(".")[0] for figure in tiny.latencies}
    assert steps == {"fsync", "link", "rename", "directory_fsync"}
    assert {"raw", "zstd", "bits-lz4", "delta-bytes-zstd"} <= {codec.codec for codec in tiny.codecs}
    operations = {figure.key for figure in tiny.operations}
    for key in ("store.auto", "load.fast", "ratio.small", "store.relaxed", "slice", "column", "tile_column", "mapped"):
        assert key in operations
    assert {"small_singly", "small_relaxed", "small_together", "small_load"} <= operations
    store, load = tiny.pipelines
    assert [stage.key for stage in store.stages] == [
        "source", "sha1", "cut", "blake3", "lookup", "encode", "write", "publish", "sync", "index",
    ]  # fmt: skip
    assert [stage.key for stage in load.stages] == ["lookup", "read", "decode", "verify"]
    assert all(figure.value > 0 for figure in tiny.figures())
    keys = [figure.key for figure in tiny.figures()]
    assert len(set(keys)) == len(keys)


def test_the_generated_data_is_the_same_in_every_run(tiny: Profile) -> None:
    assert (tiny.data.kind, tiny.data.sample_size, tiny.data.shape, tiny.data.dtype) == (
        "generated", TINY, (TINY // 256, 128), "int16",
    )  # fmt: skip


def npy(array: object) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        np.save(directory / "input.npy", array)  # type: ignore[arg-type]
        return directory / "input.npy"

    return write


def file(data: bytes) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        (directory / "input.dat").write_bytes(data)
        return directory / "input.dat"

    return write


@pytest.mark.parametrize(
    "write, kind, sample_size, loaded",
    [
        (npy(np.arange(100_000, dtype=np.int32).reshape(-1, 10)), "array", 400_000, True),
        (npy(np.asfortranarray(RANDOM.normal(size=(300, 500)))), "array", 1_200_000, True),
        (npy(np.arange(1_000_000)), "array", TINY, True),
        (npy(RANDOM.normal(size=(3, 4, 100_000))), "array", 800_000, True),
        (npy(np.zeros(10_000, [("a", "i2"), ("b", "f8")])), "array", 100_000, True),
        (npy(np.float64(3)), "array", 8, True),
        (npy(np.empty((0, 4))), "array", 0, False),
        (npy(np.array(["one", "three"])), "array", 40, True),
        (file(b""), "file", 0, False),
        (file(b"x"), "file", 1, True),
        (file(RANDOM.bytes(3 * TINY)), "file", TINY, True),
        (file(b"\x89HDF\r\n\x1a\n" + bytes(1_000_000)), "file", 1_000_008, True),
    ],
    ids=["rows", "fortran", "one axis", "wide rows", "records", "0-d", "no rows", "strings", "empty file", "a byte",
         "large file", "zeros"],
)  # fmt: skip
def test_every_kind_of_file_is_measured_on_a_bounded_sample(
    tmp_path: Path, write: Callable[[Path], Path], kind: str, sample_size: int, loaded: bool
) -> None:
    source = write(tmp_path)
    before = listing(tmp_path)
    found = run(tmp_path, source)
    assert listing(tmp_path) == before
    assert (found.data.kind, found.data.sample_size) == (kind, sample_size)
    assert bool(found.pipelines) == loaded
    assert any(figure.key == "load.auto" for figure in found.operations) == loaded
    size = source.stat().st_size
    if found.data.sample_size < found.data.size:
        assert any("measured on" in note for note in found.notes), size
    if not loaded:
        assert any("only the machine was measured" in note for note in found.notes)


def test_a_directory_is_measured_on_a_bounded_sample_of_its_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    for number in range(60):
        (source / "deep" / f"{number}.bin").write_bytes(RANDOM.bytes(100_000))
    (source / "empty").write_bytes(b"")
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    before = listing(tmp_path)
    found = run(tmp_path, source)
    assert listing(tmp_path) == before
    assert (found.data.kind, found.data.size) == ("directory", 6_000_000)
    assert 1 < found.data.files < 60
    assert TINY // 2 < found.data.sample_size <= TINY
    assert any(f"{found.data.files} of 61 files" in note for note in found.notes)
    assert found.pipelines


def test_what_is_measured_in_is_no_part_of_a_directory_around_it(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"data")
    found = run(tmp_path, tmp_path)
    assert (found.data.files, found.data.size) == (1, 4)


def test_the_disk_has_the_sample_three_times_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Itself, stored, restored: what the stages wrote is gone when the whole is measured again."""
    (tmp_path / "source").mkdir()
    for number in range(4):
        (tmp_path / "source" / str(number)).write_bytes(RANDOM.bytes(TINY // 4))
    sizes = []
    load_dir = kacas.Store.load_dir

    def load_and_look(store: kacas.Store, *arguments: Any) -> Any:
        answer = load_dir(store, *arguments)
        found = [path.stat() for path in tmp_path.glob(".kacas-bench.tmp.*/**/*") if path.is_file()]
        sizes.append(sum({status.st_ino: status.st_size for status in found}.values()))
        return answer

    monkeypatch.setattr(kacas.Store, "load_dir", load_and_look)
    run(tmp_path, tmp_path / "source")
    assert len(sizes) >= 4
    assert 3 * TINY <= max(sizes) < 3.5 * TINY


def test_an_empty_directory_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    found = run(tmp_path, tmp_path / "source")
    assert (found.data.files, found.data.sample_size, found.pipelines) == (0, 0, ())


@pytest.mark.parametrize("make", [lambda path: None, os.mkfifo], ids=["missing", "a pipe"])
def test_what_is_no_file_is_a_typed_error_and_leaves_nothing(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "source")
    before = listing(tmp_path)
    with pytest.raises(UnreadableSourceError):
        run(tmp_path, tmp_path / "source")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("size", [0, -1, 1 << 40])
def test_a_sample_of_no_sensible_size_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(InvalidSettingError):
        profile(tmp_path / "store", settings=settings_in(tmp_path), size=size)


def test_a_sample_that_is_smaller_for_lack_of_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kacas.upkeep.profile.run.available_memory", lambda: 30 << 20)
    found = profile(tmp_path / "store", settings=settings_in(tmp_path), size=16 << 20)
    assert found.data.sample_size == 5 << 20
    assert "the sample is 5 MiB instead of 16: little memory is free" in found.notes


def test_the_observer_hears_of_every_step(tmp_path: Path) -> None:
    steps: list[str] = []
    profile(tmp_path / "store", settings=settings_in(tmp_path), size=TINY, progress=steps.append)
    assert len(steps) >= 8
    assert len(set(steps)) == len(steps)


@pytest.mark.parametrize("failing", range(9))
def test_an_observer_that_fails_at_any_step_leaves_nothing(tmp_path: Path, failing: int) -> None:
    """As Ctrl-C may come at any."""
    steps: list[str] = []

    def observe(step: str) -> None:
        steps.append(step)
        if len(steps) == failing + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(tmp_path / "store", settings=settings_in(tmp_path), size=TINY, progress=observe)
    assert list(tmp_path.iterdir()) == []
