"""Mutables: set anew, compared and set, deleted and listed, by many at once."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kacas
from kacas.mutables import ANYTHING
from tests.faults import children, strace
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
    store.set_mutable("key", "three")
    assert store.get_mutable("key") == "three"
    store.set_mutable("key", "four", expect="three")
    assert [change.value for change in store.mutable_history("key")] == ["four", "three"]


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


def count_up(store: Path, cache: Path, times: int) -> int:
    """Increment one counter by comparing and setting. Returns how often another was faster."""
    conflicts = 0
    with open_store(store, cache) as opened:
        for _ in range(times):
            while True:
                found = opened.get_mutable("@shared/counter", default=None)
                try:
                    opened.set_mutable("@shared/counter", str(int(found or 0) + 1), expect=found)
                    break
                except kacas.MutableConflictError:
                    conflicts += 1
    return conflicts


def test_many_processes_count_without_a_lost_update(store: kacas.Store, tmp_path: Path) -> None:
    workers = [children.fork(lambda: count_up(store.path, tmp_path / "cache", 25)) for _ in range(6)]
    conflicts = sum(worker.wait().get() for worker in workers)
    assert store.get_mutable("@shared/counter") == "150"
    assert [change.value for change in store.mutable_history("@shared/counter")] == [str(n) for n in range(150, 0, -1)]
    assert conflicts > 0


def test_of_many_who_make_one_exactly_one_succeeds(store: kacas.Store, tmp_path: Path) -> None:
    def make(number: int) -> bool:
        with open_store(store.path, tmp_path / "cache") as opened:
            try:
                opened.set_mutable("@new/@folder/key", str(number), expect=None)
                return True
            except kacas.MutableConflictError:
                return False

    workers = [children.fork(lambda number=number: make(number)) for number in range(6)]  # type: ignore[misc]
    won = [number for number, worker in enumerate(workers) if worker.wait().get()]
    assert [store.get_mutable("@new/@folder/key")] == [str(number) for number in won]


CALLS = (
    "mkdir,mkdirat",
    "rename,renameat,renameat2",
    "fchmod",
    "chmod,fchmodat",
    "fsync",
    "pwritev,pwritev2",
    "link,linkat",
    "unlink,unlinkat",
)


@pytest.mark.parametrize("calls", CALLS)
def test_a_kill_at_any_step_leaves_the_old_or_the_new_value(store: kacas.Store, calls: str) -> None:
    store.set_mutable("@old/key", "old")
    kills = 0
    for n in range(1, 12):

        def change(n: int = n) -> None:
            store.set_mutable("@old/key", f"new {n}")
            store.set_mutable(f"@new/@{n}/key", "first", expect=None)

        before = store.get_mutable("@old/key")
        outcome = strace.attach(change, strace.inject(calls, f"signal=SIGKILL:when={n}"))
        kills += bool(outcome.killed_by)
        assert store.get_mutable("@old/key") in ((f"new {n}",) if not outcome.killed_by else (before, f"new {n}"))
        assert store.get_mutable(f"@new/@{n}/key", default="first") == "first"
        store.set_mutable(f"@new/@{n}/key", "second")
        assert store.get_mutable(f"@new/@{n}/key") == "second"
        if not outcome.killed_by:
            break
    assert kills >= 1


def test_no_name_is_looked_up_that_no_listing_showed(store: kacas.Store, tmp_path: Path) -> None:
    """An NFS client that looked a name up and missed it goes on missing it, when others have made it long since."""
    store.set_mutable("@a/there", "value")
    feed = store.create_feed()

    def work() -> None:
        assert store.get_mutable("@a/@b/later", default=None) is None
        assert store.list_mutables("@c") == []
        store.set_mutable("@a/@b/later", "value", expect=None)
        store.set_mutable("@a/there", "new", expect="value")
        opened = store.load_feed(feed)
        opened.append_message({})
        assert opened.get_next_messages() == [{}]

    log = tmp_path / "calls"
    strace.attach(work, ["-y", "-o", str(log), "-e", "trace=%file"]).get()
    lines = [line for line in log.read_text().splitlines() if str(store.path) in line]
    assert len(lines) > 30
    assert [line for line in lines if "ENOENT" in line] == []


@pytest.mark.parametrize(
    "calls, fault, kind",
    [
        ("pwritev,pwritev2", "error=ENOSPC", kacas.NoSpaceError),
        ("fsync", "error=EIO", kacas.WriteError),
        ("link,linkat", "error=EIO", kacas.WriteError),
        ("link,linkat", "error=EDQUOT", kacas.NoSpaceError),
        ("mkdir,mkdirat", "error=ENOSPC", kacas.NoSpaceError),
        ("rename,renameat,renameat2", "error=EIO", kacas.WriteError),
    ],
)
def test_a_call_that_fails_is_a_typed_error_and_the_value_stays(
    store: kacas.Store, calls: str, fault: str, kind: type[kacas.StoreError]
) -> None:
    store.set_mutable("@old/key", "old")

    def change() -> None:
        with pytest.raises(kind):
            store.set_mutable("@new/@folder/key", "new")
        if "mkdir" not in calls and "rename" not in calls:
            with pytest.raises(kind):
                store.set_mutable("@old/key", "new", expect="old")

    strace.attach(change, strace.inject(calls, fault)).get()
    assert store.get_mutable("@old/key") == "old"
    assert store.list_mutables() == ["@old/key"]
    assert [name for name in os.listdir(generations(store, "@old/key")) if name.startswith(".")] == []
    store.set_mutable("@new/@folder/key", "new")
    store.set_mutable("@old/key", "new", expect="old")


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO, errno.ETIMEDOUT], ids=errno.errorcode.get)
def test_a_lost_reply_of_link_is_no_conflict(store: kacas.Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The link is made, and the call answered with an error, as when a reply is lost and the request repeated."""
    store.set_mutable("key", "old")
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    store.set_mutable("key", "new", expect="old")
    store.set_mutable("key", "newer", expect="new")
    assert [change.value for change in store.mutable_history("key")] == ["newer", "new", "old"]


def test_without_links_they_are_refused_in_words_and_what_is_there_is_read(store: kacas.Store) -> None:
    store.set_mutable("key", "old")

    def change() -> None:
        with pytest.raises(kacas.NoLinksError, match=r"neither link\(\) nor"):
            store.set_mutable("key", "new")

    options = ["-o", "/dev/null", "-e", "trace=?link,?linkat,?renameat2", "-e", "inject=?link,?linkat:error=EPERM"]
    strace.attach(change, [*options, "-e", "inject=?renameat2:error=EINVAL"]).get()
    assert store.get_mutable("key") == "old"
    assert sorted(os.listdir(generations(store, "key"))) == ["1"]


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
