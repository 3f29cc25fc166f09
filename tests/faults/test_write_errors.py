"""A full disk and failing calls, injected at every n-th write, sync and link: typed errors, and the store as it was."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import kacas
from tests.faults import contents, strace
from tests.faults.examination import PACK, check_sound, check_verified, known_contents, make_store, open_store, said
from tests.faults.programs import puts

MOST = 60
WRITES = "pwritev,pwritev2"
LINKS = "link,linkat"
RENAMES = "rename,renameat,renameat2"


def run_stubborn(place: Path, options: list[str]) -> list[dict]:
    """Puts that are tried again after an error, under strace. Returns the events, checked as far as all faults agree."""
    make_store(place, [contents.text("earlier")])
    strace.attach(lambda: puts.run("stubborn", place), options).get()
    events = said(place)
    raised = [event for event in events if "raised" in event]
    assert not raised, f"an untyped error reached the user: {raised[0]['trace']}"
    assert events[-1] == {"done": True}
    packs = None
    for event in events[:-1]:
        if "failed" in event and packs is not None:
            more = set(event["packs"]) ^ set(packs)
            if len(more) == 1 and PACK.fullmatch(*more) and more <= set(event["packs"]):
                # The sync of its name failed. Others may rely on the pack already: it stays, but nobody says
                # that it is not there.
                assert "fsync" in " ".join(options)
                assert "nothing was published" not in event["message"]
            else:
                assert not more, f"{event['failed']} left the store changed: {event['message']}"
        packs = event["packs"]
    return events


def check_afterwards(place: Path, events: list[dict]) -> None:
    known = known_contents()
    stored = {event["uri"]: known[event["label"]] for event in events if "uri" in event}
    stored[f"sha1://{known['earlier'].sha1}"] = known["earlier"]
    check_sound(place, stored, place / "fresh-cache")


def failures(events: list[dict]) -> list[str]:
    return [event["failed"] for event in events if "failed" in event]


def heavy(*values: str | None) -> object:
    return pytest.param(*values, marks=pytest.mark.heavy)


@pytest.mark.parametrize(
    "calls, error, expected",
    [
        (WRITES, "ENOSPC", "NoSpaceError"),
        heavy(WRITES, "EDQUOT", "NoSpaceError"),
        heavy(WRITES, "EIO", "WriteError"),
        ("fsync", "EIO", "WriteError"),
        heavy("fsync", "ENOSPC", "NoSpaceError"),
        (LINKS, "EIO", "WriteError"),
        heavy(LINKS, "ENOSPC", "NoSpaceError"),
        heavy("fchmod", "EIO", "WriteError"),
    ],
)
def test_an_error_of_the_nth_call_is_typed_and_the_next_try_succeeds(
    tmp_path: Path, calls: str, error: str, expected: str
) -> None:
    failed = 0
    # Each attempt has encoders of its own, whose calls are counted anew: these fail every time.
    by_encoders = {"large"} if calls in (WRITES, "fchmod") else set()
    for n in itertools.count(1):
        assert n < MOST
        place = tmp_path / str(n) / "stubborn"
        place.mkdir(parents=True)
        events = run_stubborn(place, strace.inject(calls, f"error={error}:when={n}"))
        assert set(failures(events)) <= {expected}
        labels = {event["label"] for event in events if "uri" in event}
        assert {c.label for c in contents.stubborn()} - labels <= by_encoders
        check_afterwards(place, events)
        shutil.rmtree(place)
        failed += len(failures(events))
        # The first link of a process is its index's.
        if not failures(events) and n > 1:
            break
    assert failed >= 4


@pytest.mark.parametrize(
    "calls, error, expected",
    [
        (WRITES, "ENOSPC", "NoSpaceError"),
        ("fsync", "EIO", "WriteError"),
        (LINKS, "EIO", "WriteError"),
        (f"{LINKS},{RENAMES}", "EPERM", "ReadOnlyStoreError"),
    ],
)
def test_a_disk_that_fails_for_good_leaves_the_store_as_it_was(
    tmp_path: Path, calls: str, error: str, expected: str
) -> None:
    place = tmp_path / "stubborn"
    place.mkdir()
    # From the third on: the first link is that of a new index, which can do without. A put may try one of
    # several calls, each counted alone: then all fail.
    when = "" if RENAMES in calls else ":when=3+"
    events = run_stubborn(place, strace.inject(calls, f"error={error}{when}"))
    assert set(failures(events)) == {expected}
    # Each kind of put was tried six times, but for what was stored before the disk failed.
    stored = [event["label"] for event in events if "uri" in event]
    assert stored in (["single-text", "single-json"], ["single-text"], []), stored
    check_afterwards(place, events)


@pytest.mark.parametrize(
    "calls, error",
    [
        (LINKS, "EPERM"),
        (f"{LINKS},renameat2", "ENOSYS"),
        heavy(LINKS, "EOPNOTSUPP"),
        heavy(LINKS, "EMLINK"),
        heavy(f"{LINKS},renameat2", "EPERM"),
    ],
)
def test_where_links_are_not_supported_a_rename_publishes(tmp_path: Path, calls: str, error: str) -> None:
    place = tmp_path / "stubborn"
    place.mkdir()
    events = run_stubborn(place, strace.inject(calls, f"error={error}"))
    assert failures(events) == []
    assert {event["label"] for event in events if "uri" in event} == {c.label for c in contents.stubborn()}
    check_afterwards(place, events)


def test_a_store_is_made_where_links_are_not_supported(tmp_path: Path) -> None:
    place = tmp_path / "new"
    place.mkdir()
    strace.attach(lambda: puts.run("new", place), strace.inject(LINKS, "error=EPERM")).get()
    events = said(place)
    assert events[-1] == {"done": True}, events
    assert "hard_links = false" in (place / "store" / "kacas.toml").read_text()
    check_sound(place, {events[1]["uri"]: contents.text("first")}, place / "fresh-cache")


@pytest.mark.parametrize(
    "calls, error", [("mkdir,mkdirat", "ENOSPC"), ("fsync", "EIO"), (WRITES, "ENOSPC"), (LINKS, "EIO")]
)
def test_a_store_that_could_not_be_made_is_made_by_the_next_try(tmp_path: Path, calls: str, error: str) -> None:
    refused = 0
    for n in itertools.count(1):
        assert n < MOST
        place = tmp_path / str(n) / "new"
        place.mkdir(parents=True)
        options = strace.inject(calls, f"error={error}:when={n}")
        strace.attach(lambda place=place: puts.run("new", place), options).get()  # type: ignore[misc]
        events = said(place)
        for event in events:
            assert event.get("known", True), f"an untyped error reached the user: {event['trace']}"
        stored = {event["uri"]: contents.text("first") for event in events if "uri" in event}
        with open_store(place / "store", place / "cache", create=True) as store:
            check_verified(store)
        check_sound(place, stored, place / "fresh-cache")
        if events[-1] == {"done": True} and n > 4:
            break
        refused += events[-1] != {"done": True}
    assert refused >= 2


def test_a_failed_sync_in_the_background_is_never_retried(tmp_path: Path) -> None:
    place = tmp_path / "rolling"
    place.mkdir()
    make_store(place, [contents.text("earlier")])
    before = sorted(os.listdir(place / "store" / "packs"))
    log = tmp_path / "log"
    options = strace.inject("fdatasync", "error=EIO:when=1", log)
    strace.attach(lambda: puts.run("rolling", place), options).get()
    (event,) = said(place)
    assert event["raised"] == "WriteError", event
    assert sorted(os.listdir(place / "store" / "packs")) == before
    assert log.read_text().count("fdatasync(") == 1
    check_sound(place, {}, place / "fresh-cache")


@pytest.mark.parametrize(
    "calls, error",
    [("pwrite64", "ENOSPC"), heavy("pwrite64", "EIO"), heavy("ftruncate", "ENOSPC"), heavy("ftruncate", "EIO")],
)
def test_an_index_that_cannot_be_written_costs_nothing_but_speed(tmp_path: Path, calls: str, error: str) -> None:
    for fault in (*(f"error={error}:when={n}" for n in (1, 2, 7, 14)), f"error={error}"):
        place = tmp_path / fault.replace(":", "-") / "stubborn"
        place.mkdir(parents=True)
        events = run_stubborn(place, strace.inject(calls, fault))
        assert failures(events) == []
        assert {event["label"] for event in events if "uri" in event} == {c.label for c in contents.stubborn()}
        check_afterwards(place, events)


def test_a_temporary_that_cannot_be_removed_is_an_orphan_of_a_put_that_succeeded(tmp_path: Path) -> None:
    place = tmp_path / "stubborn"
    place.mkdir()
    make_store(place, [contents.text("earlier")])
    strace.attach(lambda: puts.run("stubborn", place), strace.inject("unlink,unlinkat", "error=EIO")).get()
    events = said(place)
    assert events[-1] == {"done": True}, events[-1]
    assert failures(events) == []
    with open_store(place / "store", place / "cache") as store:
        # One of each put: three singles, a batch and an array.
        assert len(check_verified(store).orphans) == 5
    check_afterwards(place, events)


# --- faults that strace cannot make: wrappers around the real calls --------------------------------


def test_short_writes_are_continued(store: kacas.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(contents.SEED)
    write, short = os.pwritev, 0

    def write_some(fd: int, parts: Sequence[memoryview], offset: int) -> int:
        """Really write, but only the first bytes."""
        nonlocal short
        total = sum(map(len, parts))
        count = int(generator.integers(1, min(total, 1 << 20) + 1))
        short += count < total
        taken = []
        for part in parts:
            taken.append(memoryview(part)[: count - sum(map(len, taken))])
        return write(fd, [part for part in taken if len(part)], offset)

    monkeypatch.setattr(os, "pwritev", write_some)
    stored = {content.put(store): content for content in [*contents.singles(), contents.large()]}
    with store.batch():
        stored |= {content.put(store): content for content in contents.batch()}
    assert short > 20
    for uri, content in stored.items():
        content.check(store, uri)
    assert check_verified(store).orphans == []


def test_a_link_whose_reply_was_lost_has_succeeded(store: kacas.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_silently(source: Path, target: Path) -> None:
        link(source, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", link_silently)
    content = contents.text("lost reply")
    content.check(store, content.put(store))
    assert check_verified(store).orphans == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_an_error_of_close_abandons_the_pack(store: kacas.Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    earlier = contents.text("earlier")
    uri = earlier.put(store)
    before = sorted(os.listdir(store.path / "packs"))
    close = os.close

    def close_badly(fd: int) -> None:
        temporary = ".pack.tmp." in os.readlink(f"/proc/self/fd/{fd}")
        close(fd)
        if temporary:
            raise OSError(number, os.strerror(number))

    content = contents.text("closed badly")
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close_badly)
        with pytest.raises(kacas.WriteError if number == errno.EIO else kacas.NoSpaceError):
            content.put(store)
    assert sorted(os.listdir(store.path / "packs")) == before
    earlier.check(store, uri)
    content.check(store, content.put(store))
    assert check_verified(store).orphans == []


@pytest.mark.parametrize("threads", ["2", "4"])
def test_encoders_that_fail_together_give_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("KACAS_THREADS", threads)

    def refuse(fd: int, parts: Sequence[memoryview], offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # A block that is slow to encode, then blocks that are not: the later ones reach the disk first.
    slow = np.tile(np.frombuffer(contents.random_bytes("slow", 40_000).data, np.uint8), 105).tobytes()
    data = slow + contents.large().data
    with kacas.Store.open(tmp_path / "store") as store:
        before = sorted(os.listdir(store.path / "packs"))
        monkeypatch.setattr(os, "pwritev", refuse)
        for _ in range(10):
            with pytest.raises(kacas.NoSpaceError):
                store.store_bytes(data)
            assert sorted(os.listdir(store.path / "packs")) == before


@pytest.mark.parametrize("calls", ["fchmod", LINKS])
def test_what_an_nfs_client_calls_stale_once_is_done_again_unseen(tmp_path: Path, calls: str) -> None:
    make_store(tmp_path, [contents.text("earlier")])
    strace.attach(lambda: puts.run("stubborn", tmp_path), strace.inject(calls, "error=ESTALE:when=1")).get()
    events = said(tmp_path)
    assert not failures(events)
    assert events[-1] == {"done": True}
    check_afterwards(tmp_path, events)
