"""A store with an upstream: parts are read through, whole content is fetched, proved and kept apart."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.model.entry import Origin
from kacas.model.pack_format import Purpose
from kacas.upkeep.verify import verify
from tests.upstreams import fetched_entries, fetched_packs, packs, purposes

ROWS = np.arange(900_000, dtype=np.int32).reshape(3000, 300)


def test_parts_are_read_through_and_nothing_is_kept(lab: kacas.Store, node: kacas.Store) -> None:
    uri = lab.store_npy(ROWS)
    assert np.array_equal(node.open_npy(uri)[1000:1002], ROWS[1000:1002])
    assert node.load_bytes(uri, -4) == ROWS[-1, -1].tobytes()
    with node.open_file(uri) as file:
        file.seek(128)
        assert file.read(4) == ROWS[0, 0].tobytes()
    assert packs(node) == []


LOADS: dict[str, tuple[Callable[[kacas.Store], str], Callable[[kacas.Store, str], bool]]] = {
    "bytes": (lambda s: s.store_bytes(b"\1" * 600_000), lambda s, u: s.load_bytes(u) == b"\1" * 600_000),
    "empty": (lambda s: s.store_bytes(b""), lambda s, u: s.load_bytes(u) == b""),
    "text": (lambda s: s.store_text("text"), lambda s, u: s.load_text(u) == "text"),
    "json": (lambda s: s.store_json([1]), lambda s, u: s.load_json(u) == [1]),
    "pkl": (lambda s: s.store_pkl({"a": 1}), lambda s, u: s.load_pkl(u) == {"a": 1}),
    "npy": (lambda s: s.store_npy(ROWS), lambda s, u: np.array_equal(s.load_npy(u), ROWS)),
    "mapped": (lambda s: s.store_npy(ROWS), lambda s, u: np.array_equal(s.load_npy(u, mmap=True), ROWS)),
    "file": (lambda s: s.store_npy(ROWS), lambda s, u: np.array_equal(np.load(s.load_file(u)), ROWS)),
    "raw": (lambda s: s.store_npy(ROWS, codec="raw"), lambda s, u: np.array_equal(s.load_npy(u), ROWS)),
    "delta": (
        lambda s: s.store_npy(ROWS, codec="delta-bytes-lz4"),
        lambda s, u: np.array_equal(s.load_npy(u), ROWS),
    ),
    "tiles": (lambda s: s.store_npy(ROWS, chunks=(100, 100)), lambda s, u: np.array_equal(s.load_npy(u), ROWS)),
    "repeated": (
        lambda s: s.store_npy(np.zeros(40_000_000 // 8)),
        lambda s, u: not s.load_npy(u).any(),
    ),
}


@pytest.mark.parametrize("kind", LOADS)
def test_whole_content_is_fetched_and_then_here_for_good(lab: kacas.Store, node: kacas.Store, kind: str) -> None:
    store, is_loaded = LOADS[kind]
    uri = store(lab)
    assert is_loaded(node, uri)
    assert len(fetched_packs(node)) == 1
    shutil.rmtree(lab.path)
    with kacas.Store.open(node.path) as alone:
        assert is_loaded(alone, uri)
        assert verify(alone).clean
    assert is_loaded(node, uri)
    assert len(packs(node)) == 1


def test_payloads_are_those_of_the_upstream_to_the_byte(lab: kacas.Store, node: kacas.Store) -> None:
    uri = lab.store_npy(ROWS, codec="delta-bytes-zstd")
    node.load_npy(uri)
    assert node.describe(uri).codecs == lab.describe(uri).codecs
    assert node.describe(uri).root == lab.describe(uri).root
    assert node.describe(uri).stored_size == lab.describe(uri).stored_size


def test_kind_and_label_are_kept_and_nobody_claims_what_was_fetched(lab: kacas.Store, node: kacas.Store) -> None:
    uri = lab.store_npy(ROWS, label="rows.npy")
    node.load_npy(uri.partition("?")[0])
    found = node.describe(uri.partition("?")[0])
    assert (found.kind, found.claims, found.member, found.fetched) == ("npy", (), False, True)
    assert found.uri.endswith("?label=rows.npy")
    assert found.store == str(node.path)
    assert list(node.history()) == []
    (entry,) = fetched_entries(node)
    assert entry.origin == Origin.FETCHED


def test_what_is_stored_after_it_was_fetched_is_claimed(lab: kacas.Store, node: kacas.Store) -> None:
    uri = lab.store_npy(ROWS, label="rows", codec="zstd")
    node.load_npy(uri)
    assert node.store_npy(ROWS, label="rows", codec="zstd") == uri
    assert [claim.label for claim in node.describe(uri).claims] == ["rows"]
    assert [item.uri for item in node.history()] == [uri]
    assert purposes(node) == [Purpose.STORED, Purpose.FETCHED]  # the second pack has the claim alone


def test_small_packs_of_what_was_fetched_are_merged_apart_from_stored_ones(lab: kacas.Store, node: kacas.Store) -> None:
    texts = [f"text {number}" for number in range(32)]
    uris = [lab.store_text(text) for text in texts[:20]]
    for uri in uris:
        node.load_text(uri)
    uris += [node.store_text(text) for text in texts[20:]]
    assert purposes(node) == [Purpose.STORED] * (12 + 1) + [Purpose.FETCHED] * (20 + 1)
    assert [node.load_text(uri) for uri in uris] == texts
    assert node.stats().contents == len(fetched_entries(node)) + 12 == 32
    assert verify(node).clean


def test_a_stored_directory_claims_its_members_though_they_were_fetched(
    lab: kacas.Store, node: kacas.Store, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "a").write_text("member")
    uri = lab.store_dir(place)
    node.load_dir(uri, tmp_path / "out")
    member = node.list_dir(uri)[0].uri
    assert member is not None
    assert not node.describe(member).member
    node.store_dir(place)
    assert node.describe(member).member


def test_only_what_is_absent_is_copied(lab: kacas.Store, node: kacas.Store) -> None:
    node.store_npy(ROWS[:2000], codec="zstd")
    before = sum(os.stat(pack).st_size for pack in packs(node))
    uri = lab.store_npy(ROWS, codec="zstd")
    assert np.array_equal(node.load_npy(uri), ROWS)
    assert sum(os.stat(pack).st_size for pack in packs(node)) < 1.7 * before


def test_questions_are_answered_for_both(lab: kacas.Store, node: kacas.Store, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "a").write_text("a")
    one = lab.store_dir(place, label="x")
    (place / "b").write_text("b")
    here = node.store_dir(place)
    uri = lab.store_text("there", label="there")
    assert node.exists(uri)
    assert not node.exists("sha1://" + "0" * 40)
    assert node.find("sha1://" + "0" * 40) is None
    assert node.describe(uri).store == str(lab.path)
    assert len(node.describe(uri).claims) == 1
    assert [item.name for item in node.list_dir(one)] == ["a"]
    assert [(found.path, found.change) for found in node.diff(one, here)] == [("b", "added")]
    assert node.size(uri) == 5
    assert [item.uri for item in node.history()] == [here]
    assert fetched_packs(node) == []


def test_what_no_tier_has_is_not_found_and_both_are_named(lab: kacas.Store, node: kacas.Store) -> None:
    for load in (node.load_text, node.load_file, node.open_npy, node.describe):
        with pytest.raises(kacas.NotFoundError, match=f"neither in the store at {node.path} nor in {lab.path}"):
            load("sha1://" + "0" * 40)
    assert not (node.path / "leases").exists()


def test_a_directory_is_fetched_under_one_lease_into_one_pack(
    lab: kacas.Store, node: kacas.Store, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    (place / "deep" / "deeper").mkdir(parents=True)
    for number in range(700):
        (place / f"{number}.txt").write_text(str(number) * number)
    (place / "deep" / "large.bin").write_bytes(os.urandom(900_000))
    np.save(place / "deep" / "deeper" / "rows.npy", ROWS)
    uri = lab.store_dir(place, label="place")
    assert node.load_dir(uri, tmp_path / "out") == tmp_path / "out"
    assert len(fetched_packs(node)) == len(packs(node)) == 1
    assert node.repository.tiers.fetches == 1
    shutil.rmtree(lab.path)
    node.load_dir(uri, tmp_path / "again")
    for path in place.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(place)).read_bytes() == path.read_bytes()
    assert node.describe(uri).fetched
    assert verify(node).clean


def test_a_directory_with_a_member_that_no_tier_has_is_restored_but_for_it(
    lab: kacas.Store, node: kacas.Store, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "good").write_text("good")
    (place / "linked").write_bytes(b"linked" * 100_000)
    uri = lab.link_dir(place)
    (place / "linked").unlink()
    with pytest.raises(kacas.DamagedContentError, match="linked: "):
        node.load_dir(uri, tmp_path / "out")
    assert (tmp_path / "out" / "good").read_text() == "good"


def test_a_linked_file_of_the_upstream_is_fetched_with_its_bytes(
    lab: kacas.Store, node: kacas.Store, tmp_path: Path
) -> None:
    file = tmp_path / "linked.bin"
    file.write_bytes(os.urandom(700_000))
    uri = lab.link_file(file)
    assert node.load_bytes(uri) == file.read_bytes()
    kept = file.read_bytes()
    file.unlink()
    assert node.load_bytes(uri) == kept
    assert verify(node).clean


def test_a_third_store_behind_the_second_works_and_each_keeps_what_passes(tmp_path: Path, lab: kacas.Store) -> None:
    uri = lab.store_npy(ROWS)
    place = tmp_path / "place"
    place.mkdir()
    (place / "a").write_text("a")
    directory = lab.store_dir(place)
    with (
        kacas.Store.open(tmp_path / "middle", upstream=lab) as middle,
        kacas.Store.open(tmp_path / "node", upstream=middle) as node,
    ):
        assert np.array_equal(node.open_npy(uri)[5], ROWS[5])
        assert packs(middle) == packs(node) == []
        assert node.describe(uri).store == str(lab.path)
        assert np.array_equal(node.load_npy(uri), ROWS)
        assert len(fetched_packs(middle)) == len(fetched_packs(node)) == 1
        node.load_dir(directory, tmp_path / "out")
        assert len(fetched_packs(middle)) == len(fetched_packs(node)) == 2
        with pytest.raises(kacas.NotFoundError):
            node.load_text("sha1://" + "0" * 40)


def test_a_store_cannot_be_its_own_upstream(tmp_path: Path, lab: kacas.Store) -> None:
    (tmp_path / "link").symlink_to(lab.path)
    with pytest.raises(kacas.InvalidSettingError, match="its own upstream"):
        kacas.Store.open(lab.path, upstream=lab.path)
    with (
        kacas.Store.open(lab.path, upstream=tmp_path / "link") as linked,
        pytest.raises(kacas.InvalidSettingError, match="its own upstream"),
    ):
        linked.exists("sha1://" + "0" * 40)
    with (
        kacas.Store.open(tmp_path / "middle", upstream=lab) as middle,
        pytest.raises(kacas.InvalidSettingError, match="its own upstream"),
    ):
        kacas.Store.open(lab.path, upstream=middle)


def test_a_store_with_an_upstream_that_was_closed_refuses_every_call(tmp_path: Path, lab: kacas.Store) -> None:
    node = kacas.Store.open(tmp_path / "node", upstream=lab.path, store_in="upstream")
    uri = node.store_text("text")
    node.close()
    for call in (
        lambda: node.store_text("more"), lambda: list(node.history()), lambda: node.forget(uri), node.batch,
        lambda: node.load_text(uri),
    ):  # fmt: skip
        with pytest.raises(kacas.StoreClosedError):
            call()


def test_an_upstream_that_is_not_there_is_named_and_what_is_here_is_served(tmp_path: Path) -> None:
    with kacas.Store.open(tmp_path / "node", upstream=tmp_path / "nfs" / "lab") as node:
        uri = node.store_text("here")
        assert node.load_text(uri) == "here"
        for ask in (node.load_text, node.exists, node.find, node.open_npy):
            with pytest.raises(kacas.StoreNotFoundError, match=f"no store at {tmp_path}/nfs/lab. Mount"):
                ask("sha1://" + "0" * 40)
        with kacas.Store.open(tmp_path / "nfs" / "lab") as lab:
            later = lab.store_text("later")
        assert node.load_text(later) == "later"


def test_a_put_goes_to_the_tier_that_is_named(tmp_path: Path, lab: kacas.Store) -> None:
    with kacas.Store.open(tmp_path / "node", upstream=lab.path, store_in="upstream") as node:
        with node.batch():
            uri = node.store_npy(ROWS, label="rows")
            text = node.store_text("text")
        assert packs(node) == []
        with kacas.Store.open(lab.path) as other:
            assert np.array_equal(other.load_npy(uri), ROWS)
        assert [item.uri for item in node.history()] == [text, uri]
        assert np.array_equal(node.load_npy(uri), ROWS)
        assert len(fetched_packs(node)) == 1
        assert node.forget(text).dropped == 1
    with kacas.Store.open(tmp_path / "node", upstream=lab.path) as node:
        here = node.store_text("here")
        assert not lab.exists(here)


def test_where_puts_go_must_be_a_tier(tmp_path: Path, lab: kacas.Store) -> None:
    with pytest.raises(kacas.InvalidSettingError, match="no upstream"):
        kacas.Store.open(tmp_path / "node", store_in="upstream")
    with pytest.raises(kacas.InvalidSettingError, match="'here' or 'upstream'"):
        kacas.Store.open(tmp_path / "node", upstream=lab.path, store_in="there")


def test_a_pickled_store_has_its_upstream(lab: kacas.Store, node: kacas.Store, tmp_path: Path) -> None:
    uri = lab.store_text("there")
    with pickle.loads(pickle.dumps(node)) as again:
        assert again.load_text(uri) == "there"
    with kacas.Store.open(tmp_path / "third", upstream=node) as third, pickle.loads(pickle.dumps(third)) as again:
        assert again.load_text(uri) == "there"


def test_the_default_store_has_the_upstream_of_the_settings(lab: kacas.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = lab.store_text("there")
    monkeypatch.setenv("KACAS_UPSTREAM", str(lab.path))
    assert kacas.load_text(uri) == "there"
    monkeypatch.setenv("KACAS_STORE_IN", "upstream")
    assert lab.exists(kacas.store_text("shared"))
    monkeypatch.delenv("KACAS_UPSTREAM")
    with pytest.raises(kacas.InvalidSettingError, match="set KACAS_UPSTREAM"):
        kacas.store_text("nowhere")


def test_mutables_and_feeds_are_those_of_the_last_tier(tmp_path: Path) -> None:
    with kacas.Store.open(tmp_path / "far") as far, kacas.Store.open(tmp_path / "middle", upstream=far) as middle:
        with kacas.Store.open(tmp_path / "near", upstream=middle) as near:
            near.set_mutable("@lab/best", "first")
            feed = near.create_feed()
            near.load_feed(feed).append_message({"n": 1})
        assert far.get_mutable("@lab/best") == middle.get_mutable("@lab/best") == "first"
        with kacas.Store.open(tmp_path / "other", upstream=far.path) as other:
            assert other.list_mutables() == ["@lab/best"]
            assert other.load_feed(feed).get_next_messages() == [{"n": 1}]
    assert not [place for name in ("near", "middle", "other") for place in (tmp_path / name).glob("[rf]e*s")]
