"""Arrays on their way into the store: killed, interrupted, without space, larger than memory."""

from __future__ import annotations

import gc
import hashlib
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np
import pytest

import kacas
from kacas.model.npy_header import encode_header
from tests.faults import children
from tests.faults.examination import check_verified, names, open_store

MIB = 1 << 20
COLUMNS = 1024
BLOCK = 1024  # rows: 2 MiB

Array = np.ndarray[Any, Any]


def block(number: int) -> Array:
    """2 MiB that compress a little, and that no other block has."""
    return np.random.default_rng(number).integers(0, 1000, (BLOCK, COLUMNS)).astype("<i2")


def blocks(count: int) -> Iterator[Array]:
    return map(block, range(count))


def writing(store: kacas.Store, count: int, known: bool) -> str:
    with store.npy_writer((BLOCK * count if known else None, COLUMNS), "<i2") as writer:
        for rows in blocks(count):
            writer.append(rows)
    return writer.uri


def iterating(store: kacas.Store, count: int) -> str:
    return store.store_npy(blocks(count))


WAYS: dict[str, Callable[[kacas.Store, int], str]] = {
    "known": lambda store, count: writing(store, count, True),
    "spooled": lambda store, count: writing(store, count, False),
    "iterator": iterating,
}


def identity(count: int) -> str:
    sha1 = hashlib.sha1(encode_header(np.dtype("<i2"), (BLOCK * count, COLUMNS), False))
    for rows in blocks(count):
        sha1.update(rows)
    return f"sha1://{sha1.hexdigest()}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2, 0.5])
def test_a_kill_while_rows_come_leaves_nothing_that_counts(tmp_path: Path, way: str, delay_s: float) -> None:
    with open_store(tmp_path / "store", tmp_path / "cache", create=True) as store:
        earlier = store.store_text("earlier")
        before = store.stats()

    def write_for_ever() -> None:
        with kacas.Store.open(tmp_path / "store") as store:
            (tmp_path / "begun").touch()
            WAYS[way](store, 10_000)

    child = children.fork(write_for_ever)
    while not (tmp_path / "begun").exists():
        time.sleep(0.005)
    time.sleep(delay_s)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait().killed_by == "SIGKILL"
    # What was spooled had no name. The pack that a put was writing has a temporary one: an orphan.
    assert all(path.stat().st_size < MIB for path in (tmp_path / "cache").rglob("*") if "index" not in path.parts)
    with open_store(tmp_path / "store", tmp_path / "cache") as store:
        report = check_verified(store)
        assert len(report.orphans) <= (way == "known")
        assert store.stats() == before
        assert store.load_text(earlier) == "earlier"
        assert WAYS[way](store, 3) == identity(3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("delay_s", [0.01, 0.05, 0.1, 0.2, 0.3, 0.4])
def test_after_ctrl_c_nothing_is_stored_and_the_same_store_works_on(tmp_path: Path, way: str, delay_s: float) -> None:
    def interrupted() -> None:
        with open_store(tmp_path / "store", tmp_path / "cache", create=True) as store:
            before = names(store.path)
            stats = store.stats()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            timer = threading.Timer(delay_s, os.kill, [os.getpid(), signal.SIGINT])

            def write_for_ever() -> None:
                timer.start()
                WAYS[way](store, 10_000)

            with pytest.raises(KeyboardInterrupt):
                write_for_ever()
            timer.join()
            gc.collect()  # at the very moment when a writer has no name yet, only that ends its put
            end = time.monotonic() + 10
            while any(thread.name == "kacas-npy-writer" for thread in threading.enumerate()):
                assert time.monotonic() < end, "a put was left behind"
                time.sleep(0.01)
            assert names(store.path) == before
            assert store.stats() == stats
            assert WAYS[way](store, 3) == identity(3)
            assert check_verified(store).orphans == []

    children.run(interrupted).get()


@pytest.mark.parametrize("known", [True, False])
def test_ctrl_c_while_an_array_is_published_publishes_it_wholly_or_not(tmp_path: Path, known: bool) -> None:
    def interrupted(delay_s: float) -> bool:
        with open_store(tmp_path / f"store{delay_s}", tmp_path / "cache", create=True) as store:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            writer = store.npy_writer((BLOCK * 3 if known else None, COLUMNS), "<i2")
            for rows in blocks(3):
                writer.append(rows)
            timer = threading.Timer(delay_s, os.kill, [os.getpid(), signal.SIGINT])
            stored = False
            try:
                timer.start()
                writer.close()
                stored = True
                timer.join()
            except KeyboardInterrupt:
                pass
            assert check_verified(store).orphans == []
            assert store.exists(identity(3)) or not stored
            assert writing(store, 3, known) == identity(3)
            return stored

    found = {children.run(lambda at=at: interrupted(at / 1000)).get() for at in range(1, 60, 4)}  # type: ignore[misc]
    assert False in found, "it was never interrupted in time"


@pytest.mark.parametrize("way", ["spooled", "iterator"])
def test_a_full_cache_disk_is_named_and_nothing_is_stored(mount: Any, tmp_path: Path, way: str) -> None:
    cache = mount("cache", "size=8m")
    with open_store(tmp_path / "store", cache, create=True) as store:
        before, stats = names(store.path), store.stats()
        with pytest.raises(kacas.NoSpaceError, match="KACAS_CACHE_DIR"):
            WAYS[way](store, 10)
        assert names(store.path) == before
        assert store.stats() == stats
        assert WAYS[way](store, 1) == identity(1)
        assert WAYS["known"](store, 10) == identity(10)  # needs no spool


@pytest.mark.parametrize("way", WAYS)
def test_a_full_store_is_named_and_left_as_it_was(mount: Any, tmp_path: Path, way: str) -> None:
    disk = mount("disk", "size=16m")
    with open_store(disk / "store", tmp_path / "cache", create=True) as store:
        before, stats = names(store.path), store.stats()
        with pytest.raises(kacas.NoSpaceError, match="free space"):
            WAYS[way](store, 30)
        assert names(store.path) == before
        assert store.stats() == stats
        assert WAYS[way](store, 2) == identity(2)
        assert check_verified(store).orphans == []


# --- memory -----------------------------------------------------------------------------------


def anonymous_memory() -> int:
    """Bytes of this process that no file has."""
    match = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024


class Watch:
    """The most anonymous memory in its blocks, beyond what there was when it was made."""

    def __init__(self) -> None:
        self._before = anonymous_memory()

    def __enter__(self) -> Watch:
        self.most = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._end.wait(0.002):
            self.most = max(self.most, anonymous_memory() - self._before)

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def check_memory(tmp_path: Path, size: int, bound: int) -> dict[str, int]:
    """Store arrays of `size` bytes in every way. Returns the memory that each took, in MiB."""
    watch, shape = Watch(), (size // COLUMNS // 2, COLUMNS)
    one = block(0)
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "<i2", shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("a", shape, "<i2")
        chunked = file.create_dataset("chunked", shape, "<i2", chunks=(BLOCK, COLUMNS))
        for start in range(0, len(mapped), BLOCK):
            one += 1
            mapped[start : start + BLOCK] = dataset[start : start + BLOCK] = chunked[start : start + BLOCK] = one

    def rows() -> Iterator[Array]:
        for start in range(0, shape[0], BLOCK):
            yield mapped[start : start + BLOCK]

    def written(store: kacas.Store, first: int | None) -> str:
        with store.npy_writer((first, COLUMNS), "<i2") as writer:
            for some in rows():
                writer.append(some)
        return writer.uri

    # Its threads did not come along with the fork.
    pool = dask.config.set(pool=ThreadPoolExecutor(2))
    with h5py.File(tmp_path / "a.h5") as file, pool:
        ways: dict[str, Callable[[kacas.Store], str]] = {
            "known": lambda store: written(store, shape[0]),
            "spooled": lambda store: written(store, None),
            "iterator": lambda store: store.store_npy(rows()),
            "memmap": lambda store: store.store_npy(mapped),
            "memmap, every second row of columns": lambda store: store.store_npy(mapped[:, ::2]),
            "hdf5": lambda store: store.store_npy(file["a"]),
            "hdf5, chunked": lambda store: store.store_npy(file["chunked"]),
            "dask": lambda store: store.store_npy(da.from_array(file["chunked"], chunks=(BLOCK * 4, COLUMNS))),
        }
        found, uris = {}, set()
        for name, way in ways.items():
            with open_store(tmp_path / name, tmp_path / "cache", create=True) as store:
                with watch:
                    uri = way(store)
                found[name] = watch.most // MIB
                if "columns" not in name:
                    uris.add(uri)
                assert watch.most < bound, f"{name}: {found[name]} MiB"
            shutil.rmtree(tmp_path / name)
    assert len(uris) == 1
    return found


def many_stores(where: Path) -> int:
    """Bytes that five more stores hold after they are closed, each of which took an array."""
    gc.disable()
    array, held = np.arange(BLOCK * 4 * COLUMNS, dtype="<i2").reshape(-1, COLUMNS), []
    for number in range(6):
        with open_store(where / str(number), where / "cache", create=True) as store:
            store.store_npy(array)
        held.append(anonymous_memory())
    return held[-1] - held[0]


def test_what_a_store_took_is_given_back_when_it_is_closed(tmp_path: Path) -> None:
    assert children.run(lambda: many_stores(tmp_path), 60).get() < 32 * MIB


@pytest.mark.heavy
def test_streams_of_384_mib_are_not_held(tmp_path: Path) -> None:
    print(children.run(lambda: check_memory(tmp_path, 384 * MIB, 256 * MIB), 250).get())


@pytest.mark.heavy
def test_streams_of_1_5_gib_take_256_mib_of_memory_at_most(tmp_path: Path) -> None:
    print(children.run(lambda: check_memory(tmp_path, 1536 * MIB, 256 * MIB), 280).get())


def test_a_row_larger_than_memory_is_read_in_parts(tmp_path: Path) -> None:
    def store_wide_rows() -> int:
        with (
            h5py.File(tmp_path / "a.h5", "w") as file,
            open_store(tmp_path / "s", tmp_path / "c", create=True) as store,
        ):
            dataset = file.create_dataset("a", (2, 100 * MIB), "u1", chunks=(1, MIB), compression="lzf")
            dataset[1, 50 * MIB :: MIB] = 7
            with Watch() as watch:
                uri = store.store_npy(dataset)
            assert store.open_npy(uri)[1, 50 * MIB] == 7
            return watch.most

    assert children.run(store_wide_rows).get() < 150 * MIB
