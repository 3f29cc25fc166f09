"""Pulls that are killed, and pulls of many at once: what arrived is not asked for again, and one download serves all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.disk import leases
from kacas_remote.blobs.directory import DirectoryBlobs
from tests.faults.children import fork
from tests.faults.test_fan_out import at_half, stop_myself, until_stopped
from tests.remote.filled import put_content, upstream_on
from tests.remote.logged import LoggedBlobs, downloaded
from tests.upstreams import fetched_entries, fetched_packs

SIZE = 224 << 20
COUNT = 8


def values() -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, SIZE, np.uint8)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    (tmp_path / "bucket").mkdir()
    with kacas.Store.open(tmp_path / "lab") as lab:
        found = lab.store_npy(values(), codec="raw")
        put_content(lab, found, DirectoryBlobs(tmp_path / "bucket"))
        return found


def open_node(tmp_path: Path, log: str, progress: object = None) -> kacas.Store:
    blobs = LoggedBlobs(DirectoryBlobs(tmp_path / "bucket"), tmp_path / log)
    behind = [upstream_on(blobs, tmp_path / "cache")]
    return kacas.Store.open(tmp_path / "node", behind=behind, progress=progress)  # type: ignore[arg-type]


def load(tmp_path: Path, uri: str, log: str, progress: object = None) -> int:
    with open_node(tmp_path, log, progress) as node:
        assert np.array_equal(node.load_npy(uri), values())
        return node.repository.tiers.fetches


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_pull_that_was_killed_goes_on_with_what_had_arrived(
    tmp_path: Path, uri: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 2.0)
    monkeypatch.setattr(leases, "RENEW_S", 0.3)
    child = fork(lambda: load(tmp_path, uri, "first", at_half(stop_myself, share)))
    until_stopped(child)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait().killed_by == "SIGKILL"
    with open_node(tmp_path, "look") as node:
        kept = sum(path.stat().st_size for path in fetched_packs(node))
        assert kept > 0
        assert fetched_entries(node) == []
    assert fork(lambda: load(tmp_path, uri, "second")).wait(120).get() == 1
    # Besides, the recipe, and the tables of all packs if somebody looks at them: never a pack's worth.
    assert downloaded(tmp_path / "second") < SIZE - kept + (3 << 20)
    assert (
        downloaded(tmp_path / "first") - kept < (64 + 64) << 20
    )  # the pack that was being written, and what was in flight


def test_many_processes_that_pull_one_content_make_one_download(tmp_path: Path, uri: str) -> None:
    open_node(tmp_path, "look").close()
    children = [fork(lambda: load(tmp_path, uri, "all")) for _ in range(COUNT)]
    assert sum(child.wait(180).get() for child in children) == 1
    assert SIZE <= downloaded(tmp_path / "all") < SIZE + (1 << 20)
