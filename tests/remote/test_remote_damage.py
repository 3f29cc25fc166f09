"""Damage and lies of a remote: none of it is ever given as data; it is named, and another place is tried."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.errors import DamagedRemoteError, RemoteUnavailableError
from kacas_remote.layout import PACKS, RECIPES
from kacas_remote.push import push
from kacas_remote.remote import new_remote
from tests.remote.faulty import FaultyBlobs
from tests.remote.filled import put_content, upstream_on
from tests.upstreams import fetched_entries

SIZE = 300 << 20  # two levels: the recipe has pages


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    found = np.zeros(SIZE // 8, np.int64)
    found[:: 1 << 12] = np.arange(len(found[:: 1 << 12]))
    return found


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, bucket: MemoryBlobs) -> str:
    with kacas.Store.open(tmp_path_factory.mktemp("lab") / "lab") as lab:
        found = lab.store_npy(values, codec="zstd")
        put_content(lab, found, bucket)
        return found


@pytest.fixture(scope="module")
def bucket() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def blobs(bucket: MemoryBlobs, uri: str) -> FaultyBlobs:
    copy = MemoryBlobs()
    copy._blobs.update(bucket._blobs)
    return FaultyBlobs(copy)


@pytest.fixture
def node(tmp_path: Path, blobs: FaultyBlobs) -> kacas.Store:
    return kacas.Store.open(tmp_path / "node", behind=[upstream_on(blobs, tmp_path / "cache")])


@pytest.mark.parametrize("kind", ["flip", "truncate"])
def test_a_wrong_byte_in_a_pack_is_refused_and_named(
    node: kacas.Store, blobs: FaultyBlobs, uri: str, kind: str
) -> None:
    blobs.fault(kind, call="get", prefix=PACKS, times=None)
    for read in (node.load_npy, lambda uri: node.open_npy(uri)[5:1000], lambda uri: node.load_bytes(uri, -100)):
        with pytest.raises(DamagedRemoteError, match=r"remote memory://.*packs/[0-9a-f]{32}\.pack.*not used"):
            read(uri)
    assert fetched_entries(node) == []


@pytest.mark.parametrize("kind", ["flip", "truncate"])
def test_a_wrong_byte_on_the_way_is_asked_for_again(
    node: kacas.Store, blobs: FaultyBlobs, uri: str, values: np.ndarray, kind: str
) -> None:
    for prefix in (PACKS, RECIPES):
        blobs.fault(kind, call="get", prefix=prefix)
    assert np.array_equal(node.open_npy(uri)[30_000_000:30_000_100], values[30_000_000:30_000_100])
    blobs.fault(kind, call="get", prefix=PACKS, times=3, spare=2)
    assert np.array_equal(node.load_npy(uri), values)


@pytest.mark.parametrize("kind", ["flip", "truncate"])
def test_a_damaged_recipe_is_refused_and_named(node: kacas.Store, blobs: FaultyBlobs, uri: str, kind: str) -> None:
    blobs.fault(kind, call="get", prefix=RECIPES, times=None, spare=1)
    with pytest.raises(DamagedRemoteError, match=r"recipes/../../[0-9a-f]{40}"):
        node.load_npy(uri)


def test_a_pack_that_is_gone_is_named(node: kacas.Store, blobs: FaultyBlobs, uri: str) -> None:
    lazy = node.open_npy(uri)
    blobs.delete([info.key for info in blobs.list(PACKS)])
    with pytest.raises(DamagedRemoteError, match=r"packs/[0-9a-f]{32}\.pack is not there"):
        lazy[30_000_000:30_000_100]


def test_a_remote_that_is_away_is_no_damage(node: kacas.Store, blobs: FaultyBlobs, uri: str) -> None:
    blobs.fault("drop", times=None)
    with pytest.raises(RemoteUnavailableError):
        node.load_npy(uri)
    with pytest.raises(RemoteUnavailableError):
        node.open_npy(uri)


def test_a_slice_that_one_remote_cannot_give_comes_from_the_next(
    tmp_path: Path, bucket: MemoryBlobs, blobs: FaultyBlobs, uri: str, values: np.ndarray
) -> None:
    behind = [upstream_on(blobs, tmp_path / "cache", "bad"), upstream_on(bucket, tmp_path / "cache", "good")]
    with kacas.Store.open(tmp_path / "two", behind=behind) as node:
        lazy = node.open_npy(uri)
        for kind in ("flip", "drop"):
            blobs.heal()
            blobs.fault(kind, call="get", prefix=PACKS, times=None)
            at = 1_000_000 if kind == "flip" else 20_000_000
            assert np.array_equal(lazy[at : at + 100], values[at : at + 100])


def test_a_remote_that_was_away_is_asked_last_for_a_while(
    tmp_path: Path, bucket: MemoryBlobs, blobs: FaultyBlobs, uri: str, values: np.ndarray
) -> None:
    behind = [upstream_on(blobs, tmp_path / "cache", "away"), upstream_on(bucket, tmp_path / "cache", "there")]
    dropped = blobs.fault("drop", times=None)
    with kacas.Store.open(tmp_path / "two", behind=behind) as node:
        with pytest.warns(RuntimeWarning, match="away .* did not help, .*there"):
            assert node.load_bytes(uri, -8) == values[-1:].tobytes()
        before = dropped.met
        assert node.load_bytes(uri, 10_000_000, 10_000_008)
        assert node.exists(uri)
        assert dropped.met == before > 0


def test_what_one_recipe_cannot_give_comes_from_another_of_the_same_remote(tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(0, 1000, (2000, 500), dtype=np.int64)
    bucket = MemoryBlobs()
    remote = new_remote("lab", bucket)
    packs: list[set[str]] = []
    with kacas.Store.open(tmp_path / "lab") as lab:
        for chunks in (None, (500, 100)):  # the same array, cut in two ways
            uri = lab.store_npy(array, chunks=chunks)
            push(lab, remote, [uri])
            packs.append({info.key for info in bucket.list(PACKS)})
    assert len(list(bucket.list(RECIPES))) == 2
    for which, damaged in (("rows", packs[0]), ("tiles", packs[1] - packs[0])):
        copy = MemoryBlobs()
        copy._blobs.update(bucket._blobs)
        for key in damaged:
            data = bytearray(copy.get(key, SIZE))
            data[200 : len(data) // 2 : 1000] = bytes(len(range(200, len(data) // 2, 1000)))
            copy.put(key, data)
        with kacas.Store.open(tmp_path / which, behind=[upstream_on(copy, tmp_path / f"{which} cache")]) as node:
            opened = node.open_npy(uri)
            assert np.array_equal(opened[3:900:7], array[3:900:7]), which
            assert np.array_equal(opened[:, 17], array[:, 17]), which
