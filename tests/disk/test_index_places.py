"""Index directories of pid namespaces that are gone are dropped, and none that somebody uses."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kacas.disk.index import Index
from kacas.disk.index_places import drop_unused, hold, place_in

DAY_S = 24 * 3600


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return place_in(tmp_path)


def leave(place: Path, name: str, age_s: float) -> Path:
    """An index as a namespace left it that was used so long ago."""
    other = place.with_name(name)
    Index(other).close()
    opened = time.time() - age_s
    os.utime(other / "users", (opened, opened))
    return other


def test_one_that_nobody_opened_for_a_day_goes_when_another_is_opened(place: Path) -> None:
    old, young = leave(place, "1", DAY_S + 60), leave(place, "2", DAY_S - 60)
    Index(place).close()
    assert not old.exists()
    assert young.exists()
    assert place.exists()


def test_one_in_use_stays_however_old(place: Path) -> None:
    old = leave(place, "1", 10 * DAY_S)
    code = "import sys, pathlib, kacas.disk.index as i; x = i.Index(pathlib.Path(sys.argv[1])); print(1, flush=True); input()"
    user = subprocess.Popen([sys.executable, "-c", code, old], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert user.stdout is not None
        assert user.stdout.readline()
        os.utime(old / "users", (0, 0))
        drop_unused(place)
        assert (old / "current").exists()
    finally:
        user.kill()
        user.communicate()
    drop_unused(place)
    assert not old.exists()


def test_of_many_the_newest_few_stay(place: Path) -> None:
    left = [leave(place, str(n), age_s=60 * n) for n in range(1, 12)]
    Index(place).close()
    assert [one.exists() for one in left] == [True] * 8 + [False] * 3


def test_one_of_a_time_without_locks_goes_too(place: Path) -> None:
    old = leave(place, "1", DAY_S)
    (old / "users").unlink()
    drop_unused(place)
    assert old.exists()
    os.utime(old / "current", (0, 0))
    drop_unused(place)
    assert not old.exists()


def test_who_opens_one_while_it_is_dropped_makes_it_anew(place: Path) -> None:
    first = hold(place)
    os.close(first)
    dropper = os.open(place / "users", os.O_RDWR)
    fcntl.flock(dropper, fcntl.LOCK_EX)
    found: list[int] = []
    opener = threading.Thread(target=lambda: found.append(hold(place)))
    opener.start()
    time.sleep(0.1)
    assert found == []
    place.rename(place.with_name(".gone.0"))
    os.close(dropper)
    opener.join(10)
    assert os.path.samestat(os.fstat(found[0]), os.stat(place / "users"))
    os.close(found[0])


def test_what_a_killed_dropper_left_is_removed_by_the_next(place: Path) -> None:
    left = leave(place, "1", 0).rename(place.with_name(".gone.1"))
    drop_unused(place)
    assert not left.exists()


def test_nothing_else_beside_it_is_touched(tmp_path: Path) -> None:
    beside = leave(tmp_path / "index", "results", 10 * DAY_S)
    Index(tmp_path / "index").close()
    assert (beside / "current").exists()


def test_a_forked_child_does_not_give_up_what_its_parent_uses(place: Path) -> None:
    other = place.with_name("1")
    index = Index(other)
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    os.utime(other / "users", (0, 0))
    drop_unused(place)
    assert (other / "current").exists()
    index.close()
