"""Workers: threads that help the one that calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kacas.disk.forked import Forked


class Workers:
    """A few threads that wait for work; made when first needed, and anew in a forked child. Thread-safe."""

    def __init__(self, threads: int, name: str) -> None:
        """threads: at work for one call, the calling one included."""
        self.threads = threads
        self._name = name
        self._forget()
        self._forked = Forked(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Let the threads end. Those that `share` needs later are made anew."""
        self._forked.check()
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def share(self, work: Callable[[], None]) -> None:
        """Call `work` in this thread and in the others at once; it is to end when nothing is left to do.

        Returns when all have ended; raises what the first of them raised, the calling one before the others.
        """
        if self.threads == 1:
            work()
            return
        self._forked.check()  # threads do not come along, and one of the parent may have held the lock
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads - 1, self._name)
            pool = self._pool
        helpers = _Help(work)
        try:
            for _ in range(self.threads - 1):
                pool.submit(helpers.run)
        except RuntimeError:
            pass  # no (more) threads can be had, the program is ending, or `close` came between; who was asked may still come
        try:
            work()
        finally:
            helpers.end()
        helpers.check()


class _Help:
    """What helpers do for one call. They count themselves: a submit that fails may leave its work in the queue, without a future
    to wait for."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._condition = threading.Condition()
        self._helping, self._ended = 0, False
        self._failure: BaseException | None = None

    def run(self) -> None:
        with self._condition:
            if self._ended:
                return
            self._helping += 1
        try:
            self._work()
        except BaseException as exc:  # noqa: BLE001 - raised by the calling thread
            self._failure = self._failure or exc
        finally:
            with self._condition:
                self._helping -= 1
                self._condition.notify_all()

    def end(self) -> None:
        """Nobody comes any more, and whoever is at work ends before this returns: they write into what is the caller's."""
        interrupted: BaseException | None = None
        with self._condition:
            self._ended = True
            while self._helping:
                try:
                    self._condition.wait()
                except BaseException as exc:  # noqa: BLE001 - Ctrl-C; it is raised when all have ended
                    interrupted = exc
        if interrupted is not None:
            raise interrupted

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure
