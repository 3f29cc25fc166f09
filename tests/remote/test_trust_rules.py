"""Trust: what part of remote content may be read before the whole was compared with its SHA-1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.model.uri import parse_uri
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.errors import DamagedRemoteError, UntrustedError
from kacas_remote.layout import PACKS, recipe_key
from kacas_remote.signing import new_private_key, public_key, sign, statement
from kacas_remote.trust import add_publisher, trust_file
from tests.remote.counting import CountingBlobs
from tests.remote.filled import put_content, upstream_on
from tests.upstreams import fetched_packs

Node = Callable[..., kacas.Store]
LARGE, SMALL = 72 << 20, 20 << 20


@pytest.fixture
def lab(tmp_path: Path) -> kacas.Store:
    return kacas.Store.open(tmp_path / "lab")


@pytest.fixture
def blobs() -> CountingBlobs:
    return CountingBlobs(MemoryBlobs())


@pytest.fixture
def node(tmp_path: Path, blobs: CountingBlobs) -> Node:
    """Opens a cold store that has the bucket as its remote."""

    def opened(name: str = "node", *, trusted: bool = False) -> kacas.Store:
        return kacas.Store.open(tmp_path / name, behind=[upstream_on(blobs, tmp_path / "cache", trusted=trusted)])

    return opened


def zeros(size: int) -> np.ndarray:
    values = np.zeros(size // 8, np.int64)
    values[:: 1 << 15] = np.arange(len(values[:: 1 << 15]))
    return values


def test_a_part_of_large_content_that_nobody_vouches_for_is_refused_with_the_ways_out(
    lab: kacas.Store, blobs: CountingBlobs, node: Node
) -> None:
    uri = lab.store_npy(zeros(LARGE))
    put_content(lab, uri, blobs)
    with node() as store:
        with pytest.raises(UntrustedError, match=r"signed by nobody.*kacas pull.*--trusted"):
            store.open_npy(uri)
        with pytest.raises(UntrustedError):
            store.load_bytes(uri, 0, 10)
        with pytest.raises(UntrustedError):
            store.open_file(uri)
        assert fetched_packs(store) == []


def test_a_part_of_small_content_that_nobody_vouches_for_is_read_from_the_whole(
    lab: kacas.Store, blobs: CountingBlobs, node: Node
) -> None:
    values = zeros(SMALL)
    uri = lab.store_npy(values)
    put_content(lab, uri, blobs)
    with node() as store:
        assert np.array_equal(store.open_npy(uri)[5:9], values[5:9])
        assert fetched_packs(store)
        blobs.clear()
        assert np.array_equal(store.load_npy(uri), values)
        assert blobs.count == 0


def test_with_its_root_a_uri_leads_to_a_part(lab: kacas.Store, blobs: CountingBlobs, node: Node) -> None:
    values = zeros(LARGE)
    uri = lab.store_npy(values)
    root = put_content(lab, uri, blobs).root
    blobs.clear()
    with node() as store:
        assert np.array_equal(store.open_npy(f"{uri}?root={root.hex()}")[5:9], values[5:9])
        assert blobs.moved < 4 << 20


def test_a_trusted_remote_is_believed(lab: kacas.Store, blobs: CountingBlobs, node: Node) -> None:
    values = zeros(LARGE)
    uri = lab.store_npy(values)
    put_content(lab, uri, blobs)
    with node(trusted=True) as store:
        assert np.array_equal(store.open_npy(uri)[5:9], values[5:9])


def test_a_trusted_publisher_is_believed_and_another_one_named(
    lab: kacas.Store, blobs: CountingBlobs, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    values, key = zeros(LARGE), new_private_key()
    uri = lab.store_npy(values)
    put_content(lab, uri, blobs, sign=lambda *fields: sign(key, statement(*fields)))
    with node() as store:
        with pytest.raises(UntrustedError, match=f"signed by ed25519:{public_key(key).hex()}, whom you do not trust"):
            store.open_npy(uri)
        add_publisher(trust_file(), "colleague", public_key(key))
        assert np.array_equal(store.open_npy(uri)[5:9], values[5:9])


def test_what_was_proved_by_a_whole_read_is_believed_from_then_on(
    lab: kacas.Store, blobs: CountingBlobs, node: Node
) -> None:
    values = zeros(LARGE)
    uri = lab.store_npy(values)
    put_content(lab, uri, blobs)
    with node("first") as store:
        assert np.array_equal(store.load_npy(uri), values)
    with node("second") as store:
        assert np.array_equal(store.open_npy(uri)[5:9], values[5:9])


def test_other_content_under_a_sha1_is_refused_and_never_a_part_of_it_given(
    lab: kacas.Store, blobs: CountingBlobs, node: Node
) -> None:
    uri, other = lab.store_npy(zeros(SMALL)), lab.store_npy(zeros(SMALL) + 1)
    put_content(lab, other, blobs, under=parse_uri(uri).sha1)
    with node() as store:
        for read in (store.load_npy, store.load_bytes, store.open_npy, lambda uri: store.load_bytes(uri, 0, 10)):
            with pytest.raises(kacas.DamagedError, match=r"has other content under the SHA-1 .* in a browser"):
                read(uri)
        assert not store.repository.lookup.entries(parse_uri(uri).sha1)


def test_a_recipe_of_another_sha1_is_refused_by_name(lab: kacas.Store, blobs: CountingBlobs, node: Node) -> None:
    uri, other = lab.store_npy(zeros(SMALL)), lab.store_npy(zeros(SMALL) + 1)
    put_content(lab, other, blobs)
    key = recipe_key(parse_uri(uri).sha1)
    blobs.put(key, blobs.get(recipe_key(parse_uri(other).sha1), 1 << 20))
    with node() as store, pytest.raises(DamagedRemoteError, match=f"{key} in the remote lab .*swapped"):
        store.load_npy(uri)


def test_where_one_remote_lies_the_next_one_serves_and_the_first_is_named(
    lab: kacas.Store, blobs: CountingBlobs, tmp_path: Path
) -> None:
    values, good = zeros(SMALL), MemoryBlobs()
    uri, other = lab.store_npy(values), lab.store_npy(zeros(SMALL) + 1)
    put_content(lab, other, blobs, under=parse_uri(uri).sha1)
    put_content(lab, uri, good)
    behind = [upstream_on(blobs, tmp_path / "cache", "liar"), upstream_on(good, tmp_path / "cache", "honest")]
    with (
        kacas.Store.open(tmp_path / "node", behind=behind) as store,
        pytest.warns(RuntimeWarning, match=r"liar .* did not help, .*honest"),
    ):
        assert np.array_equal(store.load_npy(uri), values)


@pytest.mark.parametrize("size", [1000, SMALL, LARGE])
def test_for_a_part_that_one_remote_lost_the_next_one_serves_if_it_may_be_believed(
    lab: kacas.Store, blobs: CountingBlobs, tmp_path: Path, size: int
) -> None:
    values, good = zeros(size), MemoryBlobs()
    uri = lab.store_npy(values)
    put_content(lab, uri, blobs)
    put_content(lab, uri, good)
    blobs.delete([info.key for info in blobs.list(PACKS)])
    behind = [
        upstream_on(blobs, tmp_path / "cache", "loser"),
        upstream_on(good, tmp_path / "cache", "stranger", trusted=False),
    ]
    with kacas.Store.open(tmp_path / "node", behind=behind) as store:
        if size < LARGE:
            assert np.array_equal(store.open_npy(uri)[5:9], values[5:9])
        else:
            with pytest.raises(DamagedRemoteError, match=r"packs/.* is not there"):
                store.open_npy(uri)[5:9]
