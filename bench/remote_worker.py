"""A process that holds one system and times its calls to a bucket: `python -m bench.remote_worker SYSTEM`.

Seconds cover the system's own call and nothing else; what is pulled is compared after the clock has stopped.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.array_systems import Array
from bench.array_worker import same
from bench.machine import leave_page_cache, settle
from bench.remote_systems import Bucket, check_tree, make_system
from bench.worker import serve

COMPARED_FILES = 200  # of a tree that is fetched and not restored
CHANGED_RUNS = 10  # of rows, together 1 % of the array


class Requests:
    """What a worker does when asked."""

    def __init__(self, system: str) -> None:
        self._system: Any = make_system(system)
        self._array: Array = np.empty((0, 0), np.int16)
        self._directory = Path()

    def version(self) -> dict[str, object]:
        return {"version": self._system.version}

    def open(self, bucket: dict[str, str], directory: str) -> dict[str, object]:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._system.open(Bucket(**bucket), self._directory)
        return {}

    def take(self, path: str) -> dict[str, object]:
        self._array = np.empty((0, 0), np.int16)
        self._array = np.load(path)
        seconds = timed(lambda: self._system.take(self._array))["seconds"]
        settle()
        return {"seconds": seconds}

    def change(self) -> dict[str, object]:
        """Give 1 % of the rows other values."""
        rows = len(self._array)
        for run in range(CHANGED_RUNS):
            start = run * rows // CHANGED_RUNS
            self._array[start : start + max(1, rows // (100 * CHANGED_RUNS))] += 1
        self._system.take(self._array)
        settle()
        return {}

    def push(self, stored_size: int) -> dict[str, object]:
        return timed(lambda: self._system.push(stored_size))

    def cold(self) -> dict[str, object]:
        self._system.cold()
        gc.collect()
        leave_page_cache(self._directory)
        settle()
        return {}

    def pull(self) -> dict[str, object]:
        """held: bytes that are the caller's now."""
        pulled: list[Array | None] = []
        figures = timed(lambda: pulled.append(self._system.pull()))
        if pulled[0] is None:
            return figures
        if not same(pulled[0], self._array):
            raise AssertionError("other values came back than were pushed")
        return figures | {"held": pulled[0].nbytes}

    def rows(self, start: int, count: int, period: int) -> dict[str, object]:
        """period: rows of the array that were taken, which a larger one repeats; 0 compares nothing."""
        read: list[Array] = []
        figures = timed(lambda: read.append(self._system.rows(start, start + count)))
        if period and not same(read[0], self._array[start % period : start % period + count]):
            raise AssertionError(f"rows {start} to {start + count} have other values")
        return figures

    def push_large(self, size: int) -> dict[str, object]:
        return {"rows": self._system.push_large(self._array, size)}

    def push_tree(self, tree: str) -> dict[str, object]:
        prepare = getattr(self._system, "take_tree", None)
        if prepare:
            prepare(Path(tree))
        settle()
        return timed(lambda: self._system.push_tree(Path(tree)))

    def fetch_tree(self, tree: str) -> dict[str, object]:
        figures = timed(self._system.fetch_tree)
        names = sorted(path.relative_to(tree).as_posix() for path in Path(tree).rglob("*") if path.is_file())
        for name in names[:: max(1, len(names) // COMPARED_FILES)]:
            if self._system.fetched(name) != (Path(tree) / name).read_bytes():
                raise AssertionError(f"{name} has other bytes than were pushed")
        return figures

    def pull_tree(self, tree: str, target: str) -> dict[str, object]:
        figures = timed(lambda: self._system.pull_tree(Path(target)))
        check_tree(Path(tree), Path(target))
        return figures


def timed(call: Callable[[], object]) -> dict[str, object]:
    """seconds: by the clock. cpu: seconds of this process's processors."""
    used, begun = _cpu_s(), time.perf_counter()
    call()
    return {"seconds": time.perf_counter() - begun, "cpu": _cpu_s() - used}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    serve(Requests(sys.argv[1]))
