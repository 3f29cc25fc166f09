"""kill -9 and Ctrl-C at every step: what was returned stays, what was not leaves at most an orphan."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.faults import contents, strace
from tests.faults.examination import check_sound, check_verified, known_contents, make_store, open_store, said
from tests.faults.programs import puts

WORKLOADS = ("new", "singles", "batch", "large", "merging")
# Every call that changes what is on the disk; those with two names are one call of different systems.
STORE_CALLS = {
    "sync": "fsync",
    "link": "link,linkat",
    "unlink": "unlink,unlinkat",
    "write": "pwritev,pwritev2",
    "mode": "fchmod",
}
INDEX_CALLS = {"directory": "mkdir,mkdirat", "index write": "pwrite64", "index size": "ftruncate,fallocate"}
MOST = 100  # no workload makes a call more often


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one content, to be copied: made once."""
    place = tmp_path_factory.mktemp("template")
    os.environ["KACAS_CACHE_DIR"] = str(place / "unused")
    make_store(place, [contents.text("earlier")])
    return place / "store"


def prepare(base: Path, template: Path, workloads: Iterable[str]) -> None:
    for name in workloads:
        (base / name).mkdir(parents=True)
        if name != "new":
            shutil.copytree(template, base / name / "store")


def run_killed(base: Path, calls: str, n: int, workloads: Iterable[str]) -> int:
    """Each workload killed at its n-th call. Returns how many were; the others made fewer calls and are done."""
    killed = 0
    for name in workloads:
        options = strace.inject(calls, f"signal=SIGKILL:when={n}")
        outcome = strace.attach(lambda name=name: puts.run(name, base / name), options)  # type: ignore[misc]
        assert outcome.killed_by == ("" if {"done": True} in said(base / name) else "SIGKILL"), said(base / name)
        killed += bool(outcome.killed_by)
    return killed


def check_killed(base: Path, name: str) -> None:
    """What the workload said is there, and the store works, with the index as the kill left it."""
    place = base / name
    known = known_contents()
    events = said(place)
    stored = {event["uri"]: known[event["label"]] for event in events if "uri" in event}
    opened = [event["opened"] for event in events if "opened" in event]
    with open_store(place / "store", place / "cache", create=name == "new") as store:
        # A store that was seen keeps its id for good.
        assert opened in ([], [store.store_id])
        if name != "new":
            stored[f"sha1://{known['earlier'].sha1}"] = known["earlier"]
        if name == "batch":
            batch = {content.sha1 for content in contents.batch()}
            assert len({store.exists(f"sha1://{sha1}") for sha1 in batch}) == 1, "half a batch is visible"
    check_sound(place, stored, place / "fresh-cache")


def kill_at_each(base: Path, template: Path, calls: str, numbers: Iterable[int], workloads: Iterable[str]) -> int:
    """Returns how often a workload was killed."""
    kills = 0
    for n in numbers:
        assert n < MOST, f"{calls} is called more than {MOST} times: is this workload still small?"
        at_n = base / str(n)
        prepare(at_n, template, workloads)
        killed = run_killed(at_n, calls, n, workloads)
        for name in workloads:
            check_killed(at_n, name)
        shutil.rmtree(at_n)
        kills += killed
        if not killed:
            return kills
    return kills


@pytest.mark.parametrize("calls", STORE_CALLS.values(), ids=STORE_CALLS)
def test_a_kill_at_any_step_of_publishing_loses_no_uri(tmp_path: Path, template: Path, calls: str) -> None:
    kills = kill_at_each(tmp_path, template, calls, itertools.count(1), ("new", "singles", "batch"))
    assert kills >= 5


def test_a_kill_while_encoders_write_blocks_loses_no_uri(tmp_path: Path, template: Path) -> None:
    # The encoders' threads make these calls, and each counts its own.
    kills = kill_at_each(tmp_path, template, STORE_CALLS["write"], itertools.count(1), ("large",))
    assert kills >= 1


@pytest.mark.parametrize("calls", INDEX_CALLS.values(), ids=INDEX_CALLS)
def test_a_kill_while_the_index_is_written_loses_nothing(tmp_path: Path, template: Path, calls: str) -> None:
    kills = kill_at_each(tmp_path, template, calls, itertools.count(1), ("new", "singles"))
    assert kills >= 2


@pytest.mark.parametrize("name", ["sync", "link"])
def test_a_kill_at_any_step_of_a_merge_loses_no_uri(tmp_path: Path, template: Path, name: str) -> None:
    kills = kill_at_each(tmp_path, template, STORE_CALLS[name], itertools.count(1), ("merging",))
    # Four puts and three merges, one of them of merged packs.
    assert kills >= 7 * (2 if name == "sync" else 1)


@pytest.mark.heavy
@pytest.mark.parametrize("calls", (STORE_CALLS | INDEX_CALLS).values(), ids=STORE_CALLS | INDEX_CALLS)
def test_a_kill_at_every_call_of_every_workload_loses_no_uri(tmp_path: Path, template: Path, calls: str) -> None:
    kills = kill_at_each(tmp_path, template, calls, itertools.count(1), WORKLOADS)
    assert kills >= 4


@pytest.mark.heavy
def test_a_kill_at_a_sync_in_the_background_loses_no_uri(tmp_path: Path, template: Path) -> None:
    kills = kill_at_each(tmp_path, template, "fdatasync", itertools.count(1), ("rolling",))
    assert kills == 1


@pytest.mark.parametrize("calls", ["fsync", "link,linkat", "pwritev,pwritev2"])
def test_after_ctrl_c_at_any_step_the_same_store_object_works_on(tmp_path: Path, template: Path, calls: str) -> None:
    known = known_contents()
    for n in itertools.count(1):
        base = tmp_path / str(n)
        prepare(base, template, ["stubborn"])
        options = strace.inject(calls, f"signal=SIGINT:when={n}")
        strace.attach(lambda base=base: puts.run("stubborn", base / "stubborn"), options)  # type: ignore[misc]
        events = said(base / "stubborn")
        assert events[-1] == {"done": True}, events[-1]
        assert {event["failed"] for event in events if "failed" in event} <= {"KeyboardInterrupt"}
        stored = {event["uri"]: known[event["label"]] for event in events if "uri" in event}
        missing = {content.label for content in contents.stubborn()} - {c.label for c in stored.values()}
        # Each attempt has encoders of its own, whose calls are counted anew: these are interrupted every time.
        assert missing <= ({"large"} if "pwritev" in calls else set())
        check_sound(base / "stubborn", stored, base / "fresh-cache")
        orphans = [name for name in os.listdir(base / "stubborn/store/packs") if name.startswith(".")]
        assert orphans == [], "an interrupted put left its temporary"
        shutil.rmtree(base)
        if not any("failed" in event for event in events):
            assert n > 3
            return


def test_a_kill_of_a_writer_does_not_disturb_another(tmp_path: Path, template: Path) -> None:
    prepare(tmp_path, template, ["singles"])
    place = tmp_path / "singles"
    with open_store(place / "store", place / "cache") as store:
        # The first kill of each pair is before the content has a name, the second after: then it is known.
        for round_number, n in enumerate((1, 2) * len(contents.singles())):
            before = contents.text(f"before {round_number}")
            uri = before.put(store)
            assert run_killed(tmp_path, "fsync", n, ["singles"]) == 1
            for event in said(place):
                known_contents()[event["label"]].check(store, event["uri"])
            before.check(store, uri)
            (place / "said").unlink(missing_ok=True)
            after = contents.text(f"after {round_number}")
            after.check(store, after.put(store))
        check_verified(store)
