"""Leaving: a piece of work that its owner need not wait for until the next of its kind is due."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Leaving:
    """Done once: by a thread from `begin` on, or by who waits, if that comes first: none can be had when the program ends.

    failure: what the work raised; nothing before it is done.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        # Held while it is done. A lock alone: Ctrl-C within the code of an Event may leave that locked for ever.
        self._working = threading.Lock()
        self.failure: BaseException | None = None

    def begin(self) -> None:
        """Let a thread do it."""
        try:
            threading.Thread(target=self.wait, name="kacas-publish").start()
        except RuntimeError:
            pass

    def wait(self) -> None:
        """Until it is done. Raises nothing of the work's, but Ctrl-C if that ended it in this thread."""
        with self._working:
            if self._work is None:
                return
            try:
                self._work()
            except Exception as exc:  # noqa: BLE001 - raised by who asks for the failure
                self.failure = exc
            except BaseException as exc:
                self.failure = exc
                raise
            finally:
                self._work = None
