"""A blob store that sees which calls are under way at the same time: each waits for those that it is to meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WAIT_S = 20  # only for what comes alone


class Meeting:
    """As the store that it stands before. groups: by name, in the order in which they are to come, calls, each the name of
    a method and what its key begins with.

    met: names of the groups of which all calls were under way at once.
    """

    def __init__(self, blobs: Any, groups: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        self._blobs = blobs
        self._groups = groups
        self._barriers = {name: threading.Barrier(len(group)) for name, group in groups.items()}
        self.met: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        known = getattr(self._blobs, name)
        if not any(name == call for group in self._groups.values() for call, _ in group):
            return known
        return self._meeting(name, known)

    def _meeting(self, call: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def met(key: str, *arguments: Any, **named: Any) -> Any:
            awaited = next((name for name in self._groups if name not in self.met), "")
            if any(call == one and key.startswith(start) for one, start in self._groups.get(awaited, ())):
                self._wait(awaited)
            return work(key, *arguments, **named)

        return met

    def _wait(self, name: str) -> None:
        barrier = self._barriers[name]
        try:
            barrier.wait(WAIT_S)
            self.met.add(name)
        except threading.BrokenBarrierError:
            barrier.reset()  # it came alone
