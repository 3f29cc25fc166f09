"""What bench/directories.py measures: every system takes its turn in every round, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import machine
from bench.measure import Figures, PeakMemory, paired, total
from bench.trees import same_trees
from bench.worker import Worker
from bench.workloads import MIB

Workers = Mapping[str, Worker]
COPIES = ("cp",)  # of the systems: those that know nothing of what they copied before
LARGE = MIB  # files from this size on are deleted between turns: deleting few large files slows nobody


def measure_trees(directory: Path, tree: Path, size: int, workers: Workers, rounds: int) -> Figures:
    """Store a tree that takes `size` bytes of the disk, store it again unchanged, restore and compare it.

    Figures: idle_s, store_s, sync_s, total_s, disk_size, again_s, restore_s.
    """
    memory = 4 * size  # pages for what is read, for what is written, and for the program's own

    def turn_of(worker: Worker) -> Callable[[int], dict[str, float]]:
        def turn(number: int) -> dict[str, float]:
            place = directory / worker.system / str(number)
            worker.call("open", directory=str(place / "repository"))
            figures = {"idle_s": worker.call("idle")["seconds"]}
            worker.call("prepare", source=str(tree))
            stored = timed_call(worker, "store", memory, source=str(tree))
            synced = worker.call("sync")
            figures |= {"store_s": stored["seconds"], "sync_s": synced["seconds"], "disk_size": synced["disk"]}
            if worker.system not in COPIES:
                worker.call("store", source=str(tree))  # whatever a system remembers of files, it remembers now
                figures["again_s"] = timed_call(worker, "store", memory, source=str(tree))["seconds"]
            restored = place / "restored"
            loaded = timed_call(worker, "restore", memory, key=stored["key"], destination=str(restored))
            if not same_trees(tree, restored):
                raise AssertionError(f"{worker.system} restored {restored} with other bytes than were stored")
            return {**figures, "restore_s": loaded["seconds"]}

        return turn

    measured = paired(rounds, {system: turn_of(worker) for system, worker in workers.items()})
    for figures in measured.values():
        figures["total_s"] = total(figures["store_s"], figures["sync_s"])
    return measured


def measure_versions(directory: Path, versions: tuple[Path, Path], workers: Workers, rounds: int) -> Figures:
    """Store a large file, store it again unchanged, then its second version.

    Figures: first_s, again_ms, second_s, second_sync_s, total_s (of the second, with its sync), new_size.
    """
    first, second = map(str, versions)
    size = versions[0].stat().st_size

    def turn_of(worker: Worker) -> Callable[[int], dict[str, float]]:
        def turn(number: int) -> dict[str, float]:
            repository = directory / worker.system / str(number)
            worker.call("open", directory=str(repository))
            worker.call("prepare", source=first)
            figures = {"first_s": timed_call(worker, "store", 2 * size, source=first)["seconds"]}
            before = worker.call("sync")["disk"]
            if worker.system not in COPIES:
                worker.call("store", source=first)
                figures["again_ms"] = timed_call(worker, "store", size, source=first)["seconds"] * 1e3
                before = worker.call("sync")["disk"]
            worker.call("prepare", source=second)
            figures["second_s"] = timed_call(worker, "store", 2 * size, source=second)["seconds"]
            synced = worker.call("sync")
            machine.delete_large_files(directory / worker.system, LARGE)  # and those beside it
            return {**figures, "second_sync_s": synced["seconds"], "new_size": synced["disk"] - before}

        return turn

    measured = paired(rounds, {system: turn_of(worker) for system, worker in workers.items()})
    for figures in measured.values():
        figures["total_s"] = total(figures["second_s"], figures["second_sync_s"])
    return measured


def measure_tiny_files(
    directory: Path, tree: Path, new_worker: Callable[[str], Worker]
) -> tuple[dict[str, float], dict[str, int]]:
    """kacas and very many files: seconds and peak anonymous memory, in bytes, of storing and of restoring."""
    seconds: dict[str, float] = {}
    memory: dict[str, int] = {}
    key = ""
    for call, arguments in (
        ("store", {"source": str(tree)}),
        ("restore", {"destination": str(directory / "restored")}),
    ):
        with new_worker("kacas") as worker:  # a new process for each: what the first one took does not hide the second
            worker.call("open", directory=str(directory / "repository"))
            with PeakMemory(worker.pid) as peak:
                answer = worker.call(call, **arguments, **({"key": key} if key else {}))
        key = answer.get("key", key)
        seconds[call], memory[call] = answer["seconds"], peak.growth
    return seconds, memory


def timed_call(worker: Worker, request: str, memory_needed: int, **arguments: object) -> dict[str, Any]:
    """A call that finds as much memory ready as it may fill with pages."""
    machine.touch_memory(memory_needed)
    return worker.call(request, **arguments)
