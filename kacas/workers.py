"""Workers: threads that help the one that calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

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
        helping: list[Future[None]] = []
        try:
            helping += [pool.submit(work) for _ in range(self.threads - 1)]
        except RuntimeError:
            pass  # the program is ending, or `close` came between: nobody helps
        try:
            work()
        finally:
            started = [one for one in helping if not one.cancel()]
            wait(started)
        for one in started:
            one.result()
