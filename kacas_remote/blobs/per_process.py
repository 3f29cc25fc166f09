"""PerProcess: what must not cross a fork (connections, locks, semaphores) is made anew in each process."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class PerProcess(Generic[Made]):
    """Made at the first use in a process, once for all its threads. Never pickle it: its owner makes another."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._made: dict[int, Made] = {}

    def get(self) -> Made:
        pid = os.getpid()
        found = self._made.get(pid)
        # No lock: that could be held while the process forks. Of two threads, the one that comes second drops what it made.
        return found if found is not None else self._made.setdefault(pid, self._make())

    def forget(self) -> Made | None:
        """What was made in this process, for who closes it; the next use makes another."""
        return self._made.pop(os.getpid(), None)
