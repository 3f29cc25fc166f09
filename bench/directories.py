"""Directories and edited files beside cp, restic, borg, casync and a kachery-cloud loop, in one run.

    python -m bench.directories --kachery-python .venv-kachery/bin/python   # about 20 minutes, 35 GB of disk
    python -m bench.directories --million                                   # and a million files of 100 bytes
    python -m bench.directories --quick                                     # 400 files, 32 MiB: a look, not a figure

A peer that is not installed is left out. What each is told: bench/keepers.py. How to read it: docs/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from bench.keepers import KEEPERS, missing_commands
from bench.measure import Figures, PeakMemory, Series, paired, ratio, total
from bench.report import Target, by_system, scaled, table
from bench.running import kachery_python, new_run, options_parser, publish, require_disk, run_environment, say
from bench.trees import make_tree, random_edits, same_trees, write_edited, write_large_file
from bench.worker import Worker
from bench.workloads import MIB

SMALL_SIZES = (1024, 16 * 1024)  # bytes of a small file
TINY_SIZE = 100
INSERTIONS = OVERWRITES = 10
TRUSTED_AFTER_S = 3.0  # kacas reads files again that changed within two seconds of being read
LARGE = MIB  # files from this size on are deleted between turns: deleting few large files slows nobody
BACKUPS = ("restic", "borg", "casync")  # the targets name the fastest of these
MEMORY_LIMIT_MIB = 512


@dataclass
class Plan:
    """What to run: counts, bytes, rounds after the warm-up, and which Python holds kachery-cloud (None: leave it out)."""

    files: int
    folders: int
    size: int
    rounds: int
    tiny_files: int
    workdir: Path
    kachery_python: str | None
    run: Path = field(init=False)

    def __post_init__(self) -> None:
        self.run = new_run(self.workdir)

    @property
    def systems(self) -> list[str]:
        absent = {*missing_commands(), *([] if self.kachery_python else ["kachery-cloud"])}
        return [system for system in KEEPERS if system not in absent]

    @property
    def disk_needed(self) -> int:
        """Trees are kept to the end: the source, and for each turn what is stored and restored."""
        trees = self.tree_size * (1 + 2 * len(self.systems) * (self.rounds + 1))
        large = self.size * (
            6 + 2 * (self.rounds + 1)
        )  # two inputs, one turn, kacas' open packs; all of casync's chunks
        return trees + large + self.tiny_files * 3 * 4096

    @property
    def tree_size(self) -> int:
        """Bytes that the tree takes of the disk, in blocks of 4 KiB; about."""
        return self.files * (sum(SMALL_SIZES) // 2 + 2048)

    @property
    def tree(self) -> Path:
        return self.workdir / f"tree-{self.files}-in-{self.folders}"

    @property
    def tiny_tree(self) -> Path:
        return self.workdir / f"tree-{self.tiny_files}-of-{TINY_SIZE}-bytes"

    def large_file(self, version: int) -> Path:
        return self.workdir / f"large-{self.size // MIB}-MiB-version-{version}.dat"

    def worker(self, system: str) -> Worker:
        python = self.kachery_python if system == "kachery-cloud" and self.kachery_python else sys.executable
        environment = run_environment(self.run)
        return Worker(system, python=python, environment=environment, program="bench.keepers")


def make_inputs(plan: Plan) -> None:
    """Make what is stored, and let it come of age."""
    say(f"making {plan.tree}")
    make_tree(plan.tree, files=plan.files, folders=plan.folders, sizes=SMALL_SIZES)
    say(f"making {plan.large_file(1)} and its second version")
    write_large_file(plan.large_file(1), plan.size)
    edits = random_edits(plan.size, insertions=INSERTIONS, overwrites=OVERWRITES)
    write_edited(plan.large_file(1), plan.large_file(2), edits)
    if plan.tiny_files:
        say(f"making {plan.tiny_tree}")
        folders = max(1, plan.tiny_files // 1000)
        make_tree(plan.tiny_tree, files=plan.tiny_files, folders=folders, sizes=(TINY_SIZE, TINY_SIZE))
    machine.settle()
    time.sleep(TRUSTED_AFTER_S)


def measure_trees(plan: Plan, workers: dict[str, Worker]) -> Figures:
    """Store the tree, store it again unchanged, restore and compare it: every system in turn."""
    memory = 4 * plan.tree_size  # pages for what is read, for what is written, and for the program's own

    def turn_of(worker: Worker) -> Callable[[int], dict[str, float]]:
        def turn(number: int) -> dict[str, float]:
            place = plan.run / "trees" / worker.system / str(number)
            worker.call("open", directory=str(place / "repository"))
            figures = {"idle_s": worker.call("idle")["seconds"]}
            stored = timed_call(worker, "store", memory, source=str(plan.tree))
            synced = worker.call("sync")
            figures |= {"store_s": stored["seconds"], "sync_s": synced["seconds"], "disk_size": synced["disk"]}
            if worker.system != "cp":  # which would copy it again
                worker.call("store", source=str(plan.tree))  # whatever a system remembers of files, it remembers now
                figures["again_s"] = timed_call(worker, "store", memory, source=str(plan.tree))["seconds"]
            restored = place / "restored"
            loaded = timed_call(worker, "restore", memory, key=stored["key"], destination=str(restored))
            if not same_trees(plan.tree, restored):
                raise AssertionError(f"{worker.system} restored {restored} with other bytes than were stored")
            return {**figures, "restore_s": loaded["seconds"]}

        return turn

    return paired(plan.rounds, {system: turn_of(worker) for system, worker in workers.items()})


def measure_versions(plan: Plan, workers: dict[str, Worker]) -> Figures:
    """Store the large file, store it again unchanged, then its edited version: every system in turn."""
    first, second = str(plan.large_file(1)), str(plan.large_file(2))

    def turn_of(worker: Worker) -> Callable[[int], dict[str, float]]:
        def turn(number: int) -> dict[str, float]:
            repository = plan.run / "versions" / worker.system / str(number)
            worker.call("open", directory=str(repository))
            figures = {"first_s": timed_call(worker, "store", 2 * plan.size, source=first)["seconds"]}
            before = worker.call("sync")["disk"]
            if worker.system != "cp":
                worker.call("store", source=first)
                figures["again_ms"] = timed_call(worker, "store", plan.size, source=first)["seconds"] * 1e3
                before = worker.call("sync")["disk"]
            figures["second_s"] = timed_call(worker, "store", 2 * plan.size, source=second)["seconds"]
            synced = worker.call("sync")
            machine.delete_large_files(repository, LARGE)
            return {**figures, "second_sync_s": synced["seconds"], "new_size": synced["disk"] - before}

        return turn

    return paired(plan.rounds, {system: turn_of(worker) for system, worker in workers.items()})


def measure_tiny_files(plan: Plan) -> tuple[dict[str, float], dict[str, int]]:
    """kacas and a million files: seconds and peak anonymous memory, in bytes, of storing and of restoring."""
    place = plan.run / "tiny"
    seconds: dict[str, float] = {}
    memory: dict[str, int] = {}
    key = ""
    for call, arguments in (
        ("store", {"source": str(plan.tiny_tree)}),
        ("restore", {"destination": str(place / "restored")}),
    ):
        with plan.worker("kacas") as worker:  # a new process for each: what the first one took does not hide the second
            worker.call("open", directory=str(place / "repository"))
            with PeakMemory(worker.pid) as peak:
                answer = worker.call(call, **arguments, **({"key": key} if key else {}))
        key = answer.get("key", key)
        seconds[call], memory[call] = answer["seconds"], peak.growth
    return seconds, memory


def timed_call(worker: Worker, request: str, memory_needed: int, **arguments: object) -> dict[str, Any]:
    """A call that finds as much memory ready as it may fill with pages."""
    machine.touch_memory(memory_needed)
    return worker.call(request, **arguments)


def fastest(figures: Figures, what: str) -> str | None:
    """Which of the backup programs has the lowest median, or None if none was there."""
    there = [system for system in BACKUPS if system in figures]
    return min(there, key=lambda system: figures[system][what].median) if there else None


def targets(trees: Figures, versions: Figures, memory: dict[str, int]) -> list[Target]:
    """What was promised of directories, with what was measured."""

    def against(figures: Figures, what: str, peer: str | None) -> float | None:
        return ratio(figures["kacas"][what], figures[peer][what]) if peer in figures else None

    found = []
    for what, said, limit in (("store_s", "store the tree, durable", 0.5), ("restore_s", "restore the tree", 0.8)):
        peer = fastest(trees, what)
        name = f"{said} / the fastest of {', '.join(BACKUPS)}" + (f": {peer}" if peer else "")
        found.append(Target(name, against(trees, what, peer), limit, " ×"))
    one = versions["kacas"]
    found += [
        Target("the unchanged tree", trees["kacas"]["again_s"].median, 0.3, " s"),
        Target("new bytes of the edited file", one["new_size"].median / 1e6, 10, " MB"),
        Target("the edited file / restic", against(versions, "second_s", "restic"), 0.4, " ×"),
        Target("the unchanged file", one["again_ms"].median, 10, " ms"),
    ]
    for call, size in memory.items():
        found.append(Target(f"{call} the tiny files: anonymous memory", size / MIB, MEMORY_LIMIT_MIB, " MiB"))
    return found


def markdown(plan: Plan, trees: Figures, versions: Figures, seconds: dict[str, float], promised: list[Target]) -> str:
    """The tables of docs/benchmarks.md."""

    def row(said: str, figures: Figures, what: str, unit: float = 1) -> tuple[str, dict[str, Series | None]]:
        return said, scaled(figures, what, unit)

    systems = list(trees)
    parts = [
        f"{plan.files:,} files of 1 to 16 KiB in {plan.folders} directories; a file of {plan.size // MIB:,} MiB of "
        f"noise, then with {INSERTIONS} insertions and {OVERWRITES} overwrites of 1 to 4,096 bytes; {plan.rounds} "
        "rounds after a warm-up; median (min..max).",
        by_system(
            systems,
            [
                row("start, do nothing, s", trees, "idle_s"),
                row("store the tree, s", trees, "store_s"),
                row("store the tree and sync, s", trees, "total_s"),
                row("restore the tree, s", trees, "restore_s"),
                row("store it unchanged, s", trees, "again_s"),
                row("disk, MB", trees, "disk_size", 1e6),
            ],
        ),
        by_system(
            systems,
            [
                row("store the file, s", versions, "first_s"),
                row("store it unchanged, ms", versions, "again_ms"),
                row("store the edited file, s", versions, "second_s"),
                row("store it and sync, s", versions, "total_s"),
                row("new on disk, MB", versions, "new_size", 1e6),
            ],
        ),
    ]
    if seconds:
        said = ", ".join(f"{call} {figure:.3g} s" for call, figure in seconds.items())
        parts.append(f"kacas, {plan.tiny_files:,} files of {TINY_SIZE} bytes, once: {said}.")
    parts.append(table(["target", "measured", "limit", "holds"], [target.row() for target in promised]))
    return "\n\n".join(parts)


def run(plan: Plan, output: Path) -> None:
    """Measure everything, write the JSON file and print the Markdown."""
    require_disk(plan.workdir, plan.disk_needed)
    make_inputs(plan)
    with contextlib.ExitStack() as stack:
        workers = {system: stack.enter_context(plan.worker(system)) for system in plan.systems}
        program_versions = {system: worker.version for system, worker in workers.items()}
        say("storing and restoring the tree")
        trees = measure_trees(plan, workers)
        say("storing the large file and its second version")
        versions = measure_versions(plan, workers)
    for figures in trees.values():
        figures["total_s"] = total(figures["store_s"], figures["sync_s"])
    for figures in versions.values():
        figures["total_s"] = total(figures["second_s"], figures["second_sync_s"])
    seconds: dict[str, float] = {}
    memory: dict[str, int] = {}
    if plan.tiny_files:
        say("storing and restoring the tiny files")
        seconds, memory = measure_tiny_files(plan)
    promised = targets(trees, versions, memory)
    publish(
        output,
        plan.workdir,
        plan={"files": plan.files, "size": plan.size, "rounds": plan.rounds, "tiny_files": plan.tiny_files},
        versions=program_versions,
        measured={
            "trees": trees,
            "versions": versions,
            "tiny files": {"kacas": {f"{call}_s": Series((figure,)) for call, figure in seconds.items()}},
        },
        memory=memory,
        targets=promised,
        markdown=markdown(plan, trees, versions, seconds, promised),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = options_parser("bench.directories", __doc__ or "", output="directories.json")
    parser.add_argument("--quick", action="store_true", help="400 files, 32 MiB, 2 rounds, 20,000 tiny files")
    parser.add_argument("--files", type=int, help="small files in the tree (20000)")
    parser.add_argument("--size-mib", type=int, help="size of the large file (1024)")
    parser.add_argument(
        "--million", action="store_true", help="also 1,000,000 files of 100 bytes, kacas only (12 GB, 10 minutes)"
    )
    options = parser.parse_args(arguments)
    for name in missing_commands():
        say(f"{name} is left out: it is not installed; see `make bench-peers`")
    plan = Plan(
        files=options.files or (400 if options.quick else 20_000),
        folders=10 if options.quick else 100,
        size=(options.size_mib or (32 if options.quick else 1024)) * MIB,
        rounds=options.rounds or (2 if options.quick else 5),
        tiny_files=(20_000 if options.quick else 1_000_000) if options.million else 0,
        workdir=options.workdir,
        kachery_python=kachery_python(options.kachery_python),
    )
    try:
        run(plan, options.output)
    finally:
        shutil.rmtree(plan.run, ignore_errors=True)


if __name__ == "__main__":
    main()
