"""A gate that many threads pass, and that can be shut when nobody is inside."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """`with gate.pass_lock():` passes it; `with gate.shut():` waits for all who are inside and holds back the others.

    Each thread has a lock of its own: passing costs next to nothing. And it is a lock, not a count, because Python lets
    Ctrl-C come between any two of its own steps, so that what a function has counted may never be counted back; entering
    and leaving a lock are single steps.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._local = threading.local()
        self._locks: weakref.WeakSet[threading.Lock] = weakref.WeakSet()  # a thread's goes with it

    def pass_lock(self) -> threading.Lock:
        """This thread's lock, to be held while inside. Not to be taken twice."""
        lock: threading.Lock | None = getattr(self._local, "lock", None)
        if lock is None:
            lock = threading.Lock()
            with self._guard:
                self._locks.add(lock)
            self._local.lock = lock
        return lock

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Nobody is inside."""
        with self._guard:
            locks = list(self._locks)
            held: list[threading.Lock] = []
            try:
                for lock in locks:
                    lock.acquire()
                    held.append(lock)
                yield
            finally:
                for lock in held:
                    lock.release()
