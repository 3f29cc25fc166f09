"""Fan-out: many processes want content that is not here; one fetches it, and the others take over if it dies."""

from __future__ import annotations

import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.disk import leases
from kacas.settings import Settings
from kacas.upkeep.doctor.run import examine
from tests.faults.children import Child, become_nobody, fork, run
from tests.faults.contents import MIB
from tests.upstreams import fetched_entries, fetched_packs, packs

COUNT = 16
SIZE = 24 * MIB


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder is given up after two seconds."""
    monkeypatch.setattr(leases, "LEASE_S", 2.0)
    monkeypatch.setattr(leases, "RENEW_S", 0.3)


def values() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 1 << 20, SIZE // 8)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Of an array in the upstream."""
    with kacas.Store.open(tmp_path / "lab") as lab:
        return lab.store_npy(values(), label="values.npy", codec="zstd")


def open_shared(tmp_path: Path, progress: Callable[[str, int, int | None], None] | None = None) -> kacas.Store:
    return kacas.Store.open(tmp_path / "shared", upstream=tmp_path / "lab", progress=progress)


def load(tmp_path: Path, uri: str, progress: Callable[[str, int, int | None], None] | None = None) -> tuple[int, int]:
    """Load it as one process; how often this one fetched, and gave up."""
    with open_shared(tmp_path, progress) as store:
        assert np.array_equal(store.load_npy(uri), values())
        return store.repository.tiers.fetches, store.repository.tiers.turns.given_up


def check_one_fetch(tmp_path: Path) -> None:
    with open_shared(tmp_path) as store:
        assert len(fetched_packs(store)) == len(packs(store)) == 1
        assert len(fetched_entries(store)) == 1
        assert os.listdir(store.path / "leases") == []


def at_half(act: Callable[[], None], share: float = 0.5) -> Callable[[str, int, int | None], None]:
    """Do it once, when half of what is fetched has come, or another share."""
    done = False

    def progress(stage: str, size: int, total: int | None) -> None:
        nonlocal done
        if stage == "fetching" and total and size >= share * total and not done:
            done = True
            act()

    return progress


def stop_myself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def until_stopped(child: Child) -> None:
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


def test_of_many_processes_that_want_one_content_one_fetches(tmp_path: Path, uri: str) -> None:
    open_shared(tmp_path).close()
    children = [fork(lambda: load(tmp_path, uri)) for _ in range(COUNT)]
    assert sum(child.wait(120).get()[0] for child in children) == 1
    check_one_fetch(tmp_path)


@pytest.mark.usefixtures("hasty")
def test_when_who_fetches_is_killed_half_way_another_takes_over(tmp_path: Path, uri: str) -> None:
    first = fork(lambda: load(tmp_path, uri, at_half(stop_myself)))
    until_stopped(first)
    children = [fork(lambda: load(tmp_path, uri)) for _ in range(COUNT - 1)]
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait().killed_by == "SIGKILL"
    assert sum(child.wait(120).get()[0] for child in children) == 1
    check_one_fetch(tmp_path)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("share", [0.5, 1])
def test_who_was_stopped_past_its_lease_leaves_the_work_to_others(tmp_path: Path, uri: str, share: float) -> None:
    """Half-way, or when nothing was left to do but to publish."""
    first = fork(lambda: load(tmp_path, uri, at_half(stop_myself, share)))
    until_stopped(first)
    children = [fork(lambda: load(tmp_path, uri)) for _ in range(3)]
    assert sum(child.wait(60).get()[0] for child in children) == 1
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait().get() == (0, 1)
    check_one_fetch(tmp_path)


def test_content_that_no_tier_has_is_not_found_by_all_at_once(tmp_path: Path, uri: str) -> None:
    def ask() -> float:
        with open_shared(tmp_path) as store:
            begun = time.monotonic()
            with pytest.raises(kacas.NotFoundError, match="neither in"):
                store.load_npy(uri.replace("sha1://", "sha1://00", 1)[:47])
            return time.monotonic() - begun

    open_shared(tmp_path).close()
    for child in [fork(ask) for _ in range(COUNT)]:
        child.wait(60).get()
    with open_shared(tmp_path) as store:
        assert packs(store) == []


def test_when_the_upstream_is_damaged_everybody_is_told_and_nothing_is_kept(tmp_path: Path, uri: str) -> None:
    (pack,) = (tmp_path / "lab" / "packs").iterdir()
    pack.chmod(0o644)
    with open(pack, "r+b") as file:
        file.seek(SIZE // 4)
        file.write(b"damaged")

    def ask() -> str:
        with open_shared(tmp_path) as store, pytest.raises(kacas.DamagedPackError) as caught:
            store.load_npy(uri)
        return caught.value.pack

    open_shared(tmp_path).close()
    for child in [fork(ask) for _ in range(4)]:
        assert child.wait(60).get() == pack.stem
    with open_shared(tmp_path) as store:
        assert packs(store) == []


def test_who_waits_says_for_whom(tmp_path: Path, uri: str) -> None:
    first = fork(lambda: load(tmp_path, uri, at_half(stop_myself)))
    until_stopped(first)

    def wait() -> str:
        stages: list[str] = []

        def progress(stage: str, done: int, total: int | None) -> None:
            if not stages and stage.startswith("waiting"):
                stages.append(stage)
                os.kill(first.pid, signal.SIGCONT)

        load(tmp_path, uri, progress)
        return stages[0]

    assert f"waiting for process {first.pid} on " in fork(wait).wait().get()
    first.wait().get()


def test_ctrl_c_while_waiting_ends_the_wait(tmp_path: Path, uri: str) -> None:
    first = fork(lambda: load(tmp_path, uri, at_half(stop_myself)))
    until_stopped(first)

    def wait() -> None:
        def progress(stage: str, done: int, total: int | None) -> None:
            if stage.startswith("waiting"):
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            load(tmp_path, uri, progress)

    fork(wait).wait().get()
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait().get() == (1, 0)


def test_ctrl_c_while_fetching_keeps_nothing_and_lets_the_next_one_fetch_at_once(tmp_path: Path, uri: str) -> None:
    def interrupted() -> list[str]:
        progress = at_half(lambda: os.kill(os.getpid(), signal.SIGINT))
        with open_shared(tmp_path, progress) as store:
            with pytest.raises(KeyboardInterrupt):
                store.load_npy(uri)
            left = os.listdir(store.path / "packs") + os.listdir(store.path / "leases")
            assert np.array_equal(store.load_npy(uri), values())  # the same store goes on
            return left

    assert fork(interrupted).wait().get() == []
    check_one_fetch(tmp_path)


def test_a_child_that_is_forked_while_its_parent_fetches_fetches_for_itself(tmp_path: Path, uri: str) -> None:
    def work() -> tuple[int, int]:
        found: list[Child] = []

        def fork_one() -> None:
            found.append(fork(lambda: load(tmp_path, uri)))

        result = load(tmp_path, uri, at_half(fork_one))
        assert found[0].wait().get() == (0, 0)  # it waited for us
        return result

    assert fork(work).wait(120).get() == (1, 0)
    check_one_fetch(tmp_path)


def test_a_store_that_was_open_before_the_fork_fetches_in_the_child(tmp_path: Path, uri: str) -> None:
    with open_shared(tmp_path) as store:
        assert store.load_bytes(uri, 0, 6) == b"\x93NUMPY"  # the upstream is open, too
        assert run(lambda: np.array_equal(store.load_npy(uri), values())).get()
        assert np.array_equal(store.load_npy(uri), values())
    check_one_fetch(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives up its rights")
def test_where_the_store_cannot_be_written_everything_is_read_through(open_place: Path) -> None:
    with kacas.Store.open(open_place / "lab") as lab:
        uri = lab.store_npy(values())
        directory = open_place / "directory"
        directory.mkdir()
        (directory / "a").write_text("a")
        tree = lab.store_dir(directory)
    kacas.Store.open(open_place / "shared").close()
    for place in (open_place / "lab", open_place / "shared"):
        place.chmod(0o755)
    (open_place / "home").mkdir(mode=0o777)
    (open_place / "home").chmod(0o777)

    def read() -> None:
        os.environ["KACAS_CACHE_DIR"] = str(open_place / "home" / "cache")
        become_nobody(open_place / "home")
        assert load(open_place, uri) == (0, 0)
        with open_shared(open_place) as store:
            store.load_dir(tree, open_place / "home" / "out")
            assert store.load_file(uri).stat().st_size == SIZE + 128

    run(read).get()
    assert os.listdir(open_place / "shared" / "packs") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives up its rights")
@pytest.mark.parametrize("mode", [0o700, 0o755], ids=oct)
def test_leases_of_another_user_do_not_keep_content_from_being_read_and_are_warned_of(
    open_place: Path, mode: int
) -> None:
    """Nobody can read them, or they can be read, but not be had."""
    with kacas.Store.open(open_place / "lab") as lab:
        uri = lab.store_npy(values())
    kacas.Store.open(open_place / "shared").close()
    (open_place / "home").mkdir()
    (open_place / "lab").chmod(0o755)
    for place in (open_place / "home", open_place / "shared", open_place / "shared" / "packs"):
        place.chmod(0o777)
    (open_place / "shared" / "leases").mkdir(mode)

    def read() -> None:
        os.environ["KACAS_CACHE_DIR"] = str(open_place / "home" / "cache")
        become_nobody(open_place / "home")
        with open_shared(open_place) as store, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2):
                assert np.array_equal(store.load_npy(uri), values())
            (warning,) = told
            assert f"{store.path / 'leases'} cannot be used by nobody: permission denied" in str(warning.message)
            assert "`kacas doctor`" in str(warning.message)
            assert store.repository.tiers.fetches == 0
        (finding,) = (
            one for one in examine(store.path, Settings.from_environment()).findings if one.id == "place-closed"
        )
        assert str(store.path / "leases") in finding.what
        assert finding.by == "root"

    run(read).get()


def test_a_full_disk_does_not_keep_content_from_being_read(
    tmp_path: Path, uri: str, mount: Callable[[str, str], Path]
) -> None:
    place = mount("small", "size=8m")

    def read() -> None:
        with (
            kacas.Store.open(place / "shared", upstream=tmp_path / "lab") as store,
            warnings.catch_warnings(record=True) as told,
        ):
            warnings.simplefilter("always")
            assert np.array_equal(store.load_npy(uri), values())
            assert np.array_equal(store.load_npy(uri), values())
            (warning,) = told
            assert "comes from the upstream, and is not kept" in str(warning.message)

    run(read).get()
    assert os.listdir(place / "shared" / "packs") == []


@pytest.mark.parametrize("chunks", [None, pytest.param((1000, 100), marks=pytest.mark.heavy)])
def test_fetching_an_array_takes_memory_that_does_not_grow_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, ...] | None
) -> None:
    monkeypatch.setenv("KACAS_MEMORY", "64M")
    codec = "bytes-lz4" if chunks else "zstd"

    def put(size: int) -> str:
        rows = size // 4000
        block = np.random.default_rng(7).integers(0, 100, (1000, 500)).astype(np.int64)
        with kacas.Store.open(tmp_path / "lab", durability="relaxed") as lab:
            with lab.npy_writer((rows, 500), np.int64, codec=codec, chunks=chunks) as writer:
                for first in range(0, rows, 1000):
                    writer.append(block[: min(1000, rows - first)] + first)
            assert writer.uri is not None
            return writer.uri

    def fetch() -> int:
        kacas.Store.open(tmp_path / "shared", durability="relaxed").close()
        with open_shared(tmp_path) as store:
            store.repository.bring(kacas.model.uri.parse_uri(small))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            store.repository.bring(kacas.model.uri.parse_uri(large))
            assert len(fetched_packs(store)) >= 2
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    small, large = run(lambda: put(20 * MIB), 120).get(), run(lambda: put(300 * MIB), 120).get()
    grown = run(fetch, 120).get()
    assert grown < 60 * 1024, f"{grown} KiB"
