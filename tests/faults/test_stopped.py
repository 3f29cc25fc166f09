"""A writer that is stopped for long at any step, while others go on, and then goes on itself: nothing is lost."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from kacas.disk import index_turn
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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one content, to be copied: made once."""
    place = tmp_path_factory.mktemp("template")
    os.environ["KACAS_CACHE_DIR"] = str(place / "unused")
    make_store(place, [contents.text("earlier")])
    return place / "store"


def stop_at(place: Path, workload: str, calls: str, n: int) -> strace.Traced | None:
    """The workload, stopped at its n-th call; None if it makes fewer, and is done."""
    log = place / f"log-{n}"
    writer = strace.start(lambda: puts.run(workload, place), strace.inject(calls, f"signal=SIGSTOP:when={n}", log))
    while not (log.exists() and "--- stopped by SIGSTOP ---" in log.read_text()):
        if {"done": True} in said(place):
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
        writer = stop_at(place, workload, calls, n)
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
