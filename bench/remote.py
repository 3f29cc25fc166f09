"""A bucket of SeaweedFS beside bare obstore, boto3, zarr, icechunk and one object per file: near, then 50 ms away.

    python -m bench.remote --peers-python .venv-peers/bin/python    # about 16 minutes, 15 GB of disk
    python -m bench.remote --quick                                  # 64 MiB, 400 files: a look, not a figure
    python -m bench.remote --only arrays,slices                     # some parts

A peer that is not installed is left out. What each is told: bench/remote_systems.py. How to read it: docs/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.measure import Figures, PeakMemory, Series, paired
from bench.remote_places import FAR, NEAR, Place, places
from bench.remote_report import markdown, targets
from bench.remote_systems import EVERYBODY, NEEDS, OURS
from bench.running import new_run, options_parser, peer, publish, require_disk, run_environment, say
from bench.trees import make_tree
from bench.worker import Worker
from bench.workloads import GIB, MIB, recording_block, write_npy

PARTS = ("arrays", "slices", "trees")
SLICE_ROWS = 256  # 64 KiB
REPEATED = 64 * MIB  # of which the large array is made
IN_TREES = ("kacas", "one object")
IN_SLICES = ("kacas", "zarr with s3fs", "icechunk")
STORED_SHARE = 0.57  # of an array, if kacas does not say it: bits-lz4 of the recording


@dataclass
class Plan:
    """What to run: bytes, counts, rounds (before those of arrays, near, there is a warm-up), parts, the peers' Python."""

    size: int
    large_size: int
    files: int
    rounds: int
    parts: frozenset[str]
    workdir: Path
    run: Path
    peers_python: str | None
    absent: frozenset[str]

    def there(self, systems: tuple[str, ...]) -> list[str]:
        return [one for one in systems if one not in self.absent]

    @property
    def disk_needed(self) -> int:
        """The inputs, the bucket of one turn, kacas' stores of all turns, and what is pulled of trees."""
        turns = 2 * self.rounds + 1
        return int(self.size * (5.5 + 1.3 * turns)) + self.files * 12 * 1024 * 4 * (self.rounds + 1) + GIB

    @property
    def array_path(self) -> Path:
        return self.workdir / f"recording-{self.size // MIB}-MiB.npy"

    @property
    def small_array_path(self) -> Path:
        return self.workdir / f"recording-{REPEATED // MIB}-MiB.npy"

    @property
    def tree(self) -> Path:
        return self.workdir / f"tree-{self.files}-in-{max(1, self.files // 200)}"

    def told(self) -> dict[str, object]:
        """As it stands in the results."""
        return {
            "size": self.size,
            "large_size": self.large_size,
            "files": self.files,
            "rounds": self.rounds,
            "parts": sorted(self.parts),
        }

    def worker(self, system: str) -> Worker:
        python = self.peers_python if system in NEEDS and self.peers_python else sys.executable
        return Worker(system, python=python, environment=run_environment(self.run), program="bench.remote_worker")


class Turns:
    """What a system does in its turn, at one place."""

    def __init__(self, plan: Plan, place: Place, workers: dict[str, Worker]) -> None:
        self._plan, self._place, self._workers = plan, place, workers
        self._stored = int(plan.size * STORED_SHARE)
        self._changed = self._stored // 50
        self._numbers = itertools.count()

    def array(self, system: str) -> Callable[[int], dict[str, float]]:
        """New, again, with 1 % changed, and back to a cold store."""

        def turn(number: int) -> dict[str, float]:
            worker, bucket = self._workers[system], self._open(system)
            worker.call("take", path=str(self._plan.array_path))
            machine.touch_memory(2 * self._plan.size)
            figures = self._timed(system, "push", stored_size=self._stored)
            new_size = self._place.stored(bucket)
            if system in OURS:
                self._stored = new_size
            figures |= {"stored": new_size}
            if system not in ("bare obstore", "boto3"):
                figures |= self._timed(system, "push", "again", stored_size=0)
            worker.call("change")
            figures |= self._timed(system, "push", "changed", stored_size=self._changed)
            figures["changed_stored"] = self._place.stored(bucket) - new_size
            if system in OURS:
                self._changed = max(1, int(figures["changed_stored"]))
            worker.call("cold")
            machine.touch_memory(2 * self._plan.size)
            figures |= self._timed(system, "pull")
            self._place.delete(bucket)
            return figures

        return turn

    def tree(self, system: str) -> Callable[[int], dict[str, float]]:
        """Pushed, and pulled into a directory; by kacas also into a cold store alone."""

        def turn(number: int) -> dict[str, float]:
            worker, bucket = self._workers[system], self._open(system)
            target = self._plan.run / f"pulled-{self._place.name.replace(' ', '-')}-{system.replace(' ', '-')}-{number}"
            figures = self._timed(system, "push_tree", tree=str(self._plan.tree))
            if system in OURS:
                worker.call("cold")
                figures |= self._timed(system, "fetch_tree", tree=str(self._plan.tree))
            worker.call("cold")
            figures |= self._timed(system, "pull_tree", tree=str(self._plan.tree), target=str(target))
            self._place.delete(bucket)
            return figures

        return turn

    def slices(self, system: str) -> dict[str, float]:
        """64 KiB of a large array by a store that knows nothing of it, then 64 KiB nearby, and 64 KiB far from them."""
        worker = self._workers[system]
        bucket = self._open(system)
        if system in OURS:
            worker.call("take", path=str(self._plan.small_array_path))
            period = REPEATED // (128 * 2)
            rows = int(worker.call("push_large", size=self._plan.large_size)["rows"])
        else:
            worker.call("take", path=str(self._plan.array_path))
            rows = period = self._plan.size // (128 * 2)
            worker.call("push", stored_size=0)
        worker.call("cold")
        start = rows // 3 // SLICE_ROWS * SLICE_ROWS
        figures: dict[str, float] = {}
        for what, first in (("cold", start), ("nearby", start + SLICE_ROWS), ("elsewhere", 2 * start)):
            figures |= self._timed(system, "rows", what, start=first, count=SLICE_ROWS, period=period)
        self._place.delete(bucket)
        return figures

    def _open(self, system: str) -> dict[str, str]:
        bucket = self._place.new_bucket()
        directory = self._plan.run / f"{system.replace(' ', '-')}-{next(self._numbers)}-{self._place.name[:2]}"
        self._workers[system].call("open", bucket=bucket, directory=str(directory))
        return bucket

    def _timed(self, system: str, request: str, what: str = "", **arguments: object) -> dict[str, float]:
        """Seconds, processor's seconds, memory beside what the caller has then, and where somebody counts requests and bytes."""
        self._place.counted()
        worker, name = self._workers[system], what or request
        with PeakMemory(worker.pid) as peak:
            answer = worker.call(request, **arguments)
        figures = {
            f"{name}_s": float(answer["seconds"]),
            f"{name}_cpu_s": float(answer["cpu"]),
            f"{name}_memory": max(0, peak.growth - int(answer.get("held", 0))),
        }
        return figures | {f"{name}_{counted}": value for counted, value in self._place.counted().items()}


def absent_peers(peers: str | None) -> list[str]:
    """Those that cannot be measured; each is said."""
    absent = []
    for name, modules in NEEDS.items():
        found = (
            peers
            and not subprocess.run([peers, "-c", f"import {modules}"], check=False, capture_output=True).returncode
        )
        if not found:
            absent.append(name)
            say(f"{name}: left out; {modules.replace(', ', ' and ')} cannot be imported there")
    return absent


def measure(plan: Plan, place: Place, workers: dict[str, Worker]) -> dict[str, Figures]:
    """All parts, at one place."""
    measured: dict[str, Figures] = {}
    turns = Turns(plan, place, workers)
    near = place.name == NEAR
    if "arrays" in plan.parts:
        say(f"pushing and pulling an array: {place.name}")
        systems = {system: turns.array(system) for system in plan.there(EVERYBODY)}
        measured[f"arrays, {place.name}"] = paired(plan.rounds, systems, warm_up=int(near))
    if "slices" in plan.parts:
        say(f"reading slices: {place.name}")
        measured[f"slices, {place.name}"] = {
            system: {what: Series((value,)) for what, value in turns.slices(system).items()}
            for system in plan.there(IN_SLICES)
        }
    if "trees" in plan.parts:
        say(f"pushing and pulling small files: {place.name}")
        trees = {system: turns.tree(system) for system in IN_TREES}
        measured[f"trees, {place.name}"] = paired(plan.rounds if near else 1, trees, warm_up=0)
    return measured


def run(plan: Plan, output: Path) -> None:
    """Measure everything, write the JSON file and print the Markdown."""
    require_disk(plan.workdir, plan.disk_needed)
    say("making the inputs")
    write_npy(plan.array_path, recording_block, plan.size)
    write_npy(plan.small_array_path, recording_block, REPEATED)
    make_tree(plan.tree, files=plan.files, folders=max(1, plan.files // 200), sizes=(1024, 16 * 1024))
    machine.settle()
    measured: dict[str, Figures] = {}
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(places(plan.run))
        workers = {system: stack.enter_context(plan.worker(system)) for system in plan.there(EVERYBODY)}
        versions = {system: worker.version for system, worker in workers.items()}
        for name in (NEAR, FAR):
            measured |= measure(plan, servers[name], workers)
    promised = targets(measured)
    publish(
        output,
        plan.workdir,
        plan=plan.told(),
        versions=versions,
        measured=measured,
        memory={},
        targets=promised,
        markdown=markdown(measured, promised),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = options_parser(
        "bench.remote", __doc__ or "", output="remote.json", peers=("--peers-python",), parts=PARTS, rounds="2"
    )
    parser.add_argument("--quick", action="store_true", help="64 MiB, a large array of 1 GiB, 400 files, 1 round")
    parser.add_argument("--size", type=int, metavar="MIB", help="size of the array (1024)")
    options = parser.parse_args(arguments)
    peers_python = peer(options, "--peers-python")
    with new_run(options.workdir, leave=options.leave) as directory:
        plan = Plan(
            size=(options.size or (64 if options.quick else 1024)) * MIB,
            large_size=(1 if options.quick else 16) * GIB,
            files=400 if options.quick else 20_000,
            rounds=options.rounds or (1 if options.quick else 2),
            parts=options.parts,
            workdir=options.workdir,
            run=directory,
            peers_python=peers_python,
            absent=frozenset(absent_peers(peers_python)),
        )
        run(plan, options.output)


if __name__ == "__main__":
    main()
