"""Leaving: a piece of work that its owner need not wait for until the next of its kind is due."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Leaving:
    """Done by a thread, or by whoever waits for it if that has not begun: none can be had when the program ends.

    failure: what the work raised; nothing before it is done.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._begun = threading.Lock()
        self._done = threading.Event()
        self.failure: BaseException | None = None
        try:
            threading.Thread(target=self._do, name="kacas-publish").start()
        except RuntimeError:
            pass

    def wait(self) -> None:
        """Until it is done. Raises nothing of the work's."""
        self._do()
        self._done.wait()

    def _do(self) -> None:
        mine = False
        try:
            # In here: by Ctrl-C nobody would be left to end what was begun.
            mine = self._begun.acquire(blocking=False)
            if mine:
                self._work()
        except BaseException as exc:  # noqa: BLE001 - raised by who waits
            self.failure = exc
        finally:
            if mine or self.failure is not None:
                self._done.set()
