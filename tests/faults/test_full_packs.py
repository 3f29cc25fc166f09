"""A batch of many packs, each published beside the next one: killed, interrupted or failing at every call that publishes."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kacas.disk import batch as batch_module
from tests.faults import children, contents
from tests.faults.examination import by_label, check_sound, make_store, open_store
from tests.faults.examination import said as events
from tests.faults.programs.puts import Say

MOST = 60
CALLS = ("fsync", "link", "pwritev", "close")


def stored_together() -> list[contents.Content]:
    """Small ones, which are gathered, between arrays; then the small ones again, which are shared with packs that may be on
    their way."""
    small = [contents.json(f"small-{i}") for i in range(12)]
    arrays = [contents.array(f"array-{i}", 3000) for i in range(6)]
    return [*itertools.chain.from_iterable(zip(arrays, small, small[6:], strict=False)), *small]


class Fault:
    """Happens at the n-th call of the process, whichever thread makes it; and, if it is a failure, for good."""

    def __init__(self, n: int, happen: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._left, self._happen = n, happen

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if call.__name__ != "close" or ".pack.tmp." in os.readlink(f"/proc/self/fd/{arguments[0]}"):
                with self._lock:
                    self._left -= 1
                    now = self._left <= 0
                if now:
                    self._happen()
            return call(*arguments)

        return wrapped


def work(place: Path, call: str, n: int, happen: Callable[[Fault], None]) -> None:
    """A batch whose packs take three payloads, with the fault; what was stored is said."""
    say = Say(place / "said")
    os.environ["KACAS_THREADS"] = "2"
    batch_module._PACK_PAYLOADS = 3
    with open_store(place / "store", place / "cache") as store:
        fault = Fault(n, lambda: happen(fault))
        setattr(os, call, fault.before(getattr(os, call)))
        with store.batch():
            uris = [(content.put(store), content.label) for content in stored_together()]
        for uri, label in uris:
            say(uri=uri, label=label)


def stored(place: Path) -> dict[str, contents.Content]:
    known = by_label(stored_together())
    return {event["uri"]: known[event["label"]] for event in events(place)}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("template")
    make_store(place, [contents.text("earlier")])
    return place / "store"


def outcomes(
    base: Path, template: Path, call: str, happen: Callable[[Fault], None]
) -> list[tuple[Path, children.Outcome]]:
    """At each n-th call, until there is none."""
    found = []
    for n in itertools.count(1):
        assert n < MOST
        place = base / str(n)
        place.mkdir()
        shutil.copytree(template, place / "store")
        outcome = children.run(lambda place=place, n=n: work(place, call, n, happen))  # type: ignore[misc]
        found.append((place, outcome))
        if not outcome.killed_by and not outcome.error:
            assert stored(place)
            break
    assert len(found) > 6, "are there so few packs?"
    return found


def check(place: Path) -> None:
    """What was said is there, and all that an entry names can be loaded, said or not."""
    uris = stored(place)
    uris[f"sha1://{contents.text('earlier').sha1}"] = contents.text("earlier")
    with open_store(place / "store", place / "cache") as store:
        for content in stored_together():
            if store.exists(f"sha1://{content.sha1}"):
                uris[f"sha1://{content.sha1}"] = content
    check_sound(place, uris, place / "fresh-cache")


def temporaries(place: Path) -> list[str]:
    return [name for name in os.listdir(place / "store/packs") if not name.endswith(".pack")]


@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_any_step_of_a_batch_of_many_packs_loses_nothing(tmp_path: Path, template: Path, call: str) -> None:
    found = outcomes(tmp_path, template, call, lambda fault: os.kill(os.getpid(), signal.SIGKILL))
    assert {outcome.killed_by for _, outcome in found[:-1]} == {"SIGKILL"}
    for place, _ in found:
        check(place)


@pytest.mark.parametrize(
    "call, number, expected",
    [
        ("pwritev", errno.ENOSPC, "NoSpaceError"),
        ("fsync", errno.EIO, "WriteError"),
        ("link", errno.EIO, "WriteError"),
    ],
)
def test_a_disk_that_fails_at_any_step_of_such_a_batch_is_told_of_and_leaves_nothing_half(
    tmp_path: Path, template: Path, call: str, number: int, expected: str
) -> None:
    def fail(fault: Fault) -> None:
        raise OSError(number, os.strerror(number))

    found = outcomes(tmp_path, template, call, fail)
    for place, outcome in found:
        assert outcome.error == (expected if place != found[-1][0] else ""), outcome.trace
        assert temporaries(place) == [], outcome.trace
        check(place)


@pytest.mark.parametrize("call", CALLS)
def test_after_ctrl_c_at_any_step_of_such_a_batch_nothing_half_is_left(
    tmp_path: Path, template: Path, call: str
) -> None:
    def interrupt(fault: Fault) -> None:
        fault._left = 1 << 60  # once
        os.kill(os.getpid(), signal.SIGINT)

    found = outcomes(tmp_path, template, call, interrupt)
    for place, outcome in found:
        assert outcome.error in ("", "KeyboardInterrupt"), outcome.trace
        assert temporaries(place) == [], outcome.trace
        check(place)
