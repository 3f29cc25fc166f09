"""Mutables under attack: many processes at once, kill -9 at every step, calls that fail, replies that are lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import kacas
from kacas.disk.records import Sequences
from tests.faults import children, strace
from tests.faults.examination import open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[kacas.Store]:
    with open_store(tmp_path / "store", tmp_path / "cache", create=True) as opened:
        yield opened


def generations(store: kacas.Store, key: str) -> Path:
    return store.path / "refs" / key


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


def test_on_a_network_no_name_is_looked_up_that_no_listing_showed(
    store: kacas.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS client that looked a name up and missed it goes on missing it, when others have made it long since."""
    store.set_mutable("@a/there", "value")
    feed = store.create_feed()

    monkeypatch.setattr(store, "_sequences", Sequences(replace(store.repository.volume, network=True)))

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
    # But for a random name in capitals, which nobody will ever have.
    assert [line for line in lines if "ENOENT" in line and ".TMP." not in line] == []


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
