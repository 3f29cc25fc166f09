"""Measuring time: repeated until it is enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

Progress = Callable[[str], None]


class Stopwatch:
    """The time that a profile may take. notes: what was left out because it was over."""

    def __init__(self, limit_s: float, progress: Progress | None) -> None:
        self.notes: list[str] = []
        self._begun = time.monotonic()
        self._limit_s = limit_s
        self._progress = progress

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begun

    def begin(self, step: str) -> None:
        """Tell the observer what comes."""
        if self._progress is not None:
            self._progress(step)

    def allows(self, what: str, need_s: float = 0.0) -> bool:
        """Whether there is time for it; else a note says that it was left out."""
        if self.elapsed_s + need_s <= self._limit_s:
            return True
        self.notes.append(f"{what}: left out, as the time was up")
        return False


def timed(
    work: Callable[[], object],
    rounds: int = 3,
    budget_s: float = 0.5,
    kept: Callable[[Sequence[float]], float] = median,
) -> float:
    """Seconds that the work takes: the median of as many rounds, fewer if they take longer than the budget.

    kept: of the rounds; `min` for what the machine can do at best.
    """
    spent: list[float] = []
    while len(spent) < rounds and (not spent or sum(spent) < budget_s):
        begun = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun)
    return max(kept(spent), 1e-9)


def latencies(work: Callable[[], object], most: int, budget_s: float, least: int = 3) -> list[float]:
    """Seconds of each of many calls, rising."""
    spent: list[float] = []
    begun = time.perf_counter()
    while len(spent) < most and (len(spent) < least or time.perf_counter() - begun < budget_s):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return sorted(spent)


def percentile(rising: list[float], share: float) -> float:
    """The value below which that share of the sorted values lies."""
    return rising[min(len(rising) - 1, round(share * (len(rising) - 1)))]
