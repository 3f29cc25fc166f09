"""Several upstreams in order: the first that has good content serves; a bad one is named once."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import kacas
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.errors import RemoteUnavailableError
from kacas_remote.push import push
from kacas_remote.remote import new_remote
from tests.remote.counting import CountingBlobs
from tests.remote.faulty import FaultyBlobs
from tests.remote.filled import upstream_on


@pytest.fixture
def lab(tmp_path: Path) -> kacas.Store:
    return kacas.Store.open(tmp_path / "lab")


def test_a_remote_that_is_away_is_named_once_and_the_next_one_serves(tmp_path: Path, lab: kacas.Store) -> None:
    away, good = FaultyBlobs(MemoryBlobs()), MemoryBlobs()
    uris = [lab.store_text(f"text {number}") for number in range(3)]
    push(lab, new_remote("good", good), uris)
    away.fault("drop", times=None)
    behind = [upstream_on(away, tmp_path / "cache", "away"), upstream_on(good, tmp_path / "cache", "good")]
    with kacas.Store.open(tmp_path / "node", behind=behind) as node, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert [node.load_text(uri) for uri in uris] == ["text 0", "text 1", "text 2"]
        assert [str(one.message) for one in told if "remote away" in str(one.message)] == [str(told[0].message)]
        assert f"remote away ({away.name}) did not help, remote good" in str(told[0].message)


def test_if_one_is_away_and_the_others_have_nothing_that_is_no_not_found(tmp_path: Path, lab: kacas.Store) -> None:
    away = FaultyBlobs(MemoryBlobs())
    away.fault("drop", times=None)
    uri = lab.store_text("only in the lab")
    behind = [upstream_on(away, tmp_path / "cache", "away"), upstream_on(MemoryBlobs(), tmp_path / "cache", "empty")]
    with kacas.Store.open(tmp_path / "node", behind=behind) as node:
        with pytest.raises(RemoteUnavailableError):
            node.load_text(uri)
        away.heal()
        with pytest.raises(kacas.NotFoundError, match=r"nor in remote away .* nor in remote empty"):
            node.load_text(uri)


def test_a_store_is_asked_before_remotes(tmp_path: Path, lab: kacas.Store) -> None:
    blobs = CountingBlobs(MemoryBlobs())
    uri = lab.store_text("in both")
    push(lab, new_remote("lab", blobs), [uri])
    blobs.clear()
    behind = [upstream_on(blobs, tmp_path / "cache")]
    with kacas.Store.open(tmp_path / "node", upstream=lab.path, behind=behind) as node:
        assert node.load_text(uri) == "in both"
        assert blobs.count == 0


def test_what_a_store_and_a_remote_have_of_a_directory_is_put_together(tmp_path: Path, lab: kacas.Store) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(5):
        (tmp_path / "tree" / f"{number}.txt").write_text(f"text {number}")
    uri = lab.store_dir(tmp_path / "tree")
    blobs = MemoryBlobs()
    push(lab, new_remote("lab", blobs), [uri])
    with kacas.Store.open(tmp_path / "other") as other:
        other.store_text("text 3")
    behind = [upstream_on(blobs, tmp_path / "cache")]
    with kacas.Store.open(tmp_path / "node", upstream=tmp_path / "other", behind=behind) as node:
        node.load_dir(uri, tmp_path / "copy")
        assert sorted(path.read_text() for path in (tmp_path / "copy").iterdir()) == [f"text {n}" for n in range(5)]
