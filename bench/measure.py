"""Paired runs: the systems take turns, the first round is a warm-up, and what counts is the median."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.machine import anonymous_memory


@dataclass(frozen=True)
class Series:
    """Figures of one thing measured several times, in the order they were taken."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        """The median and, of several, the least and the greatest."""
        if len(self.values) == 1:
            return figure(self.median)
        return f"{figure(self.median)} ({figure(min(self.values))}..{figure(max(self.values))})"

    def as_json(self) -> dict[str, object]:
        return {
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": list(self.values),
        }


Figures = dict[str, dict[str, Series]]  # system → figure → series


def figure(value: float) -> str:
    """Three significant digits at most, thousands separated."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def paired(rounds: int, turns: dict[str, Callable[[int], dict[str, float]]], *, warm_up: int = 1) -> Figures:
    """Let every system take its turn `rounds` times: A B C, A B C, ...; figures of the warm-up are dropped.

    A turn gets its round's number and returns named figures.
    """
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in turns}
    for number in range(warm_up + rounds):
        for name, turn in turns.items():
            figures = turn(number)
            if number >= warm_up:
                taken[name].append(figures)
    return {name: _by_figure(figures) for name, figures in taken.items() if figures}


def ratio(ours: Series, theirs: Series) -> float:
    """Ours over theirs: the median over the rounds, each compared with its own neighbour in time."""
    return statistics.median(a / b for a, b in zip(ours.values, theirs.values, strict=True))


def total(*series: Series) -> Series:
    """The sums, round by round (a call and the sync after it)."""
    return Series(tuple(sum(values) for values in zip(*(one.values for one in series), strict=True)))


class PeakMemory:
    """`with PeakMemory(pid) as peak:` watches another process, from outside, every 2 ms.

    Then `peak.growth` is its largest anonymous memory less what it held at the start, in bytes.
    """

    def __init__(self, pid: int, interval_s: float = 0.002) -> None:
        self._pid = pid
        self._interval_s = interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._start = self._highest = 0

    def __enter__(self) -> PeakMemory:
        self._start = self._highest = anonymous_memory(self._pid)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        return self._highest - self._start

    def _watch(self) -> None:
        while not self._done.is_set():
            self._highest = max(self._highest, anonymous_memory(self._pid))
            time.sleep(self._interval_s)


def _by_figure(rounds: Iterable[dict[str, float]]) -> dict[str, Series]:
    rounds = list(rounds)
    return {name: Series(tuple(one[name] for one in rounds)) for name in rounds[0]}
