"""Directories and files that change beside cp, restic, borg, casync, DVC and a kachery-cloud loop, in one run.

    python -m bench.directories --kachery-python .venv-kachery/bin/python --dvc .venv-dvc/bin/dvc
                                                    # about 30 minutes, 45 GB of disk
    python -m bench.directories --only appended     # some parts
    python -m bench.directories --million           # and a million files of 100 bytes
    python -m bench.directories --quick             # 400 files, 32 MiB: a look, not a figure

A peer that is not installed is left out. What each is told: bench/keepers.py. How to read it: docs/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.hdf5_files import write_appended, write_hdf5
from bench.keeper_figures import measure_tiny_files, measure_trees, measure_versions
from bench.keeper_report import markdown, targets
from bench.keepers import KEEPERS, missing_commands
from bench.measure import Figures, Series
from bench.running import new_run, options_parser, peer, publish, require_disk, run_environment, say
from bench.trees import make_tree, random_edits, write_edited, write_large_file
from bench.worker import Worker
from bench.workloads import MIB

PARTS = ("trees", "edited", "appended")
SMALL_SIZES = (1024, 16 * 1024)  # bytes of a small file
TINY_SIZE = 100
INSERTIONS = OVERWRITES = 10
HDF5_SHARE = 2  # of the size of the edited file: the rows of the HDF5 file before they are compressed
APPENDED_SHARE = 16  # of those: the rows that are appended
TRUSTED_AFTER_S = 3.0  # kacas reads files again that changed within two seconds of being read


@dataclass
class Plan:
    """What to run: counts, bytes, rounds after the warm-up, parts, and where two peers are (None: leave them out)."""

    files: int
    folders: int
    size: int
    rounds: int
    parts: frozenset[str]
    tiny_files: int
    workdir: Path
    run: Path
    kachery_python: str | None
    dvc: str | None

    @property
    def systems(self) -> list[str]:
        absent = {*missing_commands()}
        absent |= {name for name, path in (("kachery-cloud", self.kachery_python), ("DVC", self.dvc)) if not path}
        return [system for system in KEEPERS if system not in absent]

    @property
    def disk_needed(self) -> int:
        """Trees are kept to the end: the source, and for each turn what is stored and restored.

        Of large files there are two inputs and one turn, kacas' open packs, and all of casync's chunks.
        """
        turns = self.rounds + 1
        trees = self.tree_size * (1 + 3 * len(self.systems) * turns) * ("trees" in self.parts)
        files = ("edited" in self.parts) + ("appended" in self.parts) / HDF5_SHARE
        return trees + int(self.size * (6 + 2 * turns) * files) + self.tiny_files * 3 * 4096

    @property
    def tree_size(self) -> int:
        """Bytes that the tree takes of the disk, in blocks of 4 KiB; about."""
        return self.files * (sum(SMALL_SIZES) // 2 + 2048)

    @property
    def hdf5_rows_size(self) -> int:
        return self.size // HDF5_SHARE

    @property
    def appended_size(self) -> int:
        return self.hdf5_rows_size // APPENDED_SHARE

    @property
    def tree(self) -> Path:
        return self.workdir / f"tree-{self.files}-in-{self.folders}"

    @property
    def tiny_tree(self) -> Path:
        return self.workdir / f"tree-{self.tiny_files}-of-{TINY_SIZE}-bytes"

    def versions(self, part: str) -> tuple[Path, Path]:
        """The file that is edited, or appended to, and what it becomes."""
        ending = "h5" if part == "appended" else "dat"
        first, second = (self.workdir / f"{part}-{self.size // MIB}-MiB-{number}.{ending}" for number in (1, 2))
        return first, second

    def worker(self, system: str) -> Worker:
        python = self.kachery_python if system == "kachery-cloud" and self.kachery_python else sys.executable
        environment = run_environment(self.run) | ({"DVC": self.dvc} if self.dvc else {})
        return Worker(system, python=python, environment=environment, program="bench.keepers")


def make_inputs(plan: Plan) -> None:
    """Make what is stored, and let it come of age."""
    if "trees" in plan.parts:
        say(f"making {plan.tree}")
        make_tree(plan.tree, files=plan.files, folders=plan.folders, sizes=SMALL_SIZES)
    if "edited" in plan.parts:
        first, second = plan.versions("edited")
        say(f"making {first} and its second version")
        write_large_file(first, plan.size)
        write_edited(first, second, random_edits(plan.size, insertions=INSERTIONS, overwrites=OVERWRITES))
    if "appended" in plan.parts:
        first, second = plan.versions("appended")
        say(f"making {first} and its second version")
        write_hdf5(first, plan.hdf5_rows_size)
        write_appended(first, second, plan.appended_size)
    if plan.tiny_files:
        say(f"making {plan.tiny_tree}")
        folders = max(1, plan.tiny_files // 1000)
        make_tree(plan.tiny_tree, files=plan.tiny_files, folders=folders, sizes=(TINY_SIZE, TINY_SIZE))
    machine.settle()
    time.sleep(TRUSTED_AFTER_S)


def measure(plan: Plan, workers: dict[str, Worker]) -> dict[str, Figures]:
    """Every part that processes already there can measure."""
    measured: dict[str, Figures] = {}
    if "trees" in plan.parts:
        say("storing and restoring the tree")
        measured["trees"] = measure_trees(plan.run / "trees", plan.tree, plan.tree_size, workers, plan.rounds)
    for part in ("edited", "appended"):
        if part in plan.parts:
            say(f"storing a large file and its second version: {part}")
            measured[part] = measure_versions(plan.run / part, plan.versions(part), workers, plan.rounds)
    return measured


def said(plan: Plan) -> dict[str, str]:
    """What was measured and how, for whoever reads the tables."""
    return {
        "how": f"{plan.rounds} rounds after a warm-up; median (min..max).",
        "trees": f"{plan.files:,} files of 1 to 16 KiB in {plan.folders} directories:",
        "edited": f"A file of {plan.size // MIB:,} MiB of noise, then with {INSERTIONS} insertions and {OVERWRITES} "
        "overwrites of 1 to 4,096 bytes:",
        "appended": f"An HDF5 file of {plan.hdf5_rows_size // MIB:,} MiB of rows (gzip), then with "
        f"{plan.appended_size / MIB:,.3g} MiB more:",
        "tiny files": f"kacas, {plan.tiny_files:,} files of {TINY_SIZE} bytes",
    }


def run(plan: Plan, output: Path) -> None:
    """Measure the parts, write the JSON file and print the Markdown."""
    require_disk(plan.workdir, plan.disk_needed)
    make_inputs(plan)
    with contextlib.ExitStack() as stack:
        workers = {system: stack.enter_context(plan.worker(system)) for system in plan.systems}
        program_versions = {system: worker.version for system, worker in workers.items()}
        measured = measure(plan, workers)
    memory: dict[str, int] = {}
    if plan.tiny_files:
        say("storing and restoring the tiny files")
        seconds, memory = measure_tiny_files(plan.run / "tiny", plan.tiny_tree, plan.worker)
        measured["tiny files"] = {"kacas": {f"{call}_s": Series((figure,)) for call, figure in seconds.items()}}
    promised = targets(measured, memory)
    publish(
        output,
        plan.workdir,
        plan={
            "files": plan.files,
            "size": plan.size,
            "hdf5_rows_size": plan.hdf5_rows_size,
            "appended_size": plan.appended_size,
            "rounds": plan.rounds,
            "parts": sorted(plan.parts),
            "tiny_files": plan.tiny_files,
        },
        versions=program_versions,
        measured=measured,
        memory=memory,
        targets=promised,
        markdown=markdown(measured, said(plan), promised),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = options_parser(
        "bench.directories",
        __doc__ or "",
        output="directories.json",
        peers=("--kachery-python", "--dvc"),
        parts=PARTS,
    )
    parser.add_argument("--quick", action="store_true", help="400 files, 32 MiB, 2 rounds, 20,000 tiny files")
    parser.add_argument("--files", type=int, help="small files in the tree (20000)")
    parser.add_argument("--size", type=int, metavar="MIB", help="size of the large file (1024), even")
    parser.add_argument(
        "--million", action="store_true", help="also 1,000,000 files of 100 bytes, kacas only (12 GB, 10 minutes)"
    )
    options = parser.parse_args(arguments)
    for name in missing_commands():
        say(f"{name}: left out; it is not installed, see `make bench-peers`")
    with new_run(options.workdir, leave=options.leave) as directory:
        plan = Plan(
            files=options.files or (400 if options.quick else 20_000),
            folders=10 if options.quick else 100,
            size=(options.size or (32 if options.quick else 1024)) * MIB,
            rounds=options.rounds or (2 if options.quick else 5),
            parts=options.parts,
            tiny_files=(20_000 if options.quick else 1_000_000) if options.million else 0,
            workdir=options.workdir,
            run=directory,
            kachery_python=peer(options, "--kachery-python"),
            dvc=peer(options, "--dvc"),
        )
        run(plan, options.output)


if __name__ == "__main__":
    main()
