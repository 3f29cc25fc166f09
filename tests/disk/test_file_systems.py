"""File systems are recognised: what other hosts may share gets no index and no cache."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import kacas
from kacas.disk.file_systems import FileSystem, file_system, is_network, mount_of, recognise
from kacas.settings import Settings
from tests.disk.foreign_mount import foreign_mount

LINUX = Path("/proc/self/mountinfo").exists()
MOUNTS = [
    "22 27 0:21 / / rw,relatime - ext4 /dev/vda rw,discard",
    "23 22 0:22 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2,acdirmin=30,acdirmax=60,hard",
    r"24 22 0:23 / /mnt/a\040b rw master:2 propagate_from:1 - lustre 10.0.0.1@o2ib:/fs rw,flock",
    "25 22 0:24 / /over rw - tmpfs tmpfs rw",
    "26 25 0:25 / /over rw - fuse.sshfs host:/x rw,user_id=0",
    "27 22 0:26 / /homes rw - xfs /dev/vdb rw",
    "a line that is none",
]


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """An empty directory of a file system that comes from elsewhere."""
    place = tmp_path / "foreign"
    place.mkdir()
    mounted = foreign_mount(place, "pretend")
    try:
        mounted.__enter__()
    except OSError as exc:
        pytest.skip(f"file systems cannot be mounted here: {exc}")
    yield place
    mounted.__exit__(None, None, None)


def test_the_file_system_is_named_as_the_kernel_does() -> None:
    if not LINUX:
        pytest.skip("only Linux names the file system of a path")
    assert file_system(Path("/proc/self")) == "proc"
    assert not is_network(Path("/proc/self"))
    assert file_system(Path("/does/not/exist")) == file_system(Path("/"))


@pytest.mark.parametrize(
    "path, name",
    [
        ("/", "ext4"),
        ("/home", "nfs4"),
        ("/home/ada/.cache", "nfs4"),
        ("/homes/ada", "xfs"),
        ("/homestead", "ext4"),
        ("/mnt/a b/c", "lustre"),
        ("/mnt/a", "ext4"),
        ("/over/x", "fuse.sshfs"),
    ],
)
def test_the_innermost_and_latest_mount_is_the_one_that_holds_a_path(path: str, name: str) -> None:
    assert mount_of(path, MOUNTS)[0] == name


def test_the_options_of_a_mount_are_told_apart() -> None:
    found = FileSystem("nfs4", True, mount_of("/home", MOUNTS)[1])
    assert found.option("acdirmax") == "60"
    assert found.option("hard") == ""
    assert found.option("soft") is None


def test_what_comes_through_fuse_from_elsewhere_is_shared_with_other_hosts(foreign: Path) -> None:
    found = recognise(foreign)
    assert (found.name, found.shared) == ("fuse.pretend", True)
    assert recognise(foreign / "not" / "there") == found
    link = foreign.parent / "link"
    link.symlink_to(foreign)
    assert recognise(link / "not" / "there") == found
    assert not recognise(foreign.parent).shared


def test_a_home_on_the_network_gets_its_index_on_a_local_disk_without_a_word(foreign: Path, tmp_path: Path) -> None:
    environment = {"HOME": str(foreign), "KACAS_DIR": str(tmp_path / "store")}
    settings = Settings.from_environment(environment)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with kacas.Store.open(tmp_path / "store", settings=settings) as store:
            assert store.load_text(store.store_text("x")) == "x"
            assert store.repository.cache.parent == Path(f"/var/tmp/kacas-{os.getuid()}")
            assert not recognise(store.repository.cache).shared
    shutil.rmtree(store.repository.cache)


def test_a_cache_directory_that_the_user_chose_on_the_network_is_not_used_and_that_is_said(
    foreign: Path, tmp_path: Path
) -> None:
    settings = Settings.from_environment({"HOME": str(tmp_path), "KACAS_CACHE_DIR": str(foreign / "cache")})
    with (
        pytest.warns(RuntimeWarning, match=r"foreign/cache cannot be used \(it is on a network file system\)"),
        kacas.Store.open(tmp_path / "store", settings=settings) as store,
    ):
        assert store.repository.cache.parent == Path(f"/var/tmp/kacas-{os.getuid()}")
    shutil.rmtree(store.repository.cache)
