"""Slices over the wire: how many round trips and bytes they take, what is kept, and that many readers do not disturb each other."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.layout import PACKS
from tests.remote.counting import CountingBlobs
from tests.remote.faulty import FaultyBlobs
from tests.remote.filled import put_content, upstream_on
from tests.upstreams import fetched_entries, fetched_packs

GIB = 1 << 30


@pytest.fixture
def lab(tmp_path: Path) -> kacas.Store:
    return kacas.Store.open(tmp_path / "lab")


@pytest.fixture
def blobs() -> CountingBlobs:
    return CountingBlobs(MemoryBlobs())


def repeated(lab: kacas.Store, gib: int) -> str:
    """An array of so many GiB, which is one block of random bytes again and again, and 64 MiB of others in its middle."""
    generator = np.random.default_rng(1)
    block = generator.integers(0, 256, 1 << 26, np.uint8)
    with lab.npy_writer((gib << 30,), np.uint8, codec="raw") as writer:
        for number in range(gib * 16):
            writer.append(generator.integers(0, 256, 1 << 26, np.uint8) if number == gib * 8 else block)
    return writer.uri


@pytest.mark.heavy
def test_a_slice_of_16_gib_takes_five_round_trips_and_the_next_one_at_most(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    _look_at_slices(tmp_path, lab, blobs, 16)


def test_a_slice_of_1_gib_takes_five_round_trips_and_the_next_one_at_most(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    _look_at_slices(tmp_path, lab, blobs, 1)


def _look_at_slices(tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs, gib: int) -> None:
    uri = repeated(lab, gib)
    put_content(lab, uri, blobs)
    upstream = upstream_on(blobs, tmp_path / "cache")
    at = gib * GIB // 2 + 1_234_567
    with kacas.Store.open(tmp_path / "node", behind=[upstream]) as node:
        blobs.clear()
        lazy = node.open_npy(uri)
        first = lazy[at : at + 65_536]
        assert blobs.count <= 5
        assert blobs.moved <= 1 << 20
        blobs.clear()
        near = lazy[at + 70_000 : at + 135_536]
        assert blobs.count <= 1
        blobs.clear()
        assert (
            lazy[at + 1000 : at + 66_536].tobytes()
            == first.tobytes()[1000:] + lazy[at + 65_536 : at + 66_536].tobytes()
        )
        assert blobs.count == 0
    with lab.open_file(uri) as file:
        head = file.seek(0, 2) - gib * GIB
        file.seek(head + at)
        assert file.read(65_536) == first.tobytes()
        file.seek(head + at + 70_000)
        assert file.read(65_536) == near.tobytes()


def test_what_was_read_is_kept_by_a_store_that_was_closed(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    values = np.random.default_rng(2).integers(0, 1 << 40, 10 << 20)
    uri = lab.store_npy(values)
    put_content(lab, uri, blobs)
    upstream = upstream_on(blobs, tmp_path / "cache")
    with kacas.Store.open(tmp_path / "node", behind=[upstream]) as node:
        assert np.array_equal(node.open_npy(uri)[100:1_000_000], values[100:1_000_000])
    blobs.clear()
    with kacas.Store.open(tmp_path / "node", behind=[upstream]) as node:
        assert fetched_packs(node)
        assert not fetched_entries(node)
        assert np.array_equal(node.open_npy(uri)[200:900_000], values[200:900_000])
        assert not [one for one in blobs.asked if one.key.startswith(PACKS)]
        assert np.array_equal(node.load_npy(uri), values)
        assert len(fetched_entries(node)) == 1


def test_what_was_kept_is_not_fetched_again_by_who_wants_all(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    values = np.random.default_rng(3).integers(0, 256, 48 << 20, np.uint8)
    uri = lab.store_npy(values, codec="raw")
    put_content(lab, uri, blobs)
    with kacas.Store.open(tmp_path / "node", behind=[upstream_on(blobs, tmp_path / "cache")]) as node:
        node.open_npy(uri)[: 24 << 20]
    blobs.clear()
    with kacas.Store.open(tmp_path / "node", behind=[upstream_on(blobs, tmp_path / "cache")]) as node:
        assert np.array_equal(node.load_npy(uri), values)
    assert blobs.moved < 26 << 20


def test_a_store_that_cannot_be_written_reads_all_the_same(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    values = np.random.default_rng(4).integers(0, 1 << 40, 4 << 20)
    uri = lab.store_npy(values)
    put_content(lab, uri, blobs)
    kacas.Store.open(tmp_path / "node").close()
    for path in (tmp_path / "node", *(tmp_path / "node").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        for trusted in (True, False):
            upstream = upstream_on(blobs, tmp_path / f"cache-{trusted}", trusted=trusted)
            with kacas.Store.open(tmp_path / "node", create=False, behind=[upstream]) as node:
                assert np.array_equal(node.open_npy(uri)[7:1_000_000], values[7:1_000_000])
                assert np.array_equal(node.load_npy(uri), values)
    finally:
        for path in (tmp_path / "node", *(tmp_path / "node").rglob("*")):
            path.chmod(0o755)


def _read_in_child(node: kacas.Store, uri: str, at: int, total: int, answers: object) -> None:
    answers.put(int(node.open_npy(uri)[at : at + total].sum()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_forked_and_spawned_children_read_through_the_store_of_their_parent(
    tmp_path: Path, lab: kacas.Store, how: str
) -> None:
    values = np.random.default_rng(5).integers(0, 1 << 40, 8 << 20)
    uri = lab.store_npy(values)
    (tmp_path / "bucket").mkdir()
    blobs = DirectoryBlobs(tmp_path / "bucket")
    put_content(lab, uri, blobs)
    context = multiprocessing.get_context(how)
    with kacas.Store.open(tmp_path / "node", behind=[upstream_on(blobs, tmp_path / "cache")]) as node:
        assert int(node.open_npy(uri)[:1_000_000].sum()) == int(values[:1_000_000].sum())
        answers = context.Queue()
        children = [
            context.Process(target=_read_in_child, args=(node, uri, at, 1_000_000, answers))
            for at in range(500_000, 8_000_000, 2_000_000)
        ]
        for child in children:
            child.start()
        found = sorted(answers.get(timeout=60) for _ in children)
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        assert found == sorted(int(values[at : at + 1_000_000].sum()) for at in range(500_000, 8_000_000, 2_000_000))
        assert int(node.open_npy(uri)[7_000_000:].sum()) == int(values[7_000_000:].sum())


def test_what_was_read_of_a_part_is_read_again_while_the_remote_is_away(tmp_path: Path, lab: kacas.Store) -> None:
    values = np.arange(4 << 20)
    blobs = FaultyBlobs(MemoryBlobs())
    uri = lab.store_npy(values)
    put_content(lab, uri, blobs)
    with kacas.Store.open(tmp_path / "away", behind=[upstream_on(blobs, tmp_path / "cache-away")]) as store:
        assert np.array_equal(store.open_npy(uri)[5:9], values[5:9])
    blobs.fault("drop", times=None)
    with kacas.Store.open(tmp_path / "away", behind=[upstream_on(blobs, tmp_path / "cache-away")]) as store:
        assert np.array_equal(store.open_npy(uri)[5:9], values[5:9])
