"""One process at a time changes the index, and none waits for one that was stopped in the middle."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from kacas.disk import index_turn
from kacas.disk.index import Index
from kacas.disk.index_environment import IndexUnusableError
from kacas.disk.index_turn import StuckError, Turn
from tests.faults.children import Child, fork


def stop_inside(place: Path) -> Child:
    """A process that was stopped while it had the turn."""

    def stop() -> None:
        with Turn(place).taken(lambda: 0):
            os.kill(os.getpid(), signal.SIGSTOP)

    child = fork(stop)
    while "T (stopped)" not in Path(f"/proc/{child.pid}/status").read_text():
        time.sleep(0.001)
    return child


def test_it_is_not_waited_for_one_that_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_turn, "_PATIENCE_S", 0.2)
    child = stop_inside(tmp_path)
    turn = Turn(tmp_path)
    with pytest.raises(StuckError, match="stopped"), turn.taken(lambda: 0):
        pass
    os.kill(child.pid, signal.SIGCONT)
    child.wait().get()
    with turn.taken(lambda: 0):
        pass


def test_it_is_waited_for_as_long_as_others_get_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_turn, "_PATIENCE_S", 0.2)
    child = stop_inside(tmp_path)
    threading.Timer(1, os.kill, (child.pid, signal.SIGCONT)).start()
    changes = itertools.count()
    with Turn(tmp_path).taken(lambda: next(changes)):
        pass
    child.wait().get()


def test_a_turn_ends_with_its_process(tmp_path: Path) -> None:
    child = stop_inside(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait().killed_by == "SIGKILL"
    with Turn(tmp_path).taken(lambda: 0):
        pass


def test_of_threads_and_processes_one_has_it(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")

    def count(turn: Turn) -> None:
        for _ in range(50):
            with turn.taken(lambda: (tmp_path / "count").read_text()):
                (tmp_path / "count").write_text(str(int((tmp_path / "count").read_text()) + 1))

    def work() -> None:
        turn = Turn(tmp_path)
        threads = [threading.Thread(target=count, args=(turn,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for child in [fork(work) for _ in range(3)]:
        child.wait().get()
    assert (tmp_path / "count").read_text() == str(3 * 3 * 50)


def test_an_index_that_a_stopped_process_is_changing_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_turn, "_PATIENCE_S", 0.2)
    place = tmp_path / "index"
    index = Index(place)
    (turn,) = place.glob("*/turn")
    child = stop_inside(turn.parent)
    with pytest.raises(IndexUnusableError, match="stopped"):
        index.mark_whole([b"r" * 32])
    index.close()
    again = Index(place)  # also who opens it now does not wait for ever
    again.mark_whole([b"r" * 32])
    assert again.whole([b"r" * 32]) == {b"r" * 32}
    again.close()
    os.kill(child.pid, signal.SIGCONT)
    child.wait().get()
