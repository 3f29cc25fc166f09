"""Disks that are really full: small file systems in memory, and a limit on file sizes."""

from __future__ import annotations

import os
import resource
import warnings
from pathlib import Path

import pytest

import kacas
from kacas.disk.spool import Spool
from kacas.settings import Settings
from kacas.upkeep.doctor.finding import Severity
from kacas.upkeep.doctor.run import examine
from kacas_remote.pulling import pull
from tests.faults import contents
from tests.faults.children import run
from tests.faults.conftest import Mount
from tests.faults.contents import MIB
from tests.faults.examination import check_verified, names, open_store

# Random bytes: nothing that a codec could save changes what fits.
SMALL = contents.random_bytes("small", 20_000)
TOO_LARGE = contents.random_bytes("too large", 6 * MIB)


def fill(disk: Path, leave: int = 0) -> Path:
    """Write a file that leaves this many bytes free, rounded down to a page."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB))
        except OSError:
            pass
        for size in (1 << 16, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    if leave:
        os.truncate(filler, filler.stat().st_size - leave)
    return filler


def put_in_a_batch(store: kacas.Store, *together: contents.Content) -> None:
    with store.batch():
        for content in together:
            content.put(store)


@pytest.mark.parametrize("leave", [0, 4096, 16384, 200_000, 5 * MIB])
def test_a_full_disk_leaves_the_store_as_it_was(mount: Mount, tmp_path: Path, leave: int) -> None:
    disk = mount("disk", "size=16m")
    with open_store(disk / "store", tmp_path / "cache", create=True) as store:
        earlier = contents.text("earlier")
        uri = earlier.put(store)
        filler = fill(disk, leave)
        before = names(disk / "store")
        for _ in range(2):
            with pytest.raises(kacas.NoSpaceError, match="free space"):
                TOO_LARGE.put(store)
            assert names(disk / "store") == before
        with pytest.raises(kacas.NoSpaceError):
            put_in_a_batch(store, contents.text("in a batch that fails"), TOO_LARGE)
        assert names(disk / "store") == before
        earlier.check(store, uri)
        assert not store.exists(f"sha1://{TOO_LARGE.sha1}")
        assert not store.exists(f"sha1://{contents.text('in a batch that fails').sha1}")
        check_verified(store)
        filler.unlink()
        for content in (SMALL, TOO_LARGE):
            content.check(store, content.put(store))
        assert check_verified(store).orphans == []


def test_small_puts_go_on_until_the_last_page(mount: Mount, tmp_path: Path) -> None:
    disk = mount("disk", "size=2m")
    stored: dict[str, contents.Content] = {}
    with open_store(disk / "store", tmp_path / "cache", create=True) as store:
        for number in range(200):
            content = contents.random_bytes(f"small {number}", 20_000)
            before = names(disk / "store")
            try:
                stored[content.put(store)] = content
            except kacas.NoSpaceError:
                assert names(disk / "store") == before
                break
        else:
            pytest.fail("the disk was never full")
        # 24 KiB each in whole pages.
        assert len(stored) > 60
        for uri, content in stored.items():
            content.check(store, uri)
        check_verified(store)


def test_a_disk_without_inodes_refuses_a_put_and_a_new_store_by_name(mount: Mount, tmp_path: Path) -> None:
    disk = mount("disk", "size=16m,nr_inodes=24")
    with open_store(disk / "store", tmp_path / "cache", create=True) as store:
        uri = contents.text("earlier").put(store)
        fillers = []
        while os.statvfs(disk).f_favail:
            fillers.append(disk / f"filler-{len(fillers)}")
            fillers[-1].touch()
        with pytest.raises(kacas.NoSpaceError):
            SMALL.put(store)
        contents.text("earlier").check(store, uri)
        with pytest.raises(kacas.NoSpaceError):
            open_store(disk / "second", tmp_path / "cache", create=True)
        for filler in fillers:
            filler.unlink()
        SMALL.check(store, SMALL.put(store))
        with open_store(disk / "second", tmp_path / "cache", create=True) as second:
            SMALL.check(second, SMALL.put(second))


def use_everything(store_path: Path, rounds: int = 2) -> None:
    """Puts and loads of all kinds in stores opened anew. In a child: the index is mapped, and may die by a signal."""
    warnings.simplefilter("ignore", RuntimeWarning)  # it may be said that the index is not used
    for round_number in range(rounds):
        with kacas.Store.open(store_path) as store:
            single = [*contents.singles(), contents.text(f"round {round_number}"), SMALL]
            stored = {content.put(store): content for content in single}
            with store.batch():
                stored |= {content.put(store): content for content in contents.batch()}
            for _ in range(3):  # a file that has settled, so that it is remembered
                uri = store.store_file(os.__file__, rehash=bool(round_number))
                assert store.load_bytes(uri) == Path(os.__file__).read_bytes()
            for uri, content in stored.items():
                content.check(store, uri)
                assert store.exists(uri)
            assert not store.exists("sha1://" + "00" * 20)
            check_verified(store)
            assert len(list(store.history())) >= 20


@pytest.mark.parametrize("leave", [0, 4096, 16384, 65536, 262144])
def test_a_full_cache_disk_costs_nothing_but_speed(mount: Mount, tmp_path: Path, leave: int) -> None:
    fill(mount("cache", "size=1m"), leave)
    run(lambda: use_everything(tmp_path / "store")).get()


@pytest.mark.parametrize("inodes", range(1, 8))
def test_a_cache_disk_without_inodes_costs_nothing_but_speed(mount: Mount, tmp_path: Path, inodes: int) -> None:
    mount("cache", f"size=4m,nr_inodes={inodes}")
    run(lambda: use_everything(tmp_path / "store")).get()


@pytest.mark.parametrize("opened_before", [True, False])
def test_a_cache_disk_that_fills_up_later_costs_nothing_but_speed(
    mount: Mount, tmp_path: Path, opened_before: bool
) -> None:
    cache = mount("cache", "size=2m")

    def put_many() -> None:
        warnings.simplefilter("ignore", RuntimeWarning)
        store = kacas.Store.open(tmp_path / "store")
        uri = SMALL.put(store)
        if not opened_before:
            store.close()
        fill(cache)
        if not opened_before:
            store = kacas.Store.open(tmp_path / "store")
        for number in range(60):
            content = contents.json(f"later {number}")
            content.check(store, content.put(store))
        SMALL.check(store, uri)
        use_everything(tmp_path / "store", rounds=1)

    run(put_many).get()


def test_a_file_that_does_not_fit_in_the_cache_is_refused_and_can_go_elsewhere(mount: Mount, tmp_path: Path) -> None:
    cache = mount("cache", "size=2m")
    with kacas.Store.open(tmp_path / "store") as store:
        uri = TOO_LARGE.put(store)
        small = SMALL.put(store)
        with pytest.raises(kacas.NoSpaceError):
            store.load_file(uri)
        left = [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > MIB]
        assert left == [], "a part of the file was left behind"
        assert store.load_file(uri, dest=tmp_path / "elsewhere").read_bytes() == TOO_LARGE.data
        assert store.load_file(small).read_bytes() == SMALL.data


def test_a_destination_on_a_full_disk_keeps_what_it_held(mount: Mount, tmp_path: Path, store: kacas.Store) -> None:
    disk = mount("disk", "size=2m")
    target = disk / "result.bin"
    target.write_bytes(b"what was there")
    uri = TOO_LARGE.put(store)
    with pytest.raises(kacas.NoSpaceError):
        store.load_file(uri, dest=target)
    assert target.read_bytes() == b"what was there"
    assert names(disk) == {"result.bin"}


def test_a_limit_on_file_sizes_is_a_write_error_after_a_short_write(store: kacas.Store) -> None:
    earlier = contents.text("earlier")
    uri = earlier.put(store)
    before = names(store.path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Not a multiple of any block: the kernel takes a part of the write, and refuses the next.
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * MIB + 1001, hard))
    try:
        with pytest.raises(kacas.WriteError, match="File too large"):
            contents.large().put(store)
        assert names(store.path) == before
        SMALL.check(store, SMALL.put(store))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    earlier.check(store, uri)
    contents.large().check(store, contents.large().put(store))
    assert check_verified(store).orphans == []


def test_a_spool_on_a_full_disk_is_refused_by_name_and_gives_its_space_back(mount: Mount) -> None:
    disk = mount("disk", "size=2m")
    with Spool(disk) as spool:
        with pytest.raises(kacas.NoSpaceError, match="KACAS_CACHE_DIR"):
            spool.append([bytes(3 * MIB)])
        with pytest.raises(kacas.NoSpaceError, match="KACAS_CACHE_DIR"):
            spool.reserve(3 * MIB)
    space = os.statvfs(disk)
    assert space.f_bfree == space.f_blocks


def test_doctor_says_that_a_disk_is_full_and_leaves_nothing_behind(mount: Mount, tmp_path: Path) -> None:
    disk = mount("disk", "size=4m")
    with open_store(disk / "store", tmp_path / "cache", create=True) as store:
        SMALL.put(store)
    fill(disk)
    before = names(disk / "store")
    report = examine(disk / "store", Settings.from_environment())
    found = {finding.id: finding for finding in report.remaining}
    assert found["no-space"].severity is Severity.PROBLEM
    assert "No space left on device" in found["no-space"].what
    assert "store-disk-full" in found
    assert "no-sync" not in found
    assert names(disk / "store") == before


def test_what_a_pull_cannot_keep_is_said_to_be_for_want_of_space(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "large.bin").write_bytes(os.urandom(6 * MIB))
    with kacas.Store.open(tmp_path / "lab") as lab:
        uris = [lab.store_bytes(os.urandom(6 * MIB)), lab.store_dir(tmp_path / "tree")]
    disk = mount("small", "size=2m")
    with kacas.Store.open(disk / "store", upstream=tmp_path / "lab") as node, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failed = pull(node, uris).failed
    assert {uri: type(exc) for uri, exc in failed.items()} == dict.fromkeys(uris, kacas.NoSpaceError)
