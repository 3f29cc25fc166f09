"""Tiles that lie, tiles that are too many for the memory, and a disk that fills up while they are made."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kacas
from kacas.model.digest import PayloadKind
from kacas.model.entry import Kind
from kacas.model.manifest import Child, Manifest, Node
from kacas.model.npy_header import encode_header
from kacas.model.tiling import FAN_OUT, Tiling
from kacas.upkeep.verify import verify
from tests.faults import contents
from tests.faults.children import fork, run
from tests.faults.conftest import Mount
from tests.faults.contents import MIB
from tests.faults.examination import check_verified, names, open_store
from tests.faults.forging import Forgery
from tests.faults.test_full_disk import fill

WIDE = 2048  # bytes: what makes a tile of 2 by 2 of them no smaller than tiles may be


def forged(store: kacas.Store, tiling: Tiling, shape: tuple[int, ...], change: Callable[[list[bytes]], Any]) -> str:
    """A store's array of bytes as tiles, of which `change` changes some before digests are made. Returns the URI."""
    tiles = [bytes([number % 251]) * size for number, size in enumerate(sizes_of(tiling))]
    change(tiles)
    forgery = Forgery(store)
    row, level = [Child(forgery.add_raw(tile), len(tile)) for tile in tiles], 0
    while len(row) > FAN_OUT:
        level += 1
        groups = [tuple(row[at : at + FAN_OUT]) for at in range(0, len(row), FAN_OUT)]
        nodes = [Node(level, sum(child.size for child in group), group) for group in groups]
        row = [Child(forgery.add_raw(node.encode(), PayloadKind.NODE), node.size) for node in nodes]
    head = encode_header(np.dtype("u1"), shape, False)
    manifest = Manifest(len(head) + tiling.size, level, head, {"kind": "npy"}, tuple(row), tiling)
    root = forgery.add_raw(manifest.encode(), PayloadKind.MANIFEST)
    uri = forgery.claim(root, manifest.size, kind=Kind.NPY)
    forgery.publish()
    store.repository.lookup.refresh()
    return uri


def sizes_of(tiling: Tiling) -> list[int]:
    return [tiling.size_before(number + 1) - tiling.size_before(number) for number in range(tiling.count)]


def swap(first: int, second: int) -> Callable[[list[bytes]], None]:
    def change(tiles: list[bytes]) -> None:
        tiles[first], tiles[second] = tiles[second], tiles[first]

    return change


def test_honest_tiles_are_read(store: kacas.Store) -> None:
    uri = forged(store, Tiling((30, 41 * WIDE), (2, 2 * WIDE)), (30, 41 * WIDE), lambda tiles: None)
    assert store.open_npy(uri)[29, 40 * WIDE] == (15 * 21 - 1) % 251
    assert store.load_npy(uri)[2, : 3 * WIDE : WIDE].tolist() == [21, 21, 22]


@pytest.mark.parametrize(
    "shape, change", [((5, 7 * WIDE), swap(2, 3)), ((30, 41 * WIDE), swap(19, 20))], ids=["manifest", "node"]
)
def test_a_tile_of_another_size_than_its_place_demands_is_refused(
    store: kacas.Store, shape: tuple[int, ...], change: Callable[[list[bytes]], None]
) -> None:
    """In a manifest at once, in a node as soon as it is read."""
    uri = forged(store, Tiling(shape, (2, 2 * WIDE)), shape, change)
    for read in (store.load_npy, store.load_bytes, store.load_file, lambda uri: store.open_npy(uri)[0, -1]):
        with pytest.raises(kacas.DamagedContentError):
            read(uri)
    assert any(found.startswith(uri) for problem in verify(store).problems for found in problem.uris)


def test_a_node_with_too_few_tiles_is_refused(store: kacas.Store) -> None:
    def change(tiles: list[bytes]) -> None:
        # One tile less, with the bytes of two: the sum of the last node is right, the last place is empty.
        tiles[-2:] = [tiles[-2] + tiles[-1]]

    uri = forged(store, Tiling((40, 41 * WIDE), (2, 2 * WIDE)), (40, 41 * WIDE), change)
    with pytest.raises(kacas.DamagedContentError, match="lacks"):
        store.open_npy(uri)[39, 40 * WIDE]


def test_tiles_of_another_shape_than_the_array_are_read_by_bytes(store: kacas.Store) -> None:
    """The root covers the tiling: the bytes are right, only slices are no boxes of it."""
    uri = forged(store, Tiling((35 * WIDE,), (6 * WIDE,)), (5, 7 * WIDE), lambda tiles: None)
    expected = np.repeat(np.arange(6, dtype=np.uint8), 6 * WIDE)[: 35 * WIDE].reshape(5, 7 * WIDE)
    assert np.array_equal(store.load_npy(uri), expected)
    assert np.array_equal(store.open_npy(uri)[:, 3 * WIDE], expected[:, 3 * WIDE])
    assert store.describe(uri).tiles is None


def test_a_tiling_that_declares_more_than_there_is_takes_no_memory(store: kacas.Store) -> None:
    forgery = Forgery(store)
    digest = forgery.add_raw(bytes(1))
    head = encode_header(np.dtype("u1"), (2**40, 2**20), False)
    tiling = Tiling((2**40, 2**20), (2**4, 2**20))
    top = tuple(Child(digest, size) for size in tiling.child_sizes())
    manifest = Manifest(len(head) + tiling.size, tiling.level, head, {}, top, tiling)
    root = forgery.add_raw(manifest.encode(), PayloadKind.MANIFEST)
    uri = forgery.claim(root, manifest.size, kind=Kind.NPY)
    forgery.publish()
    store.repository.lookup.refresh()
    with pytest.raises(kacas.SizeLimitError):
        store.load_npy(uri)
    with pytest.raises(kacas.DamagedError):
        store.open_npy(uri)[2**39, 5]
    with pytest.raises(kacas.NoSpaceError):
        store.load_file(uri)


# --- memory and disk ----------------------------------------------------------------------------

ROWS, COLUMNS = 1 << 16, 1024  # one row of tiles is all of it: 128 MiB
CHUNKS = (None, 8)


def anonymous() -> int:
    """Bytes of memory that belong to no file."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("this kernel does not tell")


def peak_of(work: Callable[[], object]) -> int:
    """The most anonymous memory that the work took, as far as looking every 5 ms shows it."""
    gc.collect()
    before = most = anonymous()
    done = threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, anonymous())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        work()
    finally:
        done.set()
        looking.join()
    return most - before


def large_file(path: Path) -> Path:
    rows = np.random.default_rng(0).integers(0, 1000, (1024, COLUMNS), np.int16)
    with open(path, "wb") as file:
        file.write(encode_header(np.dtype("<i2"), (ROWS, COLUMNS), False))
        for number in range(ROWS // len(rows)):
            file.write((rows + number).tobytes())
    return path


def test_a_row_of_tiles_that_is_larger_than_the_memory_waits_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large_file(tmp_path / "a.npy")
    monkeypatch.setenv("KACAS_MEMORY", "64M")

    def work() -> None:
        with open_store(tmp_path / "store", tmp_path / "cache", create=True) as store:
            uris: list[str] = []
            assert peak_of(lambda: uris.append(store.store_file(path, chunks=CHUNKS))) < 64 * MIB
            assert peak_of(lambda: store.load_file(uris[0], dest=tmp_path / "b.npy")) < 64 * MIB
            assert peak_of(lambda: verify(store)) < 64 * MIB

    run(work, 120).get()
    assert (tmp_path / "b.npy").read_bytes() == path.read_bytes()
    assert [name for name in os.listdir(tmp_path / "cache") if "spool" in name] == []


def test_what_is_put_in_order_while_it_is_read_follows_the_setting_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).integers(
        0, 256, (1 << 14, 1 << 11), np.uint8
    )  # one row of tiles is all of its 32 MiB
    path = tmp_path / "restored.npy"
    monkeypatch.setenv("KACAS_MEMORY", "64M")  # of which a quarter
    with kacas.Store.open(tmp_path / "quick", durability="relaxed") as store:
        uri = store.store_npy(array, chunks=(None, 16), codec="raw")
        tracemalloc.start()
        try:
            store.load_file(uri, dest=path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < array.nbytes
    assert np.array_equal(np.load(path), array)


def test_a_full_cache_disk_leaves_the_store_as_it_was(
    mount: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large_file(tmp_path / "a.npy")
    cache = mount("small", "size=96m")
    with open_store(tmp_path / "store", cache, create=True) as store:
        earlier = contents.text("earlier")
        uri = earlier.put(store)
        before = names(tmp_path / "store")
        with pytest.raises(kacas.NoSpaceError, match="KACAS_CACHE_DIR"):
            store.store_file(path, chunks=CHUNKS)
        assert names(tmp_path / "store") == before
        earlier.check(store, uri)
        assert check_verified(store).orphans == []
        # What was stored where there was room for it is read there alone, if it is read from front to back.
        monkeypatch.setenv("KACAS_CACHE_DIR", str(tmp_path / "roomy"))
        with open_store(tmp_path / "store", tmp_path / "roomy") as roomy:
            tiled = roomy.store_file(path, chunks=CHUNKS)
        with pytest.raises(kacas.NoSpaceError, match="KACAS_CACHE_DIR"):
            store.load_file(tiled, dest=tmp_path / "b.npy")
        assert not (tmp_path / "b.npy").exists()
        assert store.open_npy(tiled)[5, 5] == np.load(path, mmap_mode="r")[5, 5]


def test_a_full_disk_while_tiles_are_written_leaves_the_store_as_it_was(mount: Mount, tmp_path: Path) -> None:
    disk = mount("disk", "size=16m")
    array = np.random.default_rng(0).integers(0, 256, (6000, 1000), np.uint8)
    with open_store(disk / "store", tmp_path / "cache", create=True) as store:
        uri = contents.text("earlier").put(store)
        filler = fill(disk, 3 * MIB)
        before = names(disk / "store")
        with pytest.raises(kacas.NoSpaceError):
            store.store_npy(array, chunks=(500, 100))
        assert names(disk / "store") == before
        contents.text("earlier").check(store, uri)
        filler.unlink()
        assert np.array_equal(store.load_npy(store.store_npy(array, chunks=(500, 100))), array)
        assert check_verified(store).orphans == []


@pytest.mark.parametrize("delay_s", [0.05, 0.15, 0.3])
def test_a_kill_while_tiles_are_made_loses_nothing(tmp_path: Path, delay_s: float) -> None:
    path = large_file(tmp_path / "a.npy")

    def work() -> None:
        with open_store(tmp_path / "store", tmp_path / "cache") as store:
            for columns in range(CHUNKS[1], 10 * CHUNKS[1]):  # until it is killed
                store.store_file(path, chunks=(CHUNKS[0], columns))

    with open_store(tmp_path / "store", tmp_path / "cache", create=True) as store:
        uri = contents.text("earlier").put(store)
        child = fork(work)
        time.sleep(delay_s)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait().killed_by == "SIGKILL"
        contents.text("earlier").check(store, uri)
        check_verified(store)
    # The cache has no more in it than before: what waited in a file had no name.
    assert sum(file.stat().st_blocks * 512 for file in (tmp_path / "cache").rglob("*")) < 4 * MIB


def test_an_array_that_changes_meanwhile_has_the_identity_of_what_was_stored(store: kacas.Store) -> None:
    array = np.zeros((4000, 1000), np.int32)
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            array[:: 1 + number % 7, number % 1000] = number

    changing = threading.Thread(target=change)
    changing.start()
    try:
        uris = [store.store_npy(array, chunks=(300, 100)) for _ in range(3)]
    finally:
        stop.set()
        changing.join()
    for uri in uris:
        assert store.load_npy(uri).shape == array.shape
    assert verify(store).clean


def test_a_file_that_changes_while_it_is_stored_as_tiles_is_not_kept(store: kacas.Store, tmp_path: Path) -> None:
    path = large_file(tmp_path / "a.npy")
    seen: list[int] = []

    def shorten(stage: str, done: int, total: int | None) -> None:
        if not seen:
            os.truncate(path, path.stat().st_size - 10)
        seen.append(done)

    with kacas.Store.open(store.path, progress=shorten) as watching, pytest.raises(kacas.SourceChangedError):
        watching.store_file(path, chunks=(1024, 64))
    assert check_verified(store).orphans == []
