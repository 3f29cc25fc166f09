"""What a directory's URI stands for when packs go, groups fail, or two files have one SHA-1."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

import kacas
from kacas.gathering import GatheringBatch
from kacas.model.entry import Kind
from kacas.model.tree import EntryType, TreeEntry, encode_tree
from kacas.model.uri import DirectoryUri
from kacas.upkeep.verify import verify
from tests.formats.trees import SMALL, make, read


def aged(path: Path) -> None:
    """The identity cache believes no file that changed within two seconds."""
    time.sleep(2.1)
    assert path.exists()


def test_a_tree_whose_members_packs_went_is_stored_again_by_the_same_store(store: kacas.Store, tmp_path: Path) -> None:
    make(tmp_path / "source", {b"sub": {b"%d" % number: b"content %d" % number for number in range(3)}})
    aged(tmp_path / "source")
    for path in (tmp_path / "source" / "sub").iterdir():
        store.store_file(path)
    lost = list(store.repository.volume.packs.glob("*.pack"))
    uri = store.store_dir(tmp_path / "source")
    assert store.store_dir(tmp_path / "source") == uri
    for pack in lost:
        pack.unlink()
    assert store.store_dir(tmp_path / "source") == uri
    store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == read(tmp_path / "source")


def test_members_that_go_while_a_directory_is_stored_that_relies_on_them_fail_it(
    store: kacas.Store, tmp_path: Path
) -> None:
    make(tmp_path / "source", {b"%d" % number: b"content %d" % number for number in range(3)})
    aged(tmp_path / "source")
    for path in (tmp_path / "source").iterdir():
        store.store_file(path)
    members = list(store.repository.volume.packs.glob("*.pack"))
    uri = store.store_dir(tmp_path / "source")

    def store_while_members_go() -> None:
        with store.batch():
            assert store.store_dir(tmp_path / "source") == uri, "trusted: the members' packs are not looked at"
            for pack in members:
                pack.unlink()

    with pytest.raises(kacas.WriteError, match="store it again"):
        store_while_members_go()
    assert store.store_dir(tmp_path / "source") == uri
    store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == read(tmp_path / "source")


@pytest.mark.parametrize("when", ["in the middle", "at the flush"])
def test_an_interrupted_group_fails_the_batch_even_if_the_interrupt_is_caught(
    store: kacas.Store, small: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    real, interrupts = GatheringBatch._append_group, [KeyboardInterrupt()]

    def interrupted(self: GatheringBatch, encoding: Any) -> None:
        if interrupts:
            raise interrupts.pop()
        real(self, encoding)

    monkeypatch.setattr(GatheringBatch, "_append_group", interrupted)

    def store_all() -> None:
        try:
            if when == "in the middle":
                for number in range(1000):
                    store.store_bytes(b"%d" % number * 5000)
            else:  # what is linked in the same batch is compared with what is stored
                store.store_bytes(b"gathered")
                store.link_file(small)
                store.store_bytes(small.read_bytes())
        except KeyboardInterrupt:
            pass

    with pytest.raises((KeyboardInterrupt, kacas.StoreClosedError)), store.batch():
        store_all()
    assert not interrupts
    assert store.stats().contents == 0


def test_a_put_that_was_interrupted_is_not_relied_on(store: kacas.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, interrupts = GatheringBatch._take, [KeyboardInterrupt()]

    def interrupted(self: GatheringBatch, *taken: Any) -> None:
        if interrupts:
            raise interrupts.pop()
        real(self, *taken)

    def store_twice() -> None:
        with store.batch():
            with contextlib.suppress(KeyboardInterrupt):
                store.store_bytes(b"content")
            store.store_bytes(b"content")

    monkeypatch.setattr(GatheringBatch, "_take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store_twice()
    assert store.stats().contents == 0


def test_what_is_on_its_way_is_compared_and_shared(
    store: kacas.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = [random.Random(number).randbytes(200_000) for number in range(12)]  # fills a group
    (tmp_path / "file").write_bytes(noise[3])
    with store.batch():
        for data in noise:
            store.store_bytes(data, label="one")
        store.store_file(tmp_path / "file", label="other")
    assert store.stats().chunks == 12
    assert sum(pack.stat().st_size for pack in store.repository.volume.packs.glob("*.pack")) < 2_500_000

    class Constant:
        def update(self, data: object) -> None: ...

        def digest(self) -> bytes:
            return b"\x22" * 20

    monkeypatch.setattr("kacas.ingest.new_sha1", Constant)
    (tmp_path / "file").write_bytes(bytes(300_000))

    def collide() -> None:
        with store.batch():
            store.store_bytes(b"some content")
            with pytest.raises(kacas.CollisionError):
                store.store_file(tmp_path / "file")

    collide()


def test_content_that_is_being_encoded_is_not_stored_twice(store: kacas.Store) -> None:
    rng = random.Random(1)
    first = [rng.randbytes(5000) for _ in range(512)]  # fills a group
    with store.batch():
        for data in first:
            store.store_bytes(data, label="one")
        for data in first:
            store.store_bytes(data, label="other")
    assert store.stats().chunks == 512
    packs = store.repository.volume.packs.glob("*.pack")
    assert sum(pack.stat().st_size for pack in packs) < 512 * 6000


@pytest.mark.parametrize("how", ["in one directory", "beside a directory"])
def test_two_small_files_with_one_sha1_are_a_collision(
    store: kacas.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    class Constant:
        def update(self, data: object) -> None: ...

        def digest(self) -> bytes:
            return b"\x11" * 20

    monkeypatch.setattr("kacas.ingest.new_sha1", Constant)
    make(tmp_path / "d", {b"a": b"one"} | ({b"b": b"other"} if how == "in one directory" else {}))

    def both() -> None:
        with store.batch():
            store.store_dir(tmp_path / "d")
            store.store_bytes(b"other")

    with pytest.raises(kacas.CollisionError):
        both()


def test_kacas_own_directories_are_refused(store: kacas.Store) -> None:
    for place in (store.path, store.path / "packs", store.repository.cache):
        for keep in (store.store_dir, store.link_dir):
            with pytest.raises(kacas.UnreadableSourceError, match="kacas' own"):
                keep(place)
    for keep in (store.store_dir, store.link_dir):
        with pytest.raises(kacas.UnreadableSourceError, match="empty"):
            keep("")


def test_a_known_file_that_vanishes_before_it_is_read_again_is_named(
    store: kacas.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "source", SMALL)
    aged(tmp_path / "source")
    store.store_dir(tmp_path / "source")
    other = kacas.Store.open(tmp_path / "other")
    monkeypatch.setattr(other, "_identities", store._identities)
    real = GatheringBatch.known_members

    def vanishing(self: GatheringBatch, identities: object) -> object:
        (tmp_path / "source" / "notes.txt").unlink(missing_ok=True)
        return real(self, identities)  # type: ignore[arg-type]

    monkeypatch.setattr(GatheringBatch, "known_members", vanishing)
    with pytest.warns(kacas.SkippedWarning, match=r"notes\.txt"):
        uri = other.store_dir(tmp_path / "source", partial=True)
    assert "notes.txt" not in {item.name for item in other.list_dir(uri)}


def test_a_path_with_bytes_that_are_not_utf8_works_unquoted_too(store: kacas.Store, tmp_path: Path) -> None:
    make(tmp_path / "source", {b"\xff": b"odd"})
    base = store.store_dir(tmp_path / "source").partition("?")[0]
    assert store.load_bytes(f"{base}/{os.fsdecode(bytes([255]))}") == b"odd"
    for call in (store.load_bytes, store.list_dir, store.exists):
        with pytest.raises(kacas.InvalidUriError):
            call(f"{base}/\ud800")
    with pytest.raises(kacas.InvalidUriError):
        store.list_dir(base, "\ud800")


def test_verify_names_a_member_of_a_directory_of_which_nothing_is_known(store: kacas.Store, tmp_path: Path) -> None:
    make(tmp_path / "source", {b"sub": {b"a": b"one", b"b": b"two"}})
    aged(tmp_path / "source")
    store.store_file(tmp_path / "source" / "sub" / "a")
    document = TreeEntry(b"gone", EntryType.FILE, hashlib.sha1(b"gone").digest(), 4)
    store.store_dir(tmp_path / "source")
    assert verify(store).clean
    uri = store.repository.put_small(encode_tree([document]), Kind.DIRECTORY, "d")
    report = verify(store)
    assert [problem.kind for problem in report.problems] == ["missing"]
    assert "'gone'" in report.problems[0].message
    assert str(DirectoryUri(uri.sha1, "d")) in report.problems[0].message


def test_a_member_is_described_as_one(store: kacas.Store, tmp_path: Path) -> None:
    make(tmp_path / "source", {b"a": b"one"})
    base = store.store_dir(tmp_path / "source").partition("?")[0]
    assert store.describe(f"{base}/a").member
    assert not store.describe(base).member
    assert store.forget(f"{base}/a").member
    assert store.load_bytes(f"{base}/a") == b"one"


@pytest.mark.parametrize("files", [1, 20], ids=["synced alone", "synced with all others"])
def test_a_file_written_through_a_mapping_is_never_taken_for_unchanged(
    store: kacas.Store, tmp_path: Path, files: int
) -> None:
    """Without the sync before hashing, the second write below would leave size and times as they were."""
    for number in range(20 - files, 20):
        make(tmp_path / "source", {b"%02d" % number: b"old" + bytes(5000)})
    path = tmp_path / "source" / "19"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:3] = b"one"  # the page is dirty from here on
        aged(path)
        base = store.store_dir(tmp_path / "source").partition("?")[0]
        assert store.load_bytes(f"{base}/19", 0, 3) == b"one"
        mapped[0:3] = b"two"
        base = store.store_dir(tmp_path / "source").partition("?")[0]
        assert store.load_bytes(f"{base}/19", 0, 3) == b"two"
