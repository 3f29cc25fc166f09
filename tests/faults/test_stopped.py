"""A writer that is stopped for long at any step, while others go on, and then goes on itself: nothing is lost."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from kacas.disk import index_turn
from kacas.errors import MutableConflictError, WriteError
from kacas.model.merging import MergeRule
from tests.faults import contents, strace
from tests.faults.children import fork
from tests.faults.contents import Content
from tests.faults.examination import check_sound, check_verified, known_contents, make_store, open_store, said
from tests.faults.programs import puts

STEPS = {
    "sync": "fsync",
    "link": "link,linkat",
    "unlink": "unlink,unlinkat",
    "write": "pwritev,pwritev2",
    "index write": "pwrite64",
}


CHANGES = {"list": "getdents64", "sync": "fsync", "link": "link,linkat", "unlink": "unlink,unlinkat"}
KEY = "@lab/count"
HOURS_S = 2 * 3600


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one content, to be copied: made once."""
    place = tmp_path_factory.mktemp("template")
    os.environ["KACAS_CACHE_DIR"] = str(place / "unused")
    make_store(place, [contents.text("earlier")])
    return place / "store"


def stop_at(place: Path, work: Callable[[], None], calls: str, n: int) -> strace.Traced | None:
    """What does this work and then says "done", stopped at its n-th call; None if it makes fewer, and is done."""
    log = place / f"log-{n}"
    writer = strace.start(work, strace.inject(calls, f"signal=SIGSTOP:when={n}", log))
    while not (log.exists() and "--- stopped by SIGSTOP ---" in log.read_text()):
        if any("done" in event for event in said(place)):
            writer.wait().get()
            return None
        time.sleep(0.005)
    return writer


def go_on(place: Path, label: str, cache: Path) -> dict[str, Content]:
    """What others do meanwhile: store, merge, make segments, begin the index anew, verify."""
    index_turn._PATIENCE_S = 0.5  # in this process alone, a child
    stored = {}
    with open_store(place / "store", cache) as store:
        store.repository.lookup.rule = MergeRule(fan_in=2)
        for content in [*contents.singles(), *(contents.text(f"{label}-{i}") for i in range(4))]:
            stored[content.put(store)] = content
        store.merge_segments()
        store.rebuild_index()
        for uri, content in stored.items():
            content.check(store, uri)
        check_verified(store)
    return stored


def stop_at_each(base: Path, template: Path, calls: str, numbers: Iterable[int], workload: str) -> int:
    """Returns how often it was stopped."""
    known = known_contents()
    stops = 0
    for n in numbers:
        place = base / str(n)
        place.mkdir(parents=True)
        shutil.copytree(template, place / "store")
        writer = stop_at(place, partial(puts.run, workload, place), calls, n)
        if writer is None:
            return stops
        try:
            stored = fork(partial(go_on, place, "same host", place / "cache")).wait(60).get()
            stored |= fork(partial(go_on, place, "another host", place / "other")).wait(60).get()
        finally:
            os.kill(writer.child.pid, signal.SIGCONT)
        writer.wait().get()
        events = said(place)
        assert events[-1] == {"done": True}, events[-1]
        stored |= {event["uri"]: known[event["label"]] for event in events if "uri" in event}
        check_sound(place, stored, place / "fresh-cache")
        shutil.rmtree(place)
        stops += 1
    return stops


@pytest.mark.parametrize("calls", STEPS.values(), ids=STEPS)
def test_a_writer_that_was_stopped_in_the_middle_loses_nothing(tmp_path: Path, template: Path, calls: str) -> None:
    assert stop_at_each(tmp_path, template, calls, (1, 3), "singles") >= 1


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workload", ["singles", "batch", "large", "merging"])
@pytest.mark.parametrize("calls", STEPS.values(), ids=STEPS)
def test_a_writer_that_was_stopped_at_any_step_loses_nothing(
    tmp_path: Path, template: Path, calls: str, workload: str
) -> None:
    assert stop_at_each(tmp_path, template, calls, itertools.count(1), workload) >= 1


def count_up(place: Path, times: int) -> None:
    """Add one to a number that others add to as well, and then say so in a feed."""
    with open_store(place / "store", place / f"cache-{os.getpid()}") as store:
        feed = store.load_feed((place / "feed").read_text())

        def add_one() -> None:
            value = store.get_mutable(KEY)
            store.set_mutable(KEY, str(int(value) + 1), expect=value)

        added = sum(insist(add_one) for _ in range(times))
        insist(lambda: feed.append_messages([{"by": os.getpid()}]))
    puts.Say(place / "said")(done=True, added=added)


def insist(change: Callable[[], object]) -> bool:
    """Until it is done. False if the store says that it cannot tell whether it is."""
    while True:
        try:
            change()
            return True
        except MutableConflictError:
            continue  # others were faster
        except WriteError as exc:
            if "not known" in str(exc):
                return False
            assert "nothing was published" in str(exc).lower()  # others took what was prepared for left behind


def let_hours_pass(place: Path) -> None:
    """As the server's clock says: what is there may be pruned."""
    for path in (place / "store" / "refs").rglob("*"):
        status = os.stat(path)
        os.utime(path, (status.st_atime - HOURS_S, status.st_mtime - HOURS_S))


@pytest.mark.parametrize("calls", CHANGES.values(), ids=CHANGES)
def test_who_was_stopped_for_hours_while_it_changed_something_undoes_nothing(tmp_path: Path, calls: str) -> None:
    stops = sum(stop_for_hours(tmp_path / str(n), calls, n) for n in (1, 2, 5))
    assert stops >= 2


@pytest.mark.heavy
@pytest.mark.parametrize("calls", CHANGES.values(), ids=CHANGES)
def test_who_was_stopped_for_hours_at_any_step_undoes_nothing(tmp_path: Path, calls: str) -> None:
    assert any(not stop_for_hours(tmp_path / str(n), calls, n) for n in range(1, 60))


def stop_for_hours(place: Path, calls: str, n: int) -> bool:
    """Whether there was an n-th call to stop at."""
    place.mkdir()
    with open_store(place / "store", place / "cache", create=True) as store:
        store.set_mutable(KEY, "0")
        (place / "feed").write_text(store.create_feed())
    writer = stop_at(place, partial(count_up, place, 1), calls, n)
    if writer is None:
        return False
    fork(partial(count_up, place, 40)).wait().get()
    let_hours_pass(place)
    fork(partial(count_up, place, 95)).wait().get()
    names = os.listdir(place / "store" / "refs" / "@lab" / "count")
    assert not {"1", "2"} & set(names), "nothing was pruned: the stopped writer is in no danger"
    os.kill(writer.child.pid, signal.SIGCONT)
    writer.wait().get()
    with open_store(place / "store", place / "cache") as store:
        added = sum(event["added"] for event in said(place))
        assert added >= 135
        assert store.get_mutable(KEY) in (str(added), "136"), "what was acknowledged was undone"
        by = [message["by"] for message in store.load_feed((place / "feed").read_text()).messages()]
        assert len(by) == 3
        assert by.count(writer.child.pid) == 1
        check_verified(store)
    shutil.rmtree(place)
    return True
