"""Whose turn it is to change the index: one process of all that use it, never one that was stopped in the middle for long.

LMDB has a lock for that, but whoever wants it waits for ever: also for a process that was stopped (Ctrl-Z, a suspended
job, a frozen container) while it had it. So it is taken by who has this lock, and so many others are told to go on without.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = "turn"
# A change takes milliseconds, and a large one commits in parts.
_PATIENCE_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.01


class StuckError(OSError):
    """Whoever changes the index does not get on."""


class Turn:
    """Of one process and one generation of an index. Thread-safe; a forked child closes its own."""

    def __init__(self, generation: Path) -> None:
        """Raises OSError."""
        self._path = generation / _NAME
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._is_stuck = False

    @contextmanager
    def taken(self, progress: Callable[[], object]) -> Iterator[None]:
        """Inside, no other process or thread has the turn.

        progress: another answer whenever anybody has changed something. Raises StuckError if somebody who has the turn has
        changed nothing for 10 s; waiting is counted, not timed, so that a machine that slept finds nobody stuck.
        """
        with self._lock:
            try:
                self._wait(progress)
                yield
            finally:
                # Said, as a child that is about to execute a program has it open still.
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _wait(self, progress: Callable[[], object]) -> None:
        seen, waited_s, pause_s = None, 0.0, _FIRST_PAUSE_S
        while not self._is_mine():
            if waited_s >= _PATIENCE_S or self._is_stuck:
                self._is_stuck = True  # threads that queue up behind this one need not wait as long again
                raise StuckError(f"{self._path} is held by a process that does not get on; is it stopped?")
            time.sleep(pause_s)
            waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, _LONGEST_PAUSE_S)
            if (now := progress()) != seen:
                seen, waited_s = now, 0.0
        self._is_stuck = False

    def _is_mine(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # where nothing can be locked, there is LMDB's own lock
        return True

    def close(self) -> None:
        os.close(self._fd)
