"""A disk that is full while content of a remote is read and pulled: it is read all the same."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.push import push
from kacas_remote.remote import new_remote
from tests.faults.conftest import Mount
from tests.faults.test_full_disk import fill
from tests.remote.filled import upstream_on

VALUES = np.random.default_rng(5).integers(0, 256, (24 << 12, 256), np.uint8)  # 24 MiB


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def uri(tmp_path: Path, blobs: MemoryBlobs) -> str:
    with kacas.Store.open(tmp_path / "lab") as lab:
        found = lab.store_npy(VALUES, codec="raw")
        push(lab, new_remote("lab", blobs), [found])
    return found


def test_parts_are_read_while_the_disk_is_full_and_that_is_warned_of_once(
    mount: Mount, tmp_path: Path, blobs: MemoryBlobs, uri: str
) -> None:
    disk = mount("disk", "size=32m")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with kacas.Store.open(disk / "store", behind=[upstream_on(blobs, tmp_path / "cache")]) as node:
            fill(disk, 16384)
            for start in range(0, len(VALUES), 16 << 10):
                assert np.array_equal(node.open_npy(uri)[start : start + 4096], VALUES[start : start + 4096])
                node.repository.tiers.near.flush()
            assert not list((disk / "store" / "packs").glob("*.pack"))
    texts = [str(one.message) for one in warned if "not kept any more" in str(one.message)]
    assert len(texts) == 1, texts


def test_a_pull_that_fills_the_disk_is_read_through_and_leaves_nothing(
    mount: Mount, tmp_path: Path, blobs: MemoryBlobs, uri: str
) -> None:
    disk = mount("disk", "size=32m")
    with warnings.catch_warnings(record=True) as warned:  # those of the thread that keeps are among them
        warnings.simplefilter("always")
        with kacas.Store.open(disk / "store", behind=[upstream_on(blobs, tmp_path / "cache")]) as node:
            fill(disk, 6 << 20)
            assert np.array_equal(node.load_npy(uri), VALUES)
    assert any("comes from the upstream, and is not kept" in str(one.message) for one in warned)
    packs = [path for path in (disk / "store" / "packs").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in packs) < 1 << 20
