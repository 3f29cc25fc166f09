"""Claims: who keeps what, what is told about it, and two contents with one SHA-1."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kacas import CollisionError, NotFoundError, Store
from kacas.disk.pack_writer import PackWriter
from kacas.disk.volume import open_volume
from kacas.model.codec import Codec
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.digest import PayloadKind, chunk_digest
from kacas.model.entry import Entry
from kacas.model.pack_format import PayloadHeader
from kacas.model.uri import parse_uri
from kacas.settings import Settings

NOWHERE = "sha1://" + 40 * "0"


def open_as(store: Store, owner: str) -> Store:
    """The same store, used by somebody else."""
    return Store.open(store.path, create=False, settings=replace(Settings.from_environment(), owner=owner))


def hidden(uri: str) -> str:
    """The URI without its label."""
    return f"sha1://{parse_uri(uri).sha1.hex()}"


def plant(store: Store, raw: bytes, sha1: bytes, label: bytes = b"") -> None:
    """A pack that claims `raw` under `sha1`, as no honest writer makes it."""
    writer = PackWriter(open_volume(store.path, create=False))
    digest = chunk_digest(raw)
    writer.append([(PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(raw), len(raw), digest), raw)])
    writer.finish([Entry(os.urandom(16), sha1, digest, len(raw), time.time_ns(), 0, b"forger", label).encode()])


# --- exists, find, describe -------------------------------------------------------------------


def test_what_is_not_here_does_not_exist_and_is_not_found(store: Store) -> None:
    assert store.exists(NOWHERE) is False
    assert store.find(NOWHERE) is None
    uri = store.store_text("content", label="a.txt")
    assert store.exists(uri) is True
    assert store.find(uri) == store.describe(uri)
    assert store.exists(hidden(uri))
    assert store.exists(hidden(uri) + "?label=another-name")


def test_a_uri_with_a_root_means_that_layout_alone(store: Store) -> None:
    uri = store.store_text("content")
    root = store.describe(uri).root
    assert store.load_text(f"{uri}?root={root}") == "content"
    assert not store.exists(f"{uri}?root={64 * '0'}")
    assert store.find(f"{uri}?root={64 * '0'}") is None
    with pytest.raises(NotFoundError, match=64 * "0"):
        store.load_text(f"{uri}?root={64 * '0'}")


def test_a_description_says_what_the_content_is_and_takes(store: Store) -> None:
    text = "".join(f"{number} example texts\n" for number in range(60_000))
    started = time.time()
    uri = store.store_text(text, label="long.txt")
    description = store.describe(uri)
    assert description.uri == uri
    assert description.sha1 == hashlib.sha1(text.encode()).hexdigest()
    assert len(description.root) == 64
    assert (description.kind, description.size) == ("text", len(text))
    assert 2 <= description.chunks <= len(text) / CHUNK_TARGET + 1
    assert 0 < description.stored_size < 0.3 * len(text)
    assert description.ratio == description.size / description.stored_size
    assert (description.shape, description.dtype) == (None, None)
    (claim,) = description.claims
    assert (claim.owner, claim.label, claim.kind) == (Settings.from_environment().owner, "long.txt", "text")
    assert started - 1 <= claim.time_s <= time.time() + 1
    assert len(bytes.fromhex(claim.entry_id)) == 16


def test_repeated_chunks_count_once(store: Store) -> None:
    description = store.describe(store.store_bytes(bytes(40 * CHUNK_TARGET)))
    assert (description.size, description.chunks) == (40 * CHUNK_TARGET, 1)


def test_empty_content_is_content(store: Store) -> None:
    description = store.describe(store.store_bytes(b""))
    assert (description.size, description.ratio) == (0, 1.0)


def test_an_array_is_described_as_one_however_it_was_stored(store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4), ">f4"))
    for uri in (store.store_npy(np.zeros((3, 5), ">f4")), store.store_file(tmp_path / "a.npy")):
        description = store.describe(uri)
        assert (description.shape or ())[0] == 3
        assert description.dtype == ">f4"


# --- owners -----------------------------------------------------------------------------------


def test_storing_again_claims_once_and_another_label_claims_again(store: Store) -> None:
    for _ in range(3):
        uri = store.store_text("content", label="a.txt")
    assert store.stats().entries == 1
    store.store_text("content", label="b.txt")
    store.store_text("content")
    assert sorted(claim.label for claim in store.describe(uri).claims) == ["", "a.txt", "b.txt"]
    assert store.stats().contents == 1
    assert store.stats().chunks == 1


def test_forgetting_ends_all_my_claims_and_the_content_stays_readable(store: Store) -> None:
    uri = store.store_text("content", label="a.txt")
    store.store_text("content", label="b.txt")
    forgotten = store.forget(uri)
    assert (forgotten.uri, forgotten.dropped, forgotten.kept_by) == (uri, 2, ())
    assert store.describe(uri).claims == ()
    assert store.load_text(uri) == "content"
    assert store.forget(uri).dropped == 0
    with pytest.raises(NotFoundError, match="nothing to forget"):
        store.forget(NOWHERE)


def test_forgetting_names_who_else_keeps_the_content_and_leaves_their_claims(store: Store) -> None:
    with open_as(store, "zoé") as zoe, open_as(store, "adam") as adam:
        uri = store.store_text("shared", label="mine.txt")
        zoe.store_text("shared", label="hers.txt")
        adam.store_text("shared", label="his.txt")
        forgotten = store.forget(uri)
        assert (forgotten.dropped, forgotten.kept_by) == (1, ("adam", "zoé"))
        assert {(claim.owner, claim.label) for claim in store.describe(uri).claims} == {
            ("adam", "his.txt"),
            ("zoé", "hers.txt"),
        }
        assert adam.forget(uri).kept_by == ("zoé",)
        assert zoe.forget(uri).kept_by == ()
        assert store.describe(uri).claims == ()


def test_storing_again_what_was_forgotten_claims_it_anew(store: Store) -> None:
    uri = store.store_text("content", label="a.txt")
    (first,) = store.describe(uri).claims
    store.forget(uri)
    assert store.store_text("content", label="a.txt") == uri
    (second,) = store.describe(uri).claims
    assert second.entry_id != first.entry_id
    assert store.forget(uri).dropped == 1
    assert store.describe(uri).claims == ()


def test_a_store_that_did_not_know_of_a_forget_claims_anew(store: Store, tmp_path: Path) -> None:
    """The other process has looked before the first one forgets: its put must not count on that."""
    uri = store.store_text("content")
    elsewhere = replace(Settings.from_environment(), cache_directory=tmp_path / "another host")
    with Store.open(store.path, create=False, settings=elsewhere) as other:
        assert other.exists(uri)
        store.forget(uri)
        other.store_text("content")
    store.rebuild_index()
    assert len(store.describe(uri).claims) == 1


def test_the_history_is_mine_newest_first_and_says_what_was_forgotten(store: Store) -> None:
    with open_as(store, "somebody else") as other:
        other.store_text("not mine")
    first = store.store_json({"n": 1}, label="first.json")
    second = store.store_npy(np.zeros(5), label="second.npy")
    third = store.store_bytes(b"third")
    store.forget(second)
    items = list(store.history())
    assert [(item.uri, item.kind, item.label, item.forgotten) for item in items] == [
        (third, "bytes", "", False),
        (second, "npy", "second.npy", True),
        (first, "json", "first.json", False),
    ]
    assert [item.size for item in items] == [5, 168, 7]
    assert items[0].time_s >= items[1].time_s >= items[2].time_s
    store.store_npy(np.zeros(5), label="second.npy")
    assert [item.forgotten for item in store.history()] == [False, False, True, False]


def test_the_history_survives_the_loss_of_the_index(store: Store) -> None:
    uris = [store.store_text(f"{i}", label=f"{i}.txt") for i in range(5)]
    store.forget(uris[2])
    before = list(store.history())
    assert store.rebuild_index() == 5
    assert list(store.history()) == before
    assert [item.uri for item in before] == uris[::-1]


def test_a_long_history_is_complete(tmp_path: Path) -> None:
    with Store.open(tmp_path / "many", durability="relaxed") as store:
        with store.batch():
            uris = [store.store_json(i) for i in range(2500)]
        assert [item.uri for item in store.history()] == uris[::-1]


def test_the_statistics_add_up(store: Store) -> None:
    stats = store.stats()
    assert (stats.packs, stats.chunks, stats.entries, stats.contents, stats.ratio) == (0, 0, 0, 0, 1.0)
    store.store_bytes(b"a" * 100_000)
    store.store_text("b")
    store.forget(store.store_text("b"))
    stats = store.stats()
    assert (stats.packs, stats.chunks, stats.entries, stats.contents) == (3, 2, 3, 2)
    assert stats.raw_size == 100_001
    assert stats.pack_size == sum(path.stat().st_size for path in (store.path / "packs").iterdir())
    assert stats.payload_size < 1000
    assert (stats.path, stats.store_id, stats.durability) == (str(store.path), store.store_id, "full")


# --- one SHA-1, two contents ------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, CHUNK_TARGET * 3])
def test_other_content_with_a_known_sha1_is_a_collision_and_not_stored(store: Store, size: int) -> None:
    mine, theirs = b"m" * size, b"t" * size
    sha1 = hashlib.sha1(mine)
    plant(store, theirs, sha1.digest())
    store.rebuild_index()
    with pytest.raises(CollisionError, match="other content with the same SHA-1") as caught:
        store.store_bytes(mine)
    assert caught.value.sha1 == sha1.hexdigest()
    assert [claim.owner for claim in store.describe("sha1://" + sha1.hexdigest()).claims] == ["forger"]
    assert len(list((store.path / "packs").iterdir())) == 1, "nothing of it was published"


def test_a_collision_of_another_size_is_one_too(store: Store) -> None:
    plant(store, b"other", hashlib.sha1(b"mine").digest())
    store.rebuild_index()
    with pytest.raises(CollisionError):
        store.store_bytes(b"mine")


def test_a_collision_that_another_process_stored_a_moment_ago_is_noticed(store: Store) -> None:
    store.store_text("warm")
    plant(store, b"other", hashlib.sha1(b"mine").digest())
    try:
        uri = store.store_bytes(b"mine")
    except CollisionError:
        return
    # A miss in the index is taken at its word: then both are kept, and nobody gets the other's bytes unwarned.
    assert store.load_bytes(f"{uri}?root={chunk_digest(b'mine').hex()}") == b"mine"


def test_the_same_content_cut_in_another_way_is_another_layout_and_no_collision(store: Store) -> None:
    array = np.arange(900_000, dtype="<i4").reshape(-1, 90)
    uri = store.store_npy(array)
    content = store.load_bytes(uri)
    again = store.store_bytes(content)
    assert parse_uri(again).sha1 == parse_uri(uri).sha1
    roots = {store.describe(again).root}
    assert {claim.kind for claim in store.describe(uri).claims} == {"npy", "bytes"}
    store.store_npy(array)
    roots.add(store.describe(uri).root)
    for root in roots:
        assert store.load_bytes(f"{uri}?root={root}") == content


# --- packs that went --------------------------------------------------------------------------


def test_content_whose_pack_is_gone_is_not_found_and_can_be_stored_again(store: Store) -> None:
    """Whatever was stored in between."""
    gone = store.store_text("the first")
    (pack,) = (store.path / "packs").iterdir()
    pack.unlink()
    assert not store.exists(gone)
    store.store_text("the second")
    assert not store.exists(gone)
    with pytest.raises(NotFoundError):
        store.load_text(gone)
    assert store.store_text("the first") == gone
    assert store.load_text(gone) == "the first"
    store.rebuild_index()
    assert store.load_text(gone) == "the first"
    assert len(store.describe(gone).claims) == 1


def test_storing_again_after_the_pack_of_a_shared_chunk_went_succeeds(store: Store) -> None:
    shared = os.urandom(CHUNK_TARGET * 8)
    store.store_bytes(shared + b"one")
    (pack,) = (store.path / "packs").iterdir()
    pack.unlink()
    try:
        uri = store.store_bytes(shared + b"two")
    except OSError:
        uri = store.store_bytes(shared + b"two")
    assert store.load_bytes(uri) == shared + b"two"
    store.rebuild_index()
    assert store.load_bytes(uri) == shared + b"two"
