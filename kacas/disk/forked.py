"""Forked children: what a process holds of locks, threads and LMDB means nothing in its child."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

_renewing = threading.RLock()


def _after_fork() -> None:
    global _renewing
    _renewing = threading.RLock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


class Forked:
    """Calls `renew` once in a forked child, before anything else is done there; its other threads wait for that.

    renew: a method of its owner, which is not kept alive by it: a store that nobody has any more is to go at once, and its
    index with it.
    """

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = weakref.WeakMethod(renew)
        self._pid = os.getpid()

    def check(self) -> None:
        if os.getpid() != self._pid:
            with _renewing:
                if os.getpid() != self._pid:
                    renew = self._renew()
                    assert renew is not None  # the owner is asking
                    renew()
                    self._pid = os.getpid()
