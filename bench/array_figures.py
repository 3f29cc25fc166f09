"""What bench/arrays.py measures: every contender takes its turn in every round, each in the process of its system.

A contender is named `SYSTEM, WAY`, or `SYSTEM` where there is one way: see bench/array_systems.py for what each is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine
from bench.measure import Figures, PeakMemory, paired, total
from bench.worker import Worker

Workers = Mapping[str, Worker]
Cold = Callable[[], None]  # what is done for a cold load, once the system's files are closed and their pages dropped
MAPPED_TIMES = 20
CHECKED_BLOCKS = 16  # of a stream


def system_of(contender: str) -> str:
    return contender.partition(", ")[0]


def way_of(contender: str) -> str:
    return contender.partition(", ")[2]


def folder_of(contender: str) -> str:
    return contender.replace(", ", "-")


def measure_whole(
    directory: Path,
    array: Path,
    contenders: Sequence[str],
    workers: Workers,
    rounds: int,
    *,
    once: Sequence[str] = (),
    load: bool,
    cold: Cold | None,
) -> Figures:
    """Store an array and, if `load`, load it from cached pages and, if `cold`, from the disk.

    once: more contenders, with one turn at the end.
    Figures: store_s, sync_s, total_s, disk_size, ratio (the array's bytes over those of the disk), load_s, cold_s.
    """
    sizes = hold(array, [*contenders, *once], workers)

    def turn_of(contender: str) -> Callable[[int], dict[str, float]]:
        worker, size = workers[system_of(contender)], sizes[contender]

        def turn(number: int) -> dict[str, float]:
            worker.call("open", directory=str(directory / folder_of(contender) / str(number)))
            machine.touch_memory(2 * size)
            stored = worker.call("store", way=way_of(contender))
            synced = worker.call("sync")
            figures = {"store_s": stored["seconds"], "sync_s": synced["seconds"]}
            if synced["disk"]:
                figures |= {"disk_size": synced["disk"], "ratio": size / synced["disk"]}
            if load and worker.system != "sha1":
                figures["load_s"] = load_again(worker, stored["key"], size)
                if cold:
                    worker.call("close")
                    cold()
                    figures["cold_s"] = load_again(worker, stored["key"], size)
            worker.call("delete")
            return figures

        return turn

    measured = paired(rounds, {contender: turn_of(contender) for contender in contenders})
    measured |= paired(1, {contender: turn_of(contender) for contender in once}, warm_up=0)
    for figures in measured.values():
        figures["total_s"] = total(figures["store_s"], figures["sync_s"])
    return measured


def load_again(worker: Worker, key: str, size: int) -> float:
    """Seconds to load an array of `size` bytes by a system that was just opened."""
    worker.call("reopen")
    machine.touch_memory(size)
    return float(worker.call("load", key=key)["seconds"])


def measure_maps(directory: Path, array: Path, contenders: Sequence[str], workers: Workers, rounds: int) -> Figures:
    """Map an array that was mapped before. Figures: again_ms, and first_ms, which is measured once."""
    hold(array, contenders, workers)
    keys, first = {}, {}
    for contender in contenders:
        worker = workers[system_of(contender)]
        worker.call("open", directory=str(directory / folder_of(contender)))
        keys[contender] = worker.call("store", way=way_of(contender))["key"]
        first[contender] = worker.call("map_and_compare", key=keys[contender])["seconds"] * 1e3

    def turn_of(contender: str) -> Callable[[int], dict[str, float]]:
        def turn(_: int) -> dict[str, float]:
            again = workers[system_of(contender)].call("map", key=keys[contender], times=MAPPED_TIMES)
            return {"again_ms": again["seconds"] * 1e3, "first_ms": first[contender]}

        return turn

    measured = paired(rounds, {contender: turn_of(contender) for contender in contenders})
    for contender in contenders:
        workers[system_of(contender)].call("delete")
    return measured


@dataclass(frozen=True)
class Slices:
    """Slices of `width` along `axis`, at most `count` in a turn: anywhere, or one in each of different windows of an axis.

    No two windows have a chunk in common, so that none is met twice in a turn, and no cache of decoded chunks helps.
    """

    axis: int
    width: int
    count: int
    window: int | None = None

    def starts(self, extent: int, seed: int) -> list[int]:
        """Where the slices of a turn begin along an axis of `extent`."""
        rng = np.random.default_rng([7, seed])
        if self.window is None:
            return [int(at) for at in rng.integers(0, extent - self.width + 1, self.count)]
        windows = rng.permutation(extent // self.window)[: self.count]
        return [int(at) for at in windows * self.window + rng.integers(0, self.window - self.width + 1, len(windows))]


def measure_slices(
    directory: Path,
    array: Path,
    stored_as: Mapping[str, tuple[int, ...] | None],
    kinds: Mapping[str, Slices],
    workers: Workers,
    rounds: int,
) -> Figures:
    """Read slices of one stored array, which each contender opens anew before each turn, its pages cached.

    stored_as: contender → chunks. Figures: `kind`: slices per second.
    """
    shape = np.load(array, mmap_mode="r").shape
    sizes = hold(array, list(stored_as), workers)
    keys = {}
    for contender, chunks in stored_as.items():
        worker = workers[system_of(contender)]
        worker.call("open", directory=str(directory / folder_of(contender)))
        keys[contender] = worker.call("store", way=way_of(contender), chunks=chunks)["key"]
        worker.call("sync")
        worker.call("load", key=keys[contender])  # its pages are cached, as were those of the others

    def turn_of(contender: str) -> Callable[[int], dict[str, float]]:
        worker = workers[system_of(contender)]

        def turn(number: int) -> dict[str, float]:
            figures = {}
            for kind, slices in kinds.items():
                worker.call("reopen")
                worker.call("open_array", key=keys[contender])
                starts = slices.starts(shape[slices.axis], number)
                machine.touch_memory(sizes[contender] // 2)
                read = worker.call("slices", starts=starts, width=slices.width, axis=slices.axis)
                figures[kind] = len(starts) / read["seconds"]
            return figures

        return turn

    measured = paired(rounds, {contender: turn_of(contender) for contender in stored_as})
    for contender in stored_as:
        workers[system_of(contender)].call("delete")
    return measured


def measure_memory(directory: Path, array: Path, new_worker: Callable[[str], Worker]) -> dict[str, int]:
    """Peak anonymous memory of kacas beyond the caller's array, bytes, each call in a new process."""
    grown: dict[str, int] = {}

    def watch(call: str, request: str, *, holds: bool, result: bool = False, **arguments: str) -> dict[str, Any]:
        with new_worker("kacas") as worker:
            if holds:
                worker.call("array", path=str(array))
            worker.call("open", directory=str(directory / arguments.get("way", "auto")))
            with PeakMemory(worker.pid) as peak:
                answer = worker.call(request, **arguments)
        grown[call] = max(0, peak.growth - (answer["size"] if result else 0))
        return answer

    key = watch("store_npy, auto", "store", holds=True, way="auto")["key"]
    watch("store_npy, fast", "store", holds=True, way="fast")
    watch("store_npy, small", "store", holds=True, way="small")
    watch("load_npy", "load_only", holds=False, result=True, key=key)
    watch("load_npy(mmap=True)", "map_only", holds=False, key=key)
    return grown


def measure_stream(directory: Path, size: int, new_worker: Callable[[str], Worker]) -> tuple[dict[str, float], int]:
    """Stream an array of `size` bytes into kacas, once. Returns figures (seconds, ratio) and the peak anonymous memory."""
    with new_worker("kacas") as worker:
        worker.call("open", directory=str(directory))
        size = int(worker.call("prepare_stream", size=size)["size"])
        with PeakMemory(worker.pid) as peak:
            streamed = worker.call("stream")
        disk = worker.call("sync")["disk"]
        worker.call("check_stream", key=streamed["key"], count=CHECKED_BLOCKS)
        worker.call("delete")
    return {"store_s": streamed["seconds"], "disk_size": disk, "ratio": size / disk}, peak.growth


def hold(array: Path, contenders: Sequence[str], workers: Workers) -> dict[str, int]:
    """Let the processes of the contenders take the array into memory; its size, by contender."""
    return {one: int(workers[system_of(one)].call("array", path=str(array))["size"]) for one in contenders}
