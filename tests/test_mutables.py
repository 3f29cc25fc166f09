"""Mutables: set anew, compared and set, deleted and listed, by many at once."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kacas
from kacas.disk.records import Mark, Record, RecordKind, Sequence, Sequences
from kacas.mutables import ANYTHING
from kacas.upkeep.verify import verify
from tests.faults import children
from tests.faults.examination import open_store

HOUR_NS = 3600 * 10**9


@pytest.fixture
def store(tmp_path: Path) -> Iterator[kacas.Store]:
    with open_store(tmp_path / "store", tmp_path / "cache", create=True) as opened:
        yield opened


def generations(store: kacas.Store, key: str) -> Path:
    return store.path / "refs" / key


def test_a_mutable_has_the_value_that_was_set_last(store: kacas.Store) -> None:
    for value in ("one", "", "日本\n\0", "x" * 100_000):
        store.set_mutable("@a/@b/key", value)
        assert store.get_mutable("@a/@b/key") == value
    assert store.get_mutable("@a/@b/other", default=None) is None
    with pytest.raises(kacas.MutableNotFoundError) as caught:
        store.get_mutable("@a/@b/other")
    assert caught.value.key == "@a/@b/other"
    assert isinstance(caught.value, FileNotFoundError)


def test_it_changes_only_if_it_is_what_was_expected(store: kacas.Store) -> None:
    store.set_mutable("key", "one", expect=None)
    for expect in (None, "two", ""):
        with pytest.raises(kacas.MutableConflictError) as caught:
            store.set_mutable("key", "three", expect=expect)
        assert (caught.value.key, caught.value.expected, caught.value.found) == ("key", expect, "one")
        with pytest.raises(kacas.MutableConflictError):
            store.delete_mutable("key", expect="two")
    store.set_mutable("key", "two", expect="one")
    assert store.delete_mutable("key", expect="two")
    with pytest.raises(kacas.MutableConflictError) as caught:
        store.set_mutable("key", "three", expect="two")
    assert caught.value.found is None
    store.set_mutable("key", "three", expect=None)
    assert store.get_mutable("key") == "three"


def test_deleting_is_a_generation_too(store: kacas.Store) -> None:
    assert not store.delete_mutable("key")
    store.set_mutable("key", "one")
    assert store.delete_mutable("key")
    assert not store.delete_mutable("key")
    assert store.get_mutable("key", default="gone") == "gone"
    store.set_mutable("key", "two")
    assert [(change.generation, change.value) for change in store.mutable_history("key")] == [
        (3, "two"), (2, None), (1, "one"),
    ]  # fmt: skip
    assert list(store.mutable_history("other")) == []


def test_folders_list_and_delete_all_that_is_in_them(store: kacas.Store) -> None:
    for key in ("top", "@a/one", "@a/@b/two", "@a/@b/three", "@ab/four"):
        store.set_mutable(key, key)
    store.delete_mutable("@a/@b/three")
    assert store.list_mutables() == ["@a/@b/two", "@a/one", "@ab/four", "top"]
    assert store.list_mutables("@a") == ["@a/@b/two", "@a/one"]
    assert store.list_mutables("@nothing/@here") == []
    assert store.delete_mutable_folder("@a") == 2
    assert store.delete_mutable_folder("@a") == 0
    assert store.list_mutables() == ["@ab/four", "top"]


def test_a_key_may_not_lead_out_of_the_store(store: kacas.Store, tmp_path: Path) -> None:
    for key in ("../../outside", "@a/../../../outside", "/etc/passwd", "@a/.hidden", "@a/b\0"):
        with pytest.raises(kacas.InvalidKeyError):
            store.set_mutable(key, "x")
        with pytest.raises(kacas.InvalidKeyError):
            store.get_mutable(key)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("link", ["refs", "refs/@a", "refs/@a/@b", "refs/@a/@b/key"])
def test_a_link_that_leads_out_of_the_store_is_not_followed(store: kacas.Store, tmp_path: Path, link: str) -> None:
    (outside := tmp_path / "outside").mkdir()
    place = store.path / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(outside)
    for failing in (store.get_mutable, store.delete_mutable, lambda key: store.set_mutable(key, "x")):
        with pytest.raises(kacas.StoreError, match="symbolic link") as caught:
            failing("@a/@b/key")
        assert str(place) in str(caught.value)
    assert not list(outside.iterdir())


@pytest.mark.parametrize("stray", ["file", "link"])
def test_what_does_not_belong_there_hides_nothing_else(store: kacas.Store, tmp_path: Path, stray: str) -> None:
    store.set_mutable("@a/key", "value")
    for name in ("key", "@folder"):
        path = store.path / "refs" / "@a" / f"{name} stray"
        path.touch() if stray == "file" else path.symlink_to(tmp_path)
    assert store.list_mutables() == store.list_mutables("@a") == ["@a/key"]
    with pytest.raises(kacas.StrayError, match="move it away"):
        store.get_mutable("@a/key stray")
    with pytest.raises(kacas.StrayError, match="move it away"):
        store.list_mutables("@a/@folder stray")
    assert store.delete_mutable_folder("@a") == 1
    assert sorted(problem.record for problem in verify(store).problems) == [
        "refs/@a/@folder stray", "refs/@a/key stray",
    ]  # fmt: skip


def test_a_damaged_newest_generation_is_named_and_setting_it_anew_heals_it(store: kacas.Store) -> None:
    store.set_mutable("key", "one")
    store.set_mutable("key", "two")
    newest = generations(store, "key") / "2"
    newest.chmod(0o644)
    newest.write_bytes(b"x" + newest.read_bytes()[1:])
    for failing in (
        lambda: store.get_mutable("key"),
        lambda: store.set_mutable("key", "three", expect="two"),
        lambda: list(store.mutable_history("key")),
    ):
        with pytest.raises(kacas.DamagedRecordError) as caught:
            failing()
        assert caught.value.path == str(newest)
    assert store.list_mutables() == ["key"]
    store.set_mutable("key", "three")
    assert store.get_mutable("key") == "three"
    store.set_mutable("key", "four", expect="three")
    assert [change.value for change in store.mutable_history("key")] == ["four", "three"]


@pytest.mark.parametrize("body", [b"", b"\x09\0\0\0", b"\0\0\xff\xff", b"\0\0\0\0\xff", b"\0\0\0\0" + b"x" * 100_001])
def test_a_sound_record_that_holds_no_generation_is_damage(store: kacas.Store, body: bytes) -> None:
    Sequences(store.repository.volume).sequence("refs/key", RecordKind.MUTABLE).append(body)
    with pytest.raises(kacas.DamagedRecordError, match="refs/key/1"):
        store.get_mutable("key")
    store.set_mutable("key", "new")
    assert store.get_mutable("key") == "new"


def test_history_goes_as_far_back_as_it_is_kept(store: kacas.Store, tmp_path: Path) -> None:
    for number in range(1, 128):
        store.set_mutable("key", str(number))
        path = generations(store, "key") / str(number)
        when = path.stat().st_mtime_ns - 2 * HOUR_NS
        os.utime(path, ns=(when, when))
    store.set_mutable("key", "128")
    assert [change.value for change in store.mutable_history("key")] == [str(n) for n in range(128, 28, -1)]


def test_who_looked_long_ago_and_dies_at_once_leaves_nothing_that_counts(store: kacas.Store) -> None:
    for number in range(1, 6):
        store.set_mutable("key", str(number))
    place = generations(store, "key")
    kept = (place / "2").read_bytes()
    for name in ("1", "2"):
        os.unlink(place / name)
    (place / "1").write_bytes(kept)
    assert store.get_mutable("key") == "5"
    assert [change.value for change in store.mutable_history("key")] == ["5", "4", "3"]


@pytest.mark.parametrize("expect", ["5", ANYTHING], ids=repr)
def test_who_slept_while_others_went_on_and_pruned_changes_nothing_unseen(
    store: kacas.Store, monkeypatch: pytest.MonkeyPatch, expect: str
) -> None:
    """Between looking and creating, two hours go by, two others set it, and its number is free again."""
    for number in range(1, 6):
        store.set_mutable("key", str(number))
    create = Sequence.create

    def others(self: Sequence, after: Mark, body: bytes) -> Record | None:
        monkeypatch.setattr(Sequence, "create", create)
        for number in ("6", "7"):
            store.set_mutable("key", number)
        for path in self.directory.iterdir():
            os.utime(path, ns=(0, 0))
        store.set_mutable("key", "8")
        newest = self.newest()
        assert newest
        assert self.prune(1, newest) == 7
        return create(self, after, body)

    monkeypatch.setattr(Sequence, "create", others)
    if expect is ANYTHING:
        store.set_mutable("key", "mine")
        assert [change.value for change in store.mutable_history("key")] == ["mine", "8"]
    else:
        with pytest.raises(kacas.MutableConflictError) as caught:
            store.set_mutable("key", "mine", expect=expect)
        assert caught.value.found == "8"
    assert sorted(os.listdir(generations(store, "key"))) == (["8", "9"] if expect is ANYTHING else ["8"])


def test_the_words_of_a_conflict_say_what_is_there(store: kacas.Store) -> None:
    with pytest.raises(kacas.MutableConflictError, match="'key' is not there, where 'a' was expected"):
        store.set_mutable("key", "b", expect="a")
    store.set_mutable("key", "b")
    with pytest.raises(kacas.MutableConflictError, match="'key' has the value 'b', where none was expected"):
        store.set_mutable("key", "c", expect=None)


def test_a_store_that_cannot_be_written_to_can_be_read(store: kacas.Store, tmp_path: Path) -> None:
    store.set_mutable("@a/key", "value")
    store.path.chmod(0o755)
    for part in (tmp_path, *tmp_path.parents):
        if part.stat().st_uid == os.getuid() and part != Path("/"):
            part.chmod(part.stat().st_mode | 0o055)

    def look() -> list[str]:
        children.become_nobody(tmp_path)
        with open_store(store.path, Path("/var/tmp") / f"kacas-test-{os.getpid()}") as opened:
            found = [opened.get_mutable("@a/key"), *opened.list_mutables()]
            for key in ("@a/key", "@a/new", "@new/key"):
                with pytest.raises(kacas.ReadOnlyStoreError):
                    opened.set_mutable(key, "x")
            with pytest.raises(kacas.ReadOnlyStoreError):
                opened.delete_mutable("@a/key")
            shutil.rmtree(opened.repository.cache.parent, ignore_errors=True)
            return found

    assert children.run(look).get() == ["value", "@a/key"]


def test_a_closed_store_refuses(store: kacas.Store) -> None:
    store.close()
    with pytest.raises(kacas.StoreClosedError):
        store.get_mutable("key")


def test_a_store_that_was_sent_to_another_process_shares_them(store: kacas.Store) -> None:
    store.set_mutable("key", "one")
    assert children.run(lambda: pickle.loads(pickle.dumps(store)).get_mutable("key")).get() == "one"
    children.run(lambda: store.set_mutable("key", "from a forked child")).get()
    assert store.get_mutable("key") == "from a forked child"


KEYS = ("key", "@a/key", "@a/@b/key", "@a/other")
steps = st.lists(
    st.tuples(
        st.sampled_from(["set", "expect", "absent", "delete", "folder"]),
        st.sampled_from(KEYS),
        st.sampled_from(["one", "two", ""]),
        st.booleans(),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(steps=steps)
def test_two_that_share_a_store_see_what_a_dictionary_would_hold(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str, bool]]
) -> None:
    place = tmp_path_factory.mktemp("shared")
    expected: dict[str, str] = {}
    with (
        open_store(place / "store", place / "cache", create=True) as one,
        open_store(place / "store", place / "other cache") as two,
    ):
        for step, key, value, first in steps:
            store = one if first else two
            if step == "delete":
                assert store.delete_mutable(key) == (expected.pop(key, None) is not None)
            elif step == "folder":
                gone = [name for name in expected if name.startswith("@a/")]
                assert store.delete_mutable_folder("@a") == len(gone)
                for name in gone:
                    del expected[name]
            else:
                expect = {"set": ANYTHING, "expect": value + "x", "absent": None}[step]
                if expect is ANYTHING or expected.get(key) == expect:
                    store.set_mutable(key, value + "x", expect=expect)
                    expected[key] = value + "x"
                else:
                    with pytest.raises(kacas.MutableConflictError):
                        store.set_mutable(key, value + "x", expect=expect)
            for opened in (one, two):
                assert {name: opened.get_mutable(name) for name in opened.list_mutables()} == expected
