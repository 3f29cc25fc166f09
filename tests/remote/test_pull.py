"""Pull: whole content of a remote comes into a cold store, is proved, and is not asked for again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas_remote.blobs.memory import MemoryBlobs
from tests.remote.counting import CountingBlobs
from tests.remote.filled import put_content, upstream_on
from tests.upstreams import fetched_packs


@pytest.fixture
def lab(tmp_path: Path) -> kacas.Store:
    return kacas.Store.open(tmp_path / "lab")


@pytest.fixture
def blobs() -> CountingBlobs:
    return CountingBlobs(MemoryBlobs())


def array(mib: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, (mib << 17,)).astype(np.int64)


def test_an_array_of_a_remote_is_loaded_by_a_cold_store_and_kept(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    values = array(24)
    uri = lab.store_npy(values)
    put_content(lab, uri, blobs)
    upstream = upstream_on(blobs, tmp_path / "cache", trusted=False)
    with kacas.Store.open(tmp_path / "node", behind=[upstream]) as node:
        assert np.array_equal(node.load_npy(uri), values)
        assert fetched_packs(node)
        blobs.clear()
        assert np.array_equal(node.load_npy(uri), values)
        assert blobs.count == 0


def test_a_slice_of_a_remote_array_moves_its_chunks_only_and_is_kept(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    values = array(400)
    uri = lab.store_npy(values, codec="zstd")
    put_content(lab, uri, blobs)
    upstream = upstream_on(blobs, tmp_path / "cache")
    blobs.clear()
    with kacas.Store.open(tmp_path / "node", behind=[upstream]) as node:
        lazy = node.open_npy(uri)
        assert np.array_equal(lazy[10_000_000:10_008_192], values[10_000_000:10_008_192])
        assert blobs.count <= 5
        assert blobs.moved <= 1 << 20
        blobs.clear()
        assert np.array_equal(lazy[10_050_000:10_050_100], values[10_050_000:10_050_100])
        assert blobs.count <= 1
    blobs.clear()
    with kacas.Store.open(tmp_path / "node", behind=[upstream]) as node:
        assert np.array_equal(node.open_npy(uri)[10_000_000:10_008_192], values[10_000_000:10_008_192])
        assert not [one for one in blobs.asked if one.key.startswith("packs/")]
