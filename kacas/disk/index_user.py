"""An index that may fail: asked as long as it answers, renewed when it does not, done without in the end."""

from __future__ import annotations

import os
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kacas.disk.forked import Forked
from kacas.disk.index import Index
from kacas.disk.index_environment import IndexUnusableError

_MAX_RENEWALS = 3

T = TypeVar("T")


class IndexUser(ABC):
    """Whoever uses an index, and fills it in `refresh`. Thread-safe, safe after fork.

    _seen: packs' names whose tables are in the index, as far as they can be; none of a new one.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._forked = Forked(self._after_fork)
        self._renewals = 0
        self._seen: set[str] = set()
        self._index: Index | None = None
        self._open_index()

    @abstractmethod
    def refresh(self) -> int:
        """Take into the index what it lacks. Returns the chunk records taken in."""

    def _close_index(self) -> None:
        index, self._index = self._index, None
        if index is not None and self._pid == os.getpid():
            index.close()

    def _open_index(self) -> None:
        try:
            self._index = Index(self._place)
        except IndexUnusableError as exc:
            self._index = None
            warnings.warn(
                f"the index cannot be used ({exc}); everything works, but slowly. Set KACAS_CACHE_DIR to a local disk",
                RuntimeWarning,
                stacklevel=2,
            )

    def _ask(self, question: Callable[[Index], T], otherwise: T) -> T:
        """Ask the index; a broken one is renewed and asked again; one that cannot be renewed is done without."""
        self._forked.check()
        while (index := self._index) is not None:
            try:
                return question(index)
            except IndexUnusableError as exc:
                self._renew(index, exc)
        return otherwise

    def _after_fork(self) -> None:
        # LMDB must not cross a fork, and another thread of the parent may have held the lock.
        self._lock, self._pid = threading.RLock(), os.getpid()
        self._seen = set()
        self._open_index()

    def _renew(self, broken: Index, why: IndexUnusableError) -> None:
        with self._lock:
            if self._index is not broken:
                return  # another thread did
            self._renewals += 1
            if self._renewals > _MAX_RENEWALS:
                self._index = None
                warnings.warn(
                    f"the index fails again and again ({why}); going on without", RuntimeWarning, stacklevel=2
                )
                return
            try:
                self._seen = set()
                broken.renew()
                self._index = Index(self._place)
            except IndexUnusableError as exc:
                self._index = None
                warnings.warn(f"the index cannot be renewed ({exc}); going on without", RuntimeWarning, stacklevel=2)
        self.refresh()

    def _begin_anew(self) -> None:
        """Throw the index away."""
        with self._lock:
            if self._index is not None:
                broken, self._index = self._index, None
                try:
                    broken.renew()
                except IndexUnusableError:
                    pass  # _open_index warns if the place is really unusable
            self._renewals = 0
            self._seen = set()
            self._open_index()
