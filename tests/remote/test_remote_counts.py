"""What docs/benchmarks.md says of remotes in requests and bytes, in numbers that no clock changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kacas
from bench.trees import make_tree, same_trees
from kacas.settings import Settings
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.layout import CONDEMNED, LEASES, MARKER, PACKS, RECIPES, REMOVED
from kacas_remote.push import push
from kacas_remote.remote import Remote
from kacas_remote.upstream import RemoteUpstream
from tests.remote.counting import CountingBlobs, calls, moved
from tests.remote.meeting import Meeting

MIB = 1 << 20
BESIDE = 16  # requests beside those that carry content: marker, lists, lease, tables, recipes


@pytest.fixture
def blobs() -> CountingBlobs:
    return CountingBlobs(MemoryBlobs())


@pytest.fixture
def remote(blobs: CountingBlobs) -> Remote:
    return Remote("lab", blobs, RemoteConfiguration("lab", "memory://", trusted=True))


def cold_host(place: Path, remote: Remote) -> kacas.Store:
    settings = Settings.from_environment({"KACAS_CACHE_DIR": str(place / "cache"), "HOME": str(place)})
    return kacas.Store.open(place / "store", settings=settings, behind=[RemoteUpstream(remote, settings)])


def recording(rows: int = 1 << 18) -> np.ndarray:
    steps = np.random.default_rng(3).integers(-3, 4, (rows, 128), dtype=np.int16)
    return np.cumsum(steps, axis=0, dtype=np.int16)


def test_an_array_is_pushed_once_then_not_at_all_then_what_changed(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs
) -> None:
    array = recording()  # 64 MiB
    uri = store.store_npy(array, codec="bits-lz4")
    summary = push(store, remote, [uri])
    first = blobs.take()
    stored = summary.chunk_size
    assert 20 * MIB < stored < array.nbytes
    assert moved(first, "packs/") <= 1.01 * stored + MIB
    assert calls(first, "put", "packs/") <= stored // (24 * MIB) + 1
    assert len(first) <= calls(first, "put", "packs/") + 2 * BESIDE

    push(store, remote, [uri])
    again = blobs.take()
    assert calls(again) <= 2
    assert moved(again) <= 64 * 1024

    array[: len(array) // 100] += 1
    push(store, remote, [store.store_npy(array, codec="bits-lz4")])
    changed = blobs.take()
    assert calls(changed, "put", "packs/") == 1
    assert moved(changed) <= 0.05 * stored
    assert calls(changed) <= BESIDE


def test_what_a_push_need_not_wait_for_is_asked_at_once(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs
) -> None:
    array = recording(1 << 14)
    push(store, remote, [store.store_npy(array, codec="bits-lz4")])
    array[:100] += 1
    uri = store.store_npy(array, codec="bits-lz4")
    blobs.take()
    meeting = Meeting(
        blobs,
        {
            "marker and recipe": [("get", MARKER), ("get_ranges", RECIPES)],
            "condemned packs, packs and removals": [("list", CONDEMNED), ("list", PACKS), ("list", REMOVED)],
            "the pack, and packs again": [("put_if_absent", PACKS), ("list", PACKS)],
            "the lease, the marker, and condemned packs again": [("get", LEASES), ("get", MARKER), ("list", CONDEMNED)],
        },
    )
    push(store, Remote("lab", meeting, remote.configuration), [uri])
    assert len(meeting.met) == 4
    # Alone: taking the lease, the recipe, the lease's end. So 7 round trips.
    assert calls(blobs.take()) == 2 + 3 + 2 + 3 + 3


def test_who_pushes_again_looks_at_the_marker_only_beside_something_else(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs
) -> None:
    push(store, remote, [store.store_bytes(b"one")])
    meeting = Meeting(
        blobs,
        {
            "recipe": [("get", MARKER), ("get_ranges", RECIPES)],
            "lease": [("get", MARKER), ("get", LEASES)],
        },
    )
    again = Remote("lab", meeting, remote.configuration)
    again._known = remote._known
    blobs.clear()
    push(store, again, [store.store_bytes(b"two")])
    assert len(meeting.met) == 2
    assert calls(blobs.take(), "get", MARKER) == 2


def test_an_array_comes_to_a_cold_host_with_little_beside_its_bytes(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs, tmp_path: Path
) -> None:
    array = recording()
    uri = store.store_npy(array, codec="bits-lz4")
    stored = push(store, remote, [uri]).chunk_size
    blobs.take()
    with cold_host(tmp_path / "cold", remote) as host:
        assert np.array_equal(host.load_npy(uri), array)
        asked = blobs.take()
        assert moved(asked, "packs/") <= 1.02 * stored + MIB
        # Each pack in one call, but for the first one, which comes in small parts at first.
        assert calls(asked, "get", "packs/") <= stored // (24 * MIB) + 1 + 3
        assert calls(asked) <= calls(asked, "get", "packs/") + BESIDE
        assert np.array_equal(host.load_npy(uri), array)
        assert calls(blobs.take()) == 0


def test_an_array_whose_chunks_lie_by_turns_in_two_packs_is_not_asked_for_chunk_by_chunk(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs, tmp_path: Path
) -> None:
    array = recording()
    push(store, remote, [store.store_npy(array, codec="bits-lz4")])
    for row in range(0, len(array), 2048):  # two chunks
        array[row : row + 900] += 1
    uri = store.store_npy(array, codec="bits-lz4")
    assert push(store, remote, [uri]).chunks_there > 100
    blobs.take()
    with cold_host(tmp_path / "cold", remote) as host:
        assert np.array_equal(host.load_npy(uri), array)
    assert calls(blobs.take(), "get", "packs/") <= 24


def test_many_small_files_take_a_hundredth_of_a_request_each(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs, tmp_path: Path
) -> None:
    files = 3000
    make_tree(tmp_path / "tree", files=files, folders=30, sizes=(1024, 4096))
    uri = store.store_dir(tmp_path / "tree")
    push(store, remote, [uri])
    assert calls(blobs.take()) <= files // 100
    with cold_host(tmp_path / "cold", remote) as host:
        host.load_dir(uri, tmp_path / "restored")
    assert calls(blobs.take()) <= files // 100
    assert same_trees(tmp_path / "tree", tmp_path / "restored")


def test_many_small_files_are_few_ranges_of_their_packs(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs, tmp_path: Path
) -> None:
    """A range that no other one touches is a request of its own where the service is real."""
    files = 3000
    make_tree(tmp_path / "tree", files=files, folders=30, sizes=(1024, 16 * 1024))
    uri = store.store_dir(tmp_path / "tree")
    push(store, remote, [uri])
    blobs.take()
    with cold_host(tmp_path / "cold", remote) as host:
        host.load_dir(uri, tmp_path / "restored")
    assert sum(one.ranges for one in blobs.take()) <= files // 20
