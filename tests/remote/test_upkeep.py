"""Upkeep of a bucket that was filled by real pushes: usage, verify, rm, gc and index."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import kacas
from kacas.errors import NotFoundError
from kacas.model.uri import parse_any_uri
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.layout import PACKS, PLAIN, RECIPES, pack_key, plain_key, recipe_key
from kacas_remote.push import push
from kacas_remote.recipe import decode_recipe
from kacas_remote.remote import Remote, new_remote
from kacas_remote.upkeep.collect import CollectReport, CollectSettings, collect
from kacas_remote.upkeep.index import index
from kacas_remote.upkeep.remove import Removal, remove
from kacas_remote.upkeep.usage import usage
from kacas_remote.upkeep.verify import verify
from tests.remote.faulty import FaultyBlobs
from tests.remote.model_bucket import load, sha1_of
from tests.remote.proved import proved

MIB = 1 << 20


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    (tmp_path / "bucket").mkdir()
    return new_remote("lab", DirectoryBlobs(tmp_path / "bucket"))


def gc(remote: Remote, repack: float | None = None) -> CollectReport:
    return collect(remote, CollectSettings(grace_s=0, settle_s=0, repack=repack))


def removed(remote: Remote, *uris: str) -> Removal:
    found = remove(remote, uris)
    assert found is not None
    return found


def sha1(uri: str) -> bytes:
    return parse_any_uri(uri).sha1


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def pack_size(remote: Remote) -> int:
    return sum(info.size for info in remote.blobs.list(PACKS))


def corrupt(remote: Remote, key: str, at: int) -> None:
    data = bytearray(remote.blobs.get(key, 1 << 30))
    data[at] ^= 1
    remote.blobs.put(key, data)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "session"
    (root / "inner").mkdir(parents=True)
    for number in range(20):
        (root / f"{number}.bin").write_bytes(noise(2000 + number, number))
    (root / "inner" / "large.bin").write_bytes(noise(17 * MIB, 99))
    (root / "inner" / "shared.bin").write_bytes(noise(500_000, 100))
    return root


def test_what_was_pushed_verifies_clean_and_stays_when_collected(
    store: kacas.Store, remote: Remote, directory: Path
) -> None:
    uris = [store.store_dir(directory), store.store_bytes(noise(3 * MIB, 7)), store.store_text("short")]
    push(store, remote, uris)
    push(store, remote, [store.store_text(f"note {number}") for number in range(70)])
    for deep in (False, True):
        report = verify(remote, deep=deep)
        assert report.problems == []
        assert report.clean
    assert report.checked_size > 20 * MIB
    before = sorted(info.key for info in remote.blobs.list(""))
    assert gc(remote, repack=0.5).deleted == 0
    assert sorted(info.key for info in remote.blobs.list("")) == before


def test_usage_counts_every_blob_and_says_what_was_saved(store: kacas.Store, remote: Remote) -> None:
    data = noise(2 * MIB)
    uris = [store.store_bytes(data), store.store_bytes(data + b"more"), store.store_bytes(bytes(MIB))]
    push(store, remote, uris)
    report = usage(remote)
    assert sum(held.size for held in report.classes.values()) == sum(info.size for info in remote.blobs.list(""))
    assert report.classes["recipes"].count == 3
    assert (report.contents.count, report.contents.size) == (3, 5 * MIB + 4)
    assert report.deduplicated_size > 1.5 * MIB
    assert report.compressed_size > 0.2 * MIB
    assert report.garbage_size < 200_000
    removed(remote, uris[0], uris[1])
    assert usage(remote).garbage_size > 2 * MIB


def test_what_is_removed_is_free_after_the_next_collection(store: kacas.Store, remote: Remote) -> None:
    kept, gone = store.store_bytes(noise(MIB, 1)), store.store_bytes(noise(4 * MIB, 2))
    push(store, remote, [kept])
    push(store, remote, [gone])
    full = pack_size(remote)
    dry = remove(remote, [gone], dry_run=True)
    assert dry is not None
    assert dry.contents == [sha1(gone).hex()]
    assert remove(remote, [gone], confirm=lambda _: False) is None
    assert proved(remote, gone) == store.load_bytes(gone)
    removed(remote, gone)
    assert remote.blobs.head(recipe_key(sha1(gone))) is None
    assert pack_size(remote) == full
    gc(remote)
    assert pack_size(remote) < full / 3
    assert proved(remote, kept) == store.load_bytes(kept)
    with pytest.raises(NotFoundError, match="nothing was removed"):
        remove(remote, [kept, gone])
    push(store, remote, [gone])
    assert proved(remote, gone) == store.load_bytes(gone)


def test_what_many_uris_pushed_by_table_is_removed_and_pushed_again(store: kacas.Store, remote: Remote) -> None:
    uris = [store.store_bytes(noise(3000, number)) for number in range(70)]
    push(store, remote, uris)
    assert not list(remote.blobs.list(RECIPES))
    removed(remote, *uris[:60])
    report = gc(remote, repack=0.5)
    assert (report.deleted > 0, report.rescued.entries) == (True, 10)
    assert pack_size(remote) < 60_000
    for uri in uris[60:]:
        assert load(remote.blobs, remote.remote_id, sha1(uri)) == store.load_bytes(uri)
    push(store, remote, uris)
    for uri in uris:
        assert load(remote.blobs, remote.remote_id, sha1(uri)) == store.load_bytes(uri)


def test_of_a_directory_goes_what_nobody_else_needs(store: kacas.Store, remote: Remote, directory: Path) -> None:
    first = store.store_dir(directory)
    (directory / "0.bin").unlink()
    second = store.store_dir(directory)
    alone = store.store_file(directory / "1.bin")
    push(store, remote, [first])
    push(store, remote, [second])
    push(store, remote, [alone])
    found = removed(remote, first)
    members = {hex_ for hex_, _ in found.kept}
    assert sha1(alone).hex() in members
    assert sha1_of(noise(2000, 0)).hex() in found.contents
    gc(remote, repack=0.01)
    assert verify(remote, deep=True).problems == []
    report = removed(remote, second)
    assert sha1(alone).hex() not in report.contents
    gc(remote)
    gc(remote, repack=0.01)
    assert verify(remote, deep=True).problems == []
    assert pack_size(remote) < 10_000
    assert proved(remote, alone) == noise(2001, 1)


def test_a_member_that_a_directory_holds_stays(store: kacas.Store, remote: Remote, directory: Path) -> None:
    uri = store.store_dir(directory)
    push(store, remote, [uri])
    member = store.store_file(directory / "3.bin")
    assert removed(remote, member).contents == []
    gc(remote, repack=0.01)
    assert verify(remote, deep=True).problems == []


def test_repacking_keeps_directories_whole(store: kacas.Store, remote: Remote, directory: Path) -> None:
    garbage, kept = store.store_bytes(noise(12 * MIB, 5)), store.store_dir(directory)
    push(store, remote, [garbage, kept])
    removed(remote, garbage)
    before = {info.key for info in remote.blobs.list(PACKS)}
    assert gc(remote, repack=0.2).rescued.payloads
    there = {info.key for info in remote.blobs.list(PACKS)}
    assert there != before
    head = decode_recipe(remote.blobs.get(recipe_key(sha1(kept)), MIB)).head
    assert head.member_packs
    assert all(pack_key(pack_id) in there for pack_id in head.member_packs)
    assert verify(remote, deep=True).problems == []


@pytest.mark.parametrize("plain", [False, True])
def test_verify_names_a_flipped_bit_wherever_it_is(store: kacas.Store, remote: Remote, plain: bool) -> None:
    uri = store.store_bytes(noise(600_000, 3))
    push(store, remote, [uri], plain=plain)
    for info in list(remote.blobs.list("")):
        if info.key.startswith((PACKS, RECIPES, PLAIN)):
            for at in {70, info.size // 2, info.size - 20}:
                corrupt(remote, info.key, at)
                problems = verify(remote, deep=True).problems
                assert any(info.key in problem.message for problem in problems), (info.key, at)
                corrupt(remote, info.key, at)
    assert verify(remote, deep=True).clean


def test_verify_names_what_is_gone_and_what_to_do(store: kacas.Store, remote: Remote) -> None:
    uri = store.store_bytes(noise(600_000, 3))
    push(store, remote, [uri])
    (pack,) = remote.blobs.list(PACKS)
    data = remote.blobs.get(pack.key, MIB)
    remote.blobs.delete([pack.key])
    (problem,) = verify(remote).problems
    assert (problem.kind, problem.uri) == ("missing", f"sha1://{sha1(uri).hex()}")
    assert "kacas remote rm" in problem.message
    remote.blobs.put(pack.key, data)
    assert verify(remote).clean


@pytest.mark.parametrize(
    "prefix, spare, deep", [(PACKS, 0, False), (RECIPES, 0, False), (PACKS, 2, True), (PLAIN, 0, True)]
)
def test_what_the_service_does_not_give_is_named_apart_from_damage(
    store: kacas.Store, remote: Remote, tmp_path: Path, prefix: str, spare: int, deep: bool
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_bytes(noise(1000, 1))
    push(store, remote, [store.store_bytes(noise(600_000, 3)), store.store_dir(tmp_path / "files")])
    push(store, remote, [store.store_bytes(noise(1000, 4))], plain=True)
    faulty = FaultyBlobs(remote.blobs)
    failing = remote.through(faulty)
    faulty.fault("drop", call="get", prefix=prefix, times=None, spare=spare)
    report = verify(failing, deep=deep)
    assert report.problems == []
    assert report.unread
    assert all(problem.kind == "unread" for problem in report.unread)
    assert any(problem.key.startswith(prefix) for problem in report.unread)
    assert not report.clean
    faulty.heal()
    assert verify(failing, deep=True).clean


def test_what_may_be_in_a_pack_that_the_service_does_not_give_is_not_called_missing(
    store: kacas.Store, remote: Remote
) -> None:
    uris = [store.store_text(f"note {number}") for number in range(70)]
    push(store, remote, uris)
    (first,) = remote.blobs.list(PACKS)
    removed(remote, *uris)
    push(store, remote, uris)  # they are named anew, in a pack that has no chunks
    faulty = FaultyBlobs(remote.blobs)
    faulty.fault("drop", call="get", prefix=first.key, times=None)
    report = verify(remote.through(faulty))
    assert report.problems == []
    assert sum("no pack has" in problem.message for problem in report.unread) == 70
    remote.blobs.delete([first.key])
    assert not verify(remote).unread
    assert any("no pack has" in problem.message for problem in verify(remote).problems)


def test_what_is_damaged_is_called_so_beside_what_the_service_does_not_give(store: kacas.Store, remote: Remote) -> None:
    push(store, remote, [store.store_bytes(noise(600_000, 3))])
    (first,) = remote.blobs.list(PACKS)
    push(store, remote, [store.store_bytes(noise(600_000, 4))])
    corrupt(remote, first.key, first.size - 20)
    (other,) = {info.key for info in remote.blobs.list(PACKS)} - {first.key}
    faulty = FaultyBlobs(remote.blobs)
    faulty.fault("drop", call="get", prefix=other, times=None)
    report = verify(remote.through(faulty), deep=True)
    assert [(problem.kind, problem.key) for problem in report.problems] == [("damaged", first.key)]
    assert ("unread", other) in [(problem.kind, problem.key) for problem in report.unread]


def test_a_bucket_that_kachery_filled_gets_recipes_with_the_roots_of_store_file(
    store: kacas.Store, remote: Remote, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.arange(700_000).reshape(7000, 100))
    (tmp_path / "b.dat").write_bytes(noise(3 * MIB))
    (tmp_path / "c.txt").write_bytes(b"small")
    (tmp_path / "d").write_bytes(b"")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_dataset("x", data=np.random.default_rng(0).random((3000, 100)), chunks=(500, 100))
    uris = {}
    for path in sorted(path for path in tmp_path.iterdir() if path.is_file()):
        uris[store.store_file(path)] = path.read_bytes()
        remote.blobs.put(plain_key(sha1_of(path.read_bytes())), path.read_bytes())
    wrong = plain_key(sha1_of(b"what it should be"))
    remote.blobs.put(wrong, b"what it is")
    dry = index(remote, dry_run=True)
    assert (dry.objects, dry.size, dry.made) == (6, sum(map(len, uris.values())) + 10, 0)
    report = index(remote)
    assert report.made == 5
    assert len(report.problems) == 1
    assert wrong in report.problems[0]
    for uri, data in uris.items():
        recipe = decode_recipe(remote.blobs.get(recipe_key(sha1(uri)), MIB))
        description = store.find(uri)
        assert description is not None
        assert recipe.head.root.hex() == description.root, uri
        assert proved(remote, uri) == data
    remote.blobs.delete([wrong])
    assert verify(remote, deep=True).clean
    assert index(remote).objects == 0
