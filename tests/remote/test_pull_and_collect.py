"""Readers beside a collector: who knows the old places of what was written anew finds the new ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.push import push
from kacas_remote.remote import new_remote
from kacas_remote.upkeep.collect import CollectSettings, collect
from kacas_remote.upkeep.remove import remove
from tests.remote.filled import upstream_on


@pytest.mark.parametrize("many", [False, True])
def test_what_is_open_for_reading_is_read_on_after_it_was_repacked(
    store: kacas.Store, tmp_path: Path, many: bool
) -> None:
    blobs = MemoryBlobs()
    remote = new_remote("lab", blobs)
    generator = np.random.default_rng(0)
    array = generator.integers(0, 256, (1000, 4000), np.uint8)
    kept = [
        store.store_npy(array, codec="raw"),
        *(store.store_bytes(generator.bytes(400_000)) for _ in range(70 * many)),
    ]
    gone = store.store_bytes(generator.bytes(12_000_000))
    push(store, remote, [*kept, gone])
    upstream = upstream_on(blobs, tmp_path / "cache")
    with kacas.Store.open(tmp_path / "node", behind=[upstream]) as node:
        lazy = node.open_npy(kept[0])
        assert lazy[:10].tobytes() == array[:10].tobytes()
        remove(remote, [gone])
        assert collect(remote, CollectSettings(grace_s=0, settle_s=0, repack=0.05)).rescued.payloads
        assert lazy[900:].tobytes() == array[900:].tobytes()
        for uri in kept:
            assert node.load_bytes(uri) == store.load_bytes(uri)
