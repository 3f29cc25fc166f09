"""Leaving: work that is done once, by a thread or by who waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from kacas.disk.leaving import Leaving


class Work:
    """Counts how often it was done; ends when it may."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.times = 0
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.failure = failure

    def __call__(self) -> None:
        self.begun.set()
        assert self.may_end.wait(10)
        self.times += 1
        if self.failure is not None:
            raise self.failure


def test_it_is_done_once_and_all_who_wait_wait_for_its_end() -> None:
    work = Work()
    leaving = Leaving(work)
    leaving.begin()
    assert work.begun.wait(10)
    seen: list[int] = []

    def wait() -> None:
        leaving.wait()
        seen.append(work.times)

    waiting = [threading.Thread(target=wait) for _ in range(4)]
    for one in waiting:
        one.start()
    assert work.times == 0
    assert not seen
    work.may_end.set()
    for one in waiting:
        one.join(10)
    assert seen == [1] * 4
    assert leaving.failure is None


@pytest.mark.parametrize("begin", [Leaving.begin, lambda leaving: None])
def test_what_it_raises_is_kept_and_it_is_not_tried_again(begin: Callable[[Leaving], None]) -> None:
    work = Work(ValueError("no"))
    work.may_end.set()
    leaving = Leaving(work)
    begin(leaving)
    leaving.wait()
    leaving.wait()
    assert leaving.failure is work.failure
    assert work.times == 1


def test_where_no_thread_can_be_had_who_waits_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    work = Work()
    work.may_end.set()
    leaving = Leaving(work)
    leaving.begin()
    assert work.times == 0
    leaving.wait()
    leaving.wait()
    assert work.times == 1


def test_ctrl_c_in_the_work_of_who_waits_reaches_him_and_ends_it() -> None:
    work = Work(KeyboardInterrupt())
    work.may_end.set()
    leaving = Leaving(work)
    with pytest.raises(KeyboardInterrupt):
        leaving.wait()
    leaving.wait()
    assert leaving.failure is work.failure
    assert work.times == 1
