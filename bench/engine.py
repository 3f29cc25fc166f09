"""The engine's figures beside kachery-cloud and np.save: time, disk and memory, in one run.

    python -m bench.engine --kachery-python .venv-kachery/bin/python        # about 10 minutes, 45 GB of disk
    python -m bench.engine --quick                                          # 64 MiB: a look, not a figure
    python -m bench.engine --only documents                                 # some of arrays, documents, memory

What a peer leaves to a later sync is measured and shown apart. See docs/benchmarks.md for how to read it.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.measure import Figures, PeakMemory, Series, paired, ratio, total
from bench.report import Target, by_system, scaled, table
from bench.running import new_run, options_parser, peer, publish, require_disk, run_environment, say
from bench.worker import Worker
from bench.workloads import GIB, MIB, random_block, recording_block, write_npy

PARTS = ("arrays", "documents", "memory")
ARRAYS = {"recording": recording_block, "random": random_block}
DOCUMENT_SIZE = 1024
MEMORY_LIMIT_MIB = 256


@dataclass
class Plan:
    """What to run: bytes, rounds after the warm-up, parts, and which Python holds the peer (None: leave it out)."""

    size: int
    rounds: int
    documents: int
    parts: frozenset[str]
    workdir: Path
    run: Path
    kachery_python: str | None

    @property
    def systems(self) -> list[str]:
        return ["kacas", *(["kachery-cloud"] if self.kachery_python else []), "numpy", "sha1"]

    @property
    def arrays(self) -> list[str]:
        """The arrays that are needed."""
        if "arrays" in self.parts:
            return list(ARRAYS)
        return ["recording"] if "memory" in self.parts else []

    @property
    def disk_needed(self) -> int:
        return int(self.size * (2 + 2 * 3 * (self.rounds + 1) + 4)) * bool(self.arrays) + 64 * MIB

    def array_path(self, name: str) -> Path:
        return self.workdir / f"{name}-{self.size // MIB}-MiB.npy"

    def worker(self, system: str) -> Worker:
        python = self.kachery_python if system == "kachery-cloud" and self.kachery_python else sys.executable
        return Worker(system, python=python, environment=run_environment(self.run))


def measure_array(plan: Plan, name: str, workers: dict[str, Worker]) -> Figures:
    """Store and load one array with every system in turn."""
    for worker in workers.values():
        worker.call("array", path=str(plan.array_path(name)))

    def turn_of(worker: Worker) -> Callable[[int], dict[str, float]]:
        def turn(number: int) -> dict[str, float]:
            worker.call("open", directory=str(plan.run / name / worker.system / str(number)))
            machine.touch_memory(2 * plan.size)
            stored = worker.call("store")
            synced = worker.call("sync")
            figures = {"store_s": stored["seconds"], "sync_s": synced["seconds"]}
            if worker.system != "sha1":
                figures["disk_size"] = synced["disk"]
                machine.touch_memory(plan.size)
                figures["load_s"] = worker.call("load", key=stored["key"])["seconds"]
                worker.call("leave")
            return figures

        return turn

    measured = paired(plan.rounds, {system: turn_of(worker) for system, worker in workers.items()})
    for figures in measured.values():
        figures["total_s"] = total(figures["store_s"], figures["sync_s"])
    return measured


def measure_documents(plan: Plan, workers: dict[str, Worker]) -> Figures:
    """Small documents: kacas in a batch and singly, kachery-cloud singly. Figures: documents per second."""

    def turn_of(worker: Worker, *, batch: bool) -> Callable[[int], dict[str, float]]:
        def turn(number: int) -> dict[str, float]:
            directory = plan.run / "documents" / f"{worker.system}-{batch}" / str(number)
            worker.call("open", directory=str(directory))
            machine.touch_memory(GIB // 4)
            stored = worker.call("documents", count=plan.documents, size=DOCUMENT_SIZE, seed=number, batch=batch)
            synced = worker.call("sync")
            return {
                "per_s": plan.documents / stored["seconds"],
                "synced_per_s": plan.documents / (stored["seconds"] + synced["seconds"]),
            }

        return turn

    turns = {"kacas, in a batch": turn_of(workers["kacas"], batch=True)}
    turns["kacas, singly"] = turn_of(workers["kacas"], batch=False)
    if "kachery-cloud" in workers:
        turns["kachery-cloud"] = turn_of(workers["kachery-cloud"], batch=False)
    return paired(plan.rounds, turns)


def measure_memory(plan: Plan) -> dict[str, int]:
    """Peak anonymous memory of kacas beyond the caller's array, bytes, each call in a new process."""
    path = str(plan.array_path("recording"))
    grown: dict[str, int] = {}

    def watch(call: str, request: str, *, array: bool, result_size: int = 0, **arguments: object) -> dict[str, Any]:
        with plan.worker("kacas") as worker:
            worker.call("open", directory=str(plan.run / "memory"))
            if array:
                worker.call("array", path=path)
            with PeakMemory(worker.pid) as peak:
                answer = worker.call(request, **arguments)
        grown[call] = max(0, peak.growth - result_size)
        return answer

    key = watch("store_npy", "store", array=True)["key"]
    watch("load_npy", "load_only", array=False, result_size=plan.size, key=key)
    watch("load_file", "load_file", array=False, key=key)
    shutil.rmtree(plan.run / "memory")  # else store_file would find every chunk there
    watch("store_file", "store_file", array=False, path=path)
    return grown


def targets(measured: Mapping[str, Figures], memory: Mapping[str, int]) -> list[Target]:
    """What was promised of the parts that were measured."""

    def against(name: str, what: str) -> float | None:
        ours, theirs = measured[name]["kacas"], measured[name].get("kachery-cloud")
        return ratio(ours[what], theirs[what]) if theirs else None

    found = []
    if "recording" in measured:
        said = "{} / kachery-cloud without sync".format
        found += [
            Target(said("store recording, durable"), against("recording", "store_s"), 1.5, " ×"),
            Target("disk of recording / kachery-cloud", against("recording", "disk_size"), 0.7, " ×"),
            Target(said("store random data, durable"), against("random", "store_s"), 1.0, " ×"),
        ]
    if "documents" in measured:
        for how, limit in (("in a batch", 10_000), ("singly", 500)):
            rate = measured["documents"][f"kacas, {how}"]["per_s"].median
            found.append(Target(f"store_json of 1 KiB, {how}, durable", rate, limit, " /s", at_least=True))
    for call, size in memory.items():
        found.append(Target(f"{call}: anonymous memory beyond the array", size / MIB, MEMORY_LIMIT_MIB, " MiB"))
    return found


def arrays_table(arrays: Mapping[str, Figures]) -> str:
    """One row per array and figure, one column per system."""
    rows: list[tuple[str, dict[str, Series | None]]] = []
    for name, figures in arrays.items():
        rows += [
            (f"store {name}, s", scaled(figures, "store_s")),
            (f"store {name} and sync, s", scaled(figures, "total_s")),
            (f"load {name}, s", scaled(figures, "load_s")),
            (f"disk of {name}, MB", scaled(figures, "disk_size", 1e6)),
        ]
    return by_system(list(next(iter(arrays.values()))), rows)


def documents_table(documents: Figures) -> str:
    """Documents per second, without a sync after them and with it."""
    columns = (("per_s", "store_json of 1 KiB, /s"), ("synced_per_s", "the same and sync, /s"))
    return by_system(list(documents), [(said, scaled(documents, what)) for what, said in columns])


def markdown(plan: Plan, measured: Mapping[str, Figures], promised: Sequence[Target]) -> str:
    """The tables of docs/benchmarks.md."""
    parts = [f"{plan.size // MIB} MiB of int16; {plan.rounds} rounds after a warm-up; median (min..max)."]
    if arrays := {name: measured[name] for name in ARRAYS if name in measured}:
        parts.append(arrays_table(arrays))
    if "documents" in measured:
        parts.append(documents_table(measured["documents"]))
    parts.append(table(["target", "measured", "limit", "holds"], [target.row() for target in promised]))
    return "\n\n".join(parts)


def measure(plan: Plan, workers: dict[str, Worker]) -> dict[str, Figures]:
    """Every part that processes already there can measure."""
    measured: dict[str, Figures] = {}
    for name in ARRAYS if "arrays" in plan.parts else ():
        say(f"storing and loading {name}")
        measured[name] = measure_array(plan, name, workers)
    if "documents" in plan.parts:
        say("storing small documents")
        measured["documents"] = measure_documents(plan, workers)
    return measured


def run(plan: Plan, output: Path) -> None:
    """Measure the parts, write the JSON file and print the Markdown."""
    require_disk(plan.workdir, plan.disk_needed)
    for name in plan.arrays:
        say(f"making {plan.array_path(name)}")
        write_npy(plan.array_path(name), ARRAYS[name], plan.size)
    with contextlib.ExitStack() as stack:
        workers = {system: stack.enter_context(plan.worker(system)) for system in plan.systems}
        versions = {system: worker.version for system, worker in workers.items()}
        measured = measure(plan, workers)
    memory: dict[str, int] = {}
    if "memory" in plan.parts:
        say("watching memory")
        memory = measure_memory(plan)
    promised = targets(measured, memory)
    publish(
        output,
        plan.workdir,
        plan={
            "size": plan.size,
            "rounds": plan.rounds,
            "parts": sorted(plan.parts),
            "documents": plan.documents,
            "document_size": DOCUMENT_SIZE,
        },
        versions=versions,
        measured=measured,
        memory=memory,
        targets=promised,
        markdown=markdown(plan, measured, promised),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = options_parser("bench.engine", __doc__ or "", output="engine.json", parts=PARTS)
    parser.add_argument("--quick", action="store_true", help="64 MiB, 2 rounds, 200 documents")
    parser.add_argument("--size", type=int, metavar="MIB", help="size of each array (1024)")
    options = parser.parse_args(arguments)
    with new_run(options.workdir, leave=options.leave) as directory:
        plan = Plan(
            size=(options.size or (64 if options.quick else 1024)) * MIB,
            rounds=options.rounds or (2 if options.quick else 5),
            documents=200 if options.quick else 1000,
            parts=options.parts,
            workdir=options.workdir,
            run=directory,
            kachery_python=peer(options, "--kachery-python"),
        )
        run(plan, options.output)


if __name__ == "__main__":
    main()
