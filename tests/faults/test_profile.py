"""kacas bench where the disk is full or the store may not be written: a typed error, and all is as it was."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kacas
from kacas.settings import Settings
from kacas.upkeep.profile import profile
from tests.faults.children import become_nobody, run
from tests.faults.conftest import Mount
from tests.faults.contents import MIB
from tests.faults.examination import names


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory whose parents everybody may enter, as tmp_path's are not."""
    place = Path("/var/tmp") / f"kacas-test-{os.getpid()}-{time.monotonic_ns()}"
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def settings_in(directory: Path) -> Settings:
    return Settings(directory / "store", directory / "cache", "alice", 2, 1 << 30)


def test_a_disk_with_too_little_room_is_named_before_anything_is_made(mount: Mount, tmp_path: Path) -> None:
    disk = mount("disk", "size=16m")
    with kacas.Store.open(disk / "store", settings=settings_in(tmp_path)) as store:
        store.store_text("mine")
    before = names(disk)
    with pytest.raises(
        kacas.NoSpaceError, match=r"1[56] MiB are free; free space, or take a smaller sample \(--size-mib\)"
    ):
        profile(disk / "store", settings=settings_in(tmp_path), size=MIB)
    assert names(disk) == before


@pytest.mark.parametrize("leave", [0, 1 * MIB, 3 * MIB])
def test_a_disk_that_fills_up_meanwhile_leaves_it_as_it_was(mount: Mount, tmp_path: Path, leave: int) -> None:
    disk = mount("disk", "size=72m")
    kacas.Store.open(disk / "store", settings=settings_in(tmp_path)).close()
    before = names(disk)
    filler = disk / "filler"

    def fill(step: str) -> None:
        if not filler.exists():
            room = os.statvfs(disk)
            filler.write_bytes(bytes(room.f_bavail * room.f_frsize - leave))

    with pytest.raises(kacas.NoSpaceError, match="free space"):
        profile(disk / "store", settings=settings_in(tmp_path), size=4 * MIB, progress=fill)
    filler.unlink()
    assert names(disk) == before


def test_other_disks_for_index_and_cache_are_measured_and_left_as_they_were(mount: Mount, tmp_path: Path) -> None:
    disk = mount("disk", "size=300m")
    settings = Settings(tmp_path / "store", disk / "cache", "alice", 2, 1 << 30)
    found = profile(tmp_path / "store", settings=settings, size=MIB)
    assert "cache_read_cold" in {figure.key for figure in found.limits}
    assert (found.place.index, found.place.index_file_system) == (str(disk / "cache"), "tmpfs")
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("leave", [0, 100_000])
def test_a_cache_disk_that_fills_up_is_named(mount: Mount, tmp_path: Path, leave: int) -> None:
    disk = mount("disk", "size=72m")
    settings = Settings(tmp_path / "store", disk / "cache", "alice", 2, 1 << 30)
    filler = disk / "filler"

    def fill(step: str) -> None:
        if not filler.exists():
            room = os.statvfs(disk)
            filler.write_bytes(bytes(room.f_bavail * room.f_frsize - leave))

    with pytest.raises(kacas.StoreError, match=r"free space.*|KACAS_CACHE_DIR"):
        profile(tmp_path / "store", settings=settings, size=4 * MIB, progress=fill)
    filler.unlink()
    assert list(disk.iterdir()) == []
    assert list(tmp_path.iterdir()) == [disk]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights")
def test_a_store_that_may_only_be_read_is_refused_by_name(open_place: Path) -> None:
    home = open_place / "home"
    home.mkdir()
    home.chmod(0o777)
    kacas.Store.open(open_place / "store", settings=settings_in(open_place)).close()
    (open_place / "store").chmod(0o755)
    before = names(open_place / "store")

    def attempt() -> None:
        become_nobody(home)
        with pytest.raises(kacas.ReadOnlyStoreError, match="can only be read from here"):
            profile(open_place / "store", settings=settings_in(home), size=MIB)

    run(attempt).get()
    assert names(open_place / "store") == before
    assert list(home.iterdir()) == []
