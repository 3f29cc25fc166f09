"""Arrays beside kachery-cloud, np.save, zarr, icechunk, h5py and SHA-1: time, disk, slices and memory, in one run.

    python -m bench.arrays --kachery-python .venv-kachery/bin/python --peers-python .venv-peers/bin/python
                                                    # 3 rounds: about 25 minutes, 40 GB of disk
    python -m bench.arrays --quick                  # 64 MiB, no stream: a look, not a figure
    python -m bench.arrays --only slices,tiles      # some parts

A peer that is not installed is left out. What each is told: bench/array_systems.py. How to read it: docs/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.array_figures import (
    Slices,
    Workers,
    measure_maps,
    measure_memory,
    measure_slices,
    measure_stream,
    measure_whole,
    system_of,
)
from bench.array_report import CODEC_WORKLOADS, COMPRESSING, markdown, targets
from bench.array_systems import SYSTEMS
from bench.measure import Figures, Series
from bench.running import new_run, options_parser, peer, publish, require_disk, run_environment, say
from bench.worker import Worker
from bench.workloads import (
    CHANNELS,
    GIB,
    MIB,
    field_block,
    imaging_block,
    random_block,
    recording_block,
    write_npy,
)
from kacas.codec_choice import EXPLICIT, GOALS

PARTS = ("store", "load", "map", "slices", "tiles", "codecs", "memory", "stream")
WORKLOADS = {"recording": recording_block, "random": random_block, "field": field_block, "imaging": imaging_block}
COMPRESSIBLE = ("kacas, auto", "kacas, fast", "kachery-cloud", "numpy", *COMPRESSING, "h5py, contiguous", "sha1")
CONTENDERS = {
    "recording": COMPRESSIBLE,
    "random": (
        "kacas, auto", "kacas, raw", "kachery-cloud", "numpy", "zarr, Blosc", "icechunk, Blosc", "h5py, contiguous", "sha1",
    ),
    "field": COMPRESSIBLE,
    "imaging": COMPRESSIBLE,
}  # fmt: skip
ONCE = ("h5py, gzip",)  # beside what can be compressed: a turn takes up to a minute, whether it is warmed up or not
KACAS_CODECS = (*GOALS, *EXPLICIT)
BY_CODEC = (*(f"kacas, {codec}" for codec in KACAS_CODECS), "zarr, Blosc", "h5py, Blosc", "numpy", "sha1")
SHARES = {"field": 4, "imaging": 4}  # of the size of the others
CODECS_SHARE = 8  # the same, by codec: there are many of them

CHUNK = (1024, CHANNELS)  # 256 KiB of int16, which is where kacas cuts these arrays by itself
TILE = (16384, 8)  # the same, for columns
ROW_SLICES = {
    "anywhere": Slices(axis=0, width=256, count=1000),
    "different chunks": Slices(axis=0, width=256, count=1000, window=2 * CHUNK[0]),
}
COLUMN_SLICES = {
    "single columns": Slices(axis=1, width=1, count=8, window=TILE[1]),
    "4 columns": Slices(axis=1, width=4, count=8, window=2 * TILE[1]),
}


@dataclass
class Plan:
    """What to run: bytes, rounds after the warm-up, parts, and which Pythons hold the peers (None: leave them out).

    drop_all: whether a cold load drops the page cache of the whole machine, too.
    """

    size: int
    rounds: int
    parts: frozenset[str]
    stream_size: int
    drop_all: bool
    workdir: Path
    run: Path
    kachery_python: str | None
    peers_python: str | None
    absent: frozenset[str]

    def there(self, contenders: Iterable[str]) -> list[str]:
        return [one for one in contenders if not {one, system_of(one)} & self.absent]

    @property
    def workloads(self) -> list[str]:
        """The arrays that are needed."""
        names = ["recording"] if self.parts - {"codecs", "stream"} else []
        if {"store", "load"} & self.parts:
            names += [name for name in CONTENDERS if name not in names]
        if "codecs" in self.parts:
            names += [f"{name} by codec" for name in CODEC_WORKLOADS]
        return names

    def size_of(self, workload: str) -> int:
        return self.size // (CODECS_SHARE if workload.endswith(" by codec") else SHARES.get(workload, 1))

    @property
    def disk_needed(self) -> int:
        """The inputs, one turn, what zarr and icechunk keep to the end, and the stream."""
        turns = self.rounds + 1
        zarrs = 3 * turns * (1 + sum(1 / share for share in SHARES.values())) * bool({"store", "load"} & self.parts)
        zarrs += 2 * len({"slices", "tiles"} & self.parts)
        zarrs += turns * len(CODEC_WORKLOADS) / CODECS_SHARE * ("codecs" in self.parts)
        stream = self.stream_size if "stream" in self.parts else 0
        return int(sum(map(self.size_of, self.workloads)) + self.size * (5 + 0.65 * zarrs) + 0.75 * stream) + 256 * MIB

    def array_path(self, workload: str) -> Path:
        name = workload.partition(" ")[0]
        return self.workdir / f"{name}-{self.size_of(workload) // MIB}-MiB.npy"

    def worker(self, system: str) -> Worker:
        pythons = {
            "kachery-cloud": self.kachery_python,
            **dict.fromkeys(("zarr", "icechunk", "h5py"), self.peers_python),
        }
        return Worker(
            system,
            python=pythons.get(system) or sys.executable,
            environment=run_environment(self.run),
            program="bench.array_worker",
        )


def absent_peers(kachery: str | None, peers: str | None) -> list[str]:
    """The systems and contenders that cannot be measured; each is said."""
    absent = [] if kachery else ["kachery-cloud"]
    needs = {
        "zarr": ("zarr",),
        "icechunk": ("icechunk", "zarr"),
        "h5py": ("h5py",),
        "h5py, Blosc": ("h5py", "hdf5plugin"),
    }
    for name, modules in needs.items():
        command = f"import {', '.join(modules)}"
        if not peers or subprocess.run([peers, "-c", command], check=False, capture_output=True).returncode:
            absent.append(name)
            say(f"{name}: left out; {' and '.join(modules)} cannot be imported there")
    return absent


def measure_arrays(plan: Plan, workers: Workers) -> dict[str, Figures]:
    """Every part that processes already there can measure."""
    measured: dict[str, Figures] = {}
    recording = plan.array_path("recording")
    if {"store", "load"} & plan.parts:
        for name, contenders in CONTENDERS.items():
            say(f"storing and loading: {name}")
            load, once = "load" in plan.parts, ONCE if contenders is COMPRESSIBLE else ()
            measured[name] = measure_whole(
                plan.run / name,
                plan.array_path(name),
                plan.there(contenders),
                workers,
                plan.rounds,
                once=plan.there(once),
                load=load,
                cold=machine.drop_page_cache if plan.drop_all else own_pages_only,
            )
    if "map" in plan.parts:
        say("mapping the recording")
        measured["map"] = measure_maps(plan.run / "map", recording, ("kacas, auto", "numpy"), workers, plan.rounds)
    h5py = "h5py, lzf" if "h5py, Blosc" in plan.absent else "h5py, Blosc"
    for part, kinds, chunks, kacas_chunks in (
        ("slices", ROW_SLICES, CHUNK, None),
        ("tiles", COLUMN_SLICES, TILE, TILE),
    ):
        if part in plan.parts:
            say(f"reading {part} of the recording")
            peers = dict.fromkeys(plan.there(("zarr, Blosc", "icechunk, Blosc", h5py)), chunks)
            stored_as = {"kacas, bits-lz4": kacas_chunks, **peers, "numpy": None}
            measured[part] = measure_slices(plan.run / part, recording, stored_as, kinds, workers, plan.rounds)
    if "codecs" in plan.parts:
        for workload in (f"{name} by codec" for name in CODEC_WORKLOADS):
            say(f"storing and loading: {workload}")
            measured[workload] = measure_whole(
                plan.run / workload.replace(" ", "-"),
                plan.array_path(workload),
                plan.there(BY_CODEC),
                workers,
                plan.rounds,
                load=True,
                cold=None,
            )
    return measured


def run(plan: Plan, output: Path) -> None:
    """Measure everything, write the JSON file and print the Markdown."""
    require_disk(plan.workdir, plan.disk_needed)
    for workload in plan.workloads:
        say(f"making {plan.array_path(workload)}")
        write_npy(plan.array_path(workload), WORKLOADS[workload.partition(" ")[0]], plan.size_of(workload))
    with contextlib.ExitStack() as stack:
        workers = {system: stack.enter_context(plan.worker(system)) for system in plan.there(SYSTEMS)}
        versions = {system: worker.version for system, worker in workers.items()}
        measured = measure_arrays(plan, workers)
    memory: dict[str, int] = {}
    if "memory" in plan.parts:
        say("watching memory")
        memory |= measure_memory(plan.run / "memory", plan.array_path("recording"), plan.worker)
    if "stream" in plan.parts and plan.stream_size:
        say("streaming")
        seconds, grown = measure_stream(plan.run / "stream", plan.stream_size, plan.worker)
        measured["stream"] = {"kacas, auto": {what: Series((figure,)) for what, figure in seconds.items()}}
        memory[f"a stream of {plan.stream_size / GIB:.3g} GiB"] = grown
    promised = targets(measured, memory)
    publish(
        output,
        plan.workdir,
        plan={
            "sizes": {name: plan.size_of(name) for name in plan.workloads},
            "rounds": plan.rounds,
            "parts": sorted(plan.parts),
            "stream_size": plan.stream_size,
            "pages_dropped": "all" if plan.drop_all else "own",
        },
        versions=versions,
        measured=measured,
        memory=memory,
        targets=promised,
        markdown=markdown(measured, memory, said(plan), promised),
    )


def own_pages_only() -> None:
    """Nothing more: a system's own files are dropped before."""


def said(plan: Plan) -> str:
    """How it was measured, for whoever reads the tables."""
    cold = "all of them" if plan.drop_all else "those of the system's files alone (posix_fadvise)"
    budget = os.environ.get("KACAS_MEMORY", "its default")
    return (
        f"{plan.size // MIB:,} MiB of int16, {plan.size_of('field') // MIB:,} MiB of field and imaging, by codec "
        f"{plan.size // CODECS_SHARE // MIB:,} MiB of each; {plan.rounds} rounds "
        f"after a warm-up; median (min..max). Cached pages dropped before a cold load: {cold}. KACAS_MEMORY: {budget}."
    )


def main(arguments: list[str] | None = None) -> None:
    parser = options_parser(
        "bench.arrays",
        __doc__ or "",
        output="arrays.json",
        peers=("--kachery-python", "--peers-python"),
        parts=PARTS,
    )
    parser.add_argument("--quick", action="store_true", help="64 MiB, 2 rounds, no stream")
    parser.add_argument("--size", type=int, metavar="MIB", help="size of each array (1024), a multiple of 8")
    parser.add_argument("--stream", type=float, metavar="GIB", help="size of the stream (16); 0 leaves it out")
    parser.add_argument(
        "--own-pages", action="store_true", help="before a cold load, drop the pages of the system's files alone"
    )
    options = parser.parse_args(arguments)
    if options.stream is None:
        options.stream = 0 if options.quick else 16
    kachery_python, peers_python = peer(options, "--kachery-python"), peer(options, "--peers-python")
    with new_run(options.workdir, leave=options.leave) as directory:
        plan = Plan(
            size=(options.size or (64 if options.quick else 1024)) * MIB,
            rounds=options.rounds or (2 if options.quick else 5),
            parts=options.parts,
            stream_size=int(options.stream * GIB),
            drop_all=not options.own_pages and machine.may_drop_page_cache(),
            workdir=options.workdir,
            run=directory,
            kachery_python=kachery_python,
            peers_python=peers_python,
            absent=frozenset(absent_peers(kachery_python, peers_python)),
        )
        run(plan, options.output)


if __name__ == "__main__":
    main()
