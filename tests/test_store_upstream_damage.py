"""Damage and lies: a store and its upstream heal each other, and what is not what its SHA-1 says is not kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.disk.batch import Batch
from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind
from kacas.model.entry import Entry, Kind
from kacas.model.pack_format import PAYLOAD_HEADER_SIZE, PayloadHeader
from kacas.model.source import BufferSource
from kacas.model.uri import Uri, parse_any_uri, parse_uri
from kacas.upkeep.verify import verify
from tests.upstreams import fetched_packs, flip_payload, packs

ROWS = np.arange(900_000, dtype=np.int32).reshape(3000, 300)


def claim_as(store: kacas.Store, entry: Entry, sha1: bytes) -> None:
    """Say that the entry's content has another SHA-1."""
    batch = Batch(store.repository.volume, store.repository.lookup)
    batch.add_entry(entry._replace(entry_id=os.urandom(16), sha1=sha1))
    batch.finish()


def test_content_that_is_damaged_here_is_read_from_the_upstream(lab: kacas.Store, node: kacas.Store) -> None:
    uri = lab.store_npy(ROWS, codec="zstd")
    node.load_npy(uri)
    flip_payload(node, 2)
    with kacas.Store.open(node.path) as alone, pytest.raises(kacas.DamagedPackError):
        alone.load_npy(uri)
    assert np.array_equal(node.load_npy(uri), ROWS)


def load_file(store: kacas.Store, uri: str) -> object:
    return store.load_file(uri).read_bytes()


@pytest.mark.parametrize("load", [kacas.Store.load_text, kacas.Store.load_bytes, load_file])
def test_small_content_that_is_damaged_here_is_fetched_again_when_it_is_loaded(
    lab: kacas.Store, node: kacas.Store, load: Callable[[kacas.Store, str], object]
) -> None:
    uri = lab.store_text("text")
    with kacas.Store.open(node.path, upstream=lab.path) as first:
        assert first.load_text(uri) == "text"
    flip_payload(node, 0)
    with kacas.Store.open(node.path) as alone, pytest.raises(kacas.DamagedPackError):
        load(alone, uri)
    good = load(node, uri)
    assert good in ("text", b"text")
    assert load(node, uri) == good
    assert node.repository.tiers.fetches == 1
    with kacas.Store.open(node.path) as alone:
        assert load(alone, uri) == good
    assert os.listdir(node.path / "leases") == []


def test_members_of_a_directory_that_are_damaged_here_are_fetched_again_when_it_is_restored(
    lab: kacas.Store, node: kacas.Store, tmp_path: Path
) -> None:
    (tmp_path / "place").mkdir()
    for name in "abc":
        (tmp_path / "place" / name).write_text(name * 1000)
    uri = lab.store_dir(tmp_path / "place")
    node.load_dir(uri, tmp_path / "first")
    (pack,) = packs(node)
    table = node.repository.lookup.tables.read(bytes.fromhex(pack.stem))
    assert table is not None
    for number in range(len(table.records)):
        flip_payload(node, number)
    with kacas.Store.open(node.path, upstream=lab.path) as again:
        again.load_dir(uri, tmp_path / "second")
        assert (tmp_path / "second" / "b").read_text() == "b" * 1000
    for name in "abc":
        member = "sha1://" + hashlib.sha1((tmp_path / "place" / name).read_bytes()).hexdigest()
        with kacas.Store.open(node.path) as alone:
            assert alone.load_text(member) == name * 1000


@pytest.mark.parametrize("chunks", [None, (100, 100)])
def test_of_an_array_that_is_damaged_here_what_is_damaged_is_fetched_again(
    lab: kacas.Store, node: kacas.Store, chunks: tuple[int, int] | None
) -> None:
    uri = lab.store_npy(ROWS, chunks=chunks, codec="zstd")
    node.load_npy(uri)
    flip_payload(node, 2)
    (whole,) = packs(node)
    assert node.open_npy(uri).shape == ROWS.shape
    assert np.array_equal(node.open_npy(uri)[:], ROWS)
    assert packs(node) == [whole], "parts are read through"
    assert np.array_equal(node.load_npy(uri), ROWS)
    assert node.repository.tiers.fetches == 2
    (healed,) = set(packs(node)) - {whole}
    assert healed.stat().st_size < whole.stat().st_size / 2
    with kacas.Store.open(node.path) as alone:
        assert np.array_equal(alone.load_npy(uri), ROWS)


def test_content_that_is_damaged_here_and_gone_from_the_upstream_meanwhile_is_not_had(
    lab: kacas.Store, node: kacas.Store
) -> None:
    uri = lab.store_text("text")
    node.load_text(uri)
    flip_payload(node, 0)
    flip_payload(lab, 0)
    with pytest.raises(kacas.DamagedPackError):
        node.load_text(uri)
    assert node.repository.tiers.fetches == 1


def test_damage_in_the_upstream_is_named_and_nothing_is_kept(lab: kacas.Store, node: kacas.Store) -> None:
    uri = lab.store_npy(ROWS, codec="zstd")
    flip_payload(lab, 2)
    with pytest.raises(kacas.DamagedPackError) as caught:
        node.load_npy(uri)
    assert caught.value.pack == packs(lab)[0].stem
    assert caught.value.digest
    assert packs(node) == []
    assert os.listdir(node.path / "leases") == []


def flip_checks(store: kacas.Store) -> None:
    """Damage the checksum of every payload in every pack: the bytes still decode to what they should."""
    for path in packs(store):
        table = store.repository.lookup.tables.read(bytes.fromhex(path.stem))
        assert table is not None
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        for offset in table.records["offset"].tolist():
            data[offset + PAYLOAD_HEADER_SIZE - 1] ^= 1
        path.write_bytes(data)


def test_a_wrong_checksum_is_not_taken_over_with_the_payload(
    lab: kacas.Store, node: kacas.Store, tmp_path: Path
) -> None:
    (tmp_path / "place").mkdir()
    for name in "abc":
        (tmp_path / "place" / name).write_text(name * 1000)
    uris = [lab.store_npy(ROWS, codec="zstd"), lab.store_text("text" * 1000), lab.store_dir(tmp_path / "place")]
    flip_checks(lab)
    assert np.array_equal(node.load_npy(uris[0]), ROWS)
    assert node.load_text(uris[1]) == "text" * 1000
    node.load_dir(uris[2], tmp_path / "restored")
    assert (tmp_path / "restored" / "b").read_text() == "b" * 1000
    assert fetched_packs(node)
    assert verify(node).clean


def test_of_damaged_content_the_next_good_copy_in_the_upstream_is_taken(lab: kacas.Store, node: kacas.Store) -> None:
    uri = lab.store_npy(ROWS, codec="zstd")
    flip_payload(lab, 2)
    assert lab.store_npy(ROWS, chunks=(100, 100)) == uri  # another layout, whose chunks are others
    assert np.array_equal(node.load_npy(uri), ROWS)
    assert len(fetched_packs(node)) == 1
    assert verify(node).clean


def test_an_upstream_that_lies_about_the_sha1_is_refused(lab: kacas.Store, node: kacas.Store) -> None:
    honest, other = lab.store_npy(ROWS, codec="zstd"), "sha1://" + "12" * 20
    claim_as(lab, lab.repository.resolve(parse_uri(honest))[0], bytes.fromhex("12" * 20))
    with pytest.raises(
        kacas.WrongIdentityError, match=f"the upstream {lab.path} has other content under the SHA-1 1212"
    ):
        node.load_npy(other)
    assert packs(node) == []


@pytest.mark.parametrize("size", [7, 700_000])
def test_a_directory_with_a_member_about_whose_sha1_the_upstream_lies_is_refused(
    lab: kacas.Store, node: kacas.Store, tmp_path: Path, size: int
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "member").write_bytes(b"honest!" * (size // 7))
    with kacas.Store.open(tmp_path / "honest") as honest:
        uri = honest.store_dir(place)
        document = honest.repository.read(Uri(parse_any_uri(uri).sha1))
    lab.repository.put(BufferSource(document), Kind.DIRECTORY, "place")
    lie = lab.repository.resolve(parse_uri(lab.store_bytes(b"LYING!!" * (size // 7))))[0]
    sha1 = hashlib.sha1((place / "member").read_bytes()).digest()
    claim_as(lab, lie, sha1)
    with pytest.raises(kacas.WrongIdentityError, match=f"other content under the SHA-1 {sha1.hex()}"):
        node.load_dir(uri, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert packs(node) == []


def test_a_member_whose_bytes_are_right_and_whose_root_is_not_is_refused(
    lab: kacas.Store, node: kacas.Store, tmp_path: Path
) -> None:
    place, member, root = tmp_path / "place", b"honest!", bytes(range(32))
    place.mkdir()
    (place / "member").write_bytes(member)
    with kacas.Store.open(tmp_path / "honest") as honest:
        uri = honest.store_dir(place)
        document = honest.repository.read(Uri(parse_any_uri(uri).sha1))
    lab.repository.put(BufferSource(document), Kind.DIRECTORY, "place")
    entry = lab.repository.resolve(parse_uri(lab.store_bytes(b"another")))[0]
    batch = Batch(lab.repository.volume, lab.repository.lookup)
    batch.append([(PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(member), len(member), root), member)])
    batch.add_entry(entry._replace(entry_id=os.urandom(16), sha1=hashlib.sha1(member).digest(), root=root))
    batch.finish()
    with pytest.raises(kacas.DamagedError, match=root.hex()[:8]):
        node.load_dir(uri, tmp_path / "out")
    assert not (tmp_path / "out" / "member").exists()
    assert node.repository.lookup.locate([root]) == {}


def test_tiles_that_are_damaged_here_are_read_from_the_upstream(lab: kacas.Store, node: kacas.Store) -> None:
    uri = lab.store_npy(ROWS, chunks=(100, 100), codec="zstd")
    node.load_npy(uri)
    flip_payload(node, 5)
    lazy = node.open_npy(uri)
    assert np.array_equal(lazy[::3, 5:700], ROWS[::3, 5:700])
    with kacas.Store.open(node.path) as alone, pytest.raises(kacas.DamagedPackError):
        alone.open_npy(uri)[:]
    out = np.zeros((ROWS.shape[0], 2 * ROWS.shape[1]), ROWS.dtype)[:, ::2]
    assert np.array_equal(node.load_npy(uri, out=out), ROWS)
