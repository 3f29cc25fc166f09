"""Linked files beside what else a store does: a link is never taken for a copy, and outlives merging."""

from __future__ import annotations

import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from kacas import Store
from kacas.disk import identities
from kacas.formats import file
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.entry import Kind
from kacas.model.merging import MergeRule, tier_of
from kacas.upkeep.verify import verify
from tests.formats.conftest import LARGE, SMALL

SIZES = [1, CHUNK_TARGET, CHUNK_TARGET + 1, len(LARGE)]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    """The identity cache's clock is an hour ahead: what was written just now has settled."""
    ahead_ns = 3600 * 10**9
    monkeypatch.setattr(identities, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + ahead_ns))
    with open(small, "rb") as probe:
        if identities.sync_source(probe.fileno()) is None:
            pytest.skip("the file system of the tests does not tell of writes through mappings")


def make(path: Path, size: int) -> Path:
    path.write_bytes(LARGE[:size])
    return path


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("size", SIZES)
def test_a_linked_file_is_not_taken_for_a_stored_copy(store: Store, tmp_path: Path, size: int) -> None:
    path = make(tmp_path / "file", size)
    for _ in range(2):  # the second time, all but the label is there
        store.link_file(path)
    assert store.store_file(path) == store.store_file(path)
    assert store.store_file(path, label="other") != store.store_file(path)
    uri = store.store_file(path)
    path.unlink()
    assert store.load_bytes(uri) == LARGE[:size]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("together", [False, True], ids=["alone", "in a batch"])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_known_of_an_unchanged_file_is_no_copy_of_one_that_was_lost_and_linked(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, together: bool
) -> None:
    path = make(tmp_path / "file", size)
    store.store_file(path)
    for pack in (store.path / "packs").iterdir():
        pack.unlink()
    store.repository.lookup.packs.close()
    store.repository.lookup.refresh()
    if together:
        with store.batch():
            store.link_file(path)
            store.link_file(path, label="other")
            uri = store.store_file(path)
    else:
        store.link_file(path)
        uri = store.store_file(path)
    stored = store.stats()
    path.rename(tmp_path / "away")
    assert store.load_bytes(uri) == LARGE[:size]
    assert stored.raw_size >= size
    # And now that it is whole, it is not read again.
    (tmp_path / "away").rename(path)
    store.store_file(path)  # renaming it has set its times
    monkeypatch.setattr(file.FileSource, "readinto", None)
    assert store.store_file(path) == uri


@pytest.mark.parametrize("first", ["link", "put"])
def test_a_small_put_and_a_link_in_one_batch_are_both_kept(store: Store, small: Path, first: str) -> None:
    with store.batch():
        if first == "link":
            store.link_file(small)
        store.repository.put_small(SMALL, Kind.FILE, small.name)
        if first == "put":
            store.link_file(small)
    uri = store.store_bytes(b"another")  # in a batch of its own
    found = next(item.uri for item in store.history() if item.uri != uri)
    assert store.describe(found).adopted == (str(small),)
    small.unlink()
    assert store.load_bytes(found) == SMALL


@pytest.mark.parametrize("linked_first", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_directory_has_copies_of_files_that_are_linked(
    store: Store, tmp_path: Path, size: int, linked_first: bool
) -> None:
    (tmp_path / "run").mkdir()
    path = make(tmp_path / "run" / "file", size)
    if linked_first:
        store.link_file(path)
    uri = store.store_dir(tmp_path / "run")
    if not linked_first:
        store.link_file(path)
    path.unlink()
    assert (store.load_dir(uri, tmp_path / "copy") / "file").read_bytes() == LARGE[:size]
    assert store.load_bytes(uri.partition("?")[0] + "/file") == LARGE[:size]


def test_links_are_merged_as_all_small_packs_are(store: Store, tmp_path: Path) -> None:
    store.repository.lookup.rule = MergeRule(fan_in=3)
    data = [random.Random(size).randbytes(size) for size in (10, 300_000, 2_000_000)]
    uris = []
    for number, content in enumerate(data):
        path = tmp_path / f"file{number}"
        path.write_bytes(content)
        uris.append(store.link_file(path))
    merged = [path for path in (store.path / "packs").iterdir() if tier_of(bytes.fromhex(path.stem))]
    assert len(merged) == 1
    for path in {*(store.path / "packs").iterdir()} - {*merged}:
        path.unlink()
    with Store.open(store.path) as again:
        assert again.rebuild_index() > 0
        assert [again.load_bytes(uri) for uri in uris] == data
        assert [again.describe(uri).adopted for uri in uris] == [(str(tmp_path / f"file{n}"),) for n in range(3)]
        assert verify(again).clean
        (tmp_path / "file1").unlink()
        assert [problem.kind for problem in verify(again).problems] == ["adopted"]
        again.forget(uris[1])
        assert verify(again).clean
