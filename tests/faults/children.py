"""Runs a function in a forked child: one that may die by a signal, give up its rights or have little memory."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import resource
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOBODY = 65534


@dataclass(frozen=True)
class Outcome:
    """killed_by: a signal's name, or "". error: type name and traceback of what was raised, or "". value: returned."""

    killed_by: str
    error: str
    trace: str
    value: Any

    def get(self) -> Any:
        """The value; an AssertionError with the child's own words if there is none."""
        assert not self.killed_by, f"the child was killed by {self.killed_by}"
        assert not self.error, f"the child raised {self.trace}"
        return self.value


running: set[int] = set()  # children that nobody has waited for


def end_all() -> int:
    """Kill what a failed test left running. Returns how many there were."""
    count = len(running)
    while running:
        pid = running.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return count


@dataclass
class Child:
    pid: int
    pipe: int

    def wait(self, timeout_s: float = 60) -> Outcome:
        """Its outcome; a child that takes longer is killed, and the test fails."""
        data, end = bytearray(), time.monotonic() + timeout_s
        try:
            while True:
                ready, _, _ = select.select([self.pipe], [], [], max(0, end - time.monotonic()))
                assert ready, f"the child was not done after {timeout_s} s"
                part = os.read(self.pipe, 1 << 16)
                if not part:
                    break
                data += part
        except BaseException:
            os.kill(self.pid, signal.SIGKILL)
            raise
        finally:
            os.close(self.pipe)
            _, status = os.waitpid(self.pid, 0)
            running.discard(self.pid)
        if os.WIFSIGNALED(status):
            return Outcome(signal.Signals(os.WTERMSIG(status)).name, "", "", None)
        error, trace, value = pickle.loads(data)
        return Outcome("", error, trace, value)


def fork(function: Callable[[], Any]) -> Child:
    """Start it in a child, which shares nothing but what was there at the fork."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads; that is what some tests are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os.close(write)
        running.add(pid)
        return Child(pid, read)
    try:
        os.close(read)
        faulthandler.disable()  # a death by a signal is reported by the parent, if at all
        try:
            answer = ("", "", function())
        except BaseException as exc:  # noqa: BLE001 - told to the parent, whatever it is
            answer = (type(exc).__name__, traceback.format_exc(), None)
        with contextlib.suppress(BrokenPipeError), open(write, "wb") as pipe:
            pickle.dump(answer, pipe)
    finally:
        os._exit(0)


def run(function: Callable[[], Any], timeout_s: float = 60) -> Outcome:
    return fork(function).wait(timeout_s)


def limit_memory(size: int) -> None:
    """Let this process take `size` more bytes of address space than it has now."""
    with open("/proc/self/statm", encoding="ascii") as numbers:
        now = int(numbers.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + size, now + size))


def become_nobody(home: Path) -> None:
    """Give up root's rights for good. home: where this user's settings may be."""
    os.environ["HOME"] = os.environ["XDG_CONFIG_HOME"] = str(home)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def peak_memory() -> int:
    """The most bytes that this process had in memory, shared ones too."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
