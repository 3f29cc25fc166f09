"""Every comparison, part by part: JSON, tables and plots, of kacas and of whatever it is compared with.

    make bench-all                                  # all of it: about {minutes:.0f} minutes, {disk:.0f} GB of disk
    make bench-all ARGS=--quick                     # tiny sizes, a few minutes: a look, not a figure
    make bench-all ARGS="--only trees,edited"       # some parts; they replace those of the same directory's results
    make bench-all ARGS=--resume                    # only what is not there yet, or failed
    python -m bench.everything --from RESULTS.json --docs docs      # measure nothing: tables and plots again

A part that fails is named, the others are kept; Ctrl-C keeps the parts that are done. The parts:

{parts}
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import GIB
from bench.page import insert_page, markdown
from bench.plots import draw
from bench.results import PartResult, Results, ResultsError, read_part, read_results
from bench.running import PEERS, new_run, options_parser, peer, require_disk, say
from bench.worker import ROOT

PATIENCE_S = 60.0  # that a part which was interrupted may take to end


@dataclass(frozen=True)
class Part:
    """A benchmark that is run as `python -m MODULE ARGUMENTS`; all take --quick, --rounds, --dir, --json and --leave.

    peers: the options of `PEERS` that it takes. minutes: of a full run with 2 rounds. disk: what it leaves to the end, GiB.
    """

    name: str
    module: str
    said: str
    arguments: tuple[str, ...]
    peers: tuple[str, ...]
    minutes: float
    disk: float


KACHERY, ARRAYS, DVC = PEERS
# Small files last: what deletes or makes many of them slows whoever comes next.
PARTS = (
    Part(
        "arrays",
        "bench.arrays",
        "arrays stored whole, loaded warm and cold",
        ("--only", "store,load"),
        (KACHERY, ARRAYS),
        minutes=13,
        disk=12,
    ),
    Part(
        "slices",
        "bench.arrays",
        "slices of rows, and along the last axis of tiles",
        ("--only", "slices,tiles"),
        (KACHERY, ARRAYS),
        minutes=3,
        disk=3,
    ),
    Part("documents", "bench.engine", "small documents", ("--only", "documents"), (KACHERY,), minutes=0.5, disk=0.2),
    Part(
        "growth",
        "bench.growth",
        "stores of more and more chunks",
        (),
        (),
        minutes=4,
        disk=4,
    ),
    Part(
        "appended",
        "bench.directories",
        "an HDF5 file, then with more rows",
        ("--only", "appended"),
        (KACHERY, DVC),
        minutes=2,
        disk=2,
    ),
    Part(
        "edited",
        "bench.directories",
        "a large file, then with insertions and overwrites",
        ("--only", "edited"),
        (KACHERY, DVC),
        minutes=5,
        disk=6,
    ),
    Part("remote", "bench.remote", "a bucket, near and 50 ms away", (), (ARRAYS,), minutes=16, disk=12),
    Part("private", "bench.private", "a private remote beside a plain one", (), (), minutes=4, disk=10),
    Part("trees", "bench.directories", "many small files", ("--only", "trees"), (KACHERY, DVC), minutes=6, disk=9),
)
WORKING_DISK = 6.0  # GiB more, that the largest part deletes itself
QUICK_DISK = 3.0  # GiB of all that --quick makes


@dataclass(frozen=True)
class Plan:
    """What to run, and where. scratch: where everything is made, deleted at the end."""

    parts: tuple[Part, ...]
    quick: bool
    rounds: int
    own_pages: bool
    scratch: Path
    results: Path
    peers: Mapping[str, str]

    def file(self, part: Part, ending: str) -> Path:
        """What a part writes, beside the results."""
        return self.results.with_name(f"{part.name}.{ending}")

    def command(self, part: Part) -> list[str]:
        words = [sys.executable, "-m", part.module, *part.arguments, "--leave", "--rounds", str(self.rounds)]
        words += ["--dir", str(self.scratch), "--json", str(self.file(part, "json"))]
        for option in part.peers:
            if option in self.peers:
                words += [option, self.peers[option]]
        if self.quick:
            words.append("--quick")
        if self.own_pages and part.module == "bench.arrays":
            words.append("--own-pages")
        return words


def measure(plan: Plan, results: Results) -> list[str]:
    """Run every part and write the results after each. Returns the names of those that failed."""
    failed = []
    for part in plan.parts:
        results.missing.pop(part.name, None)
        say(f"\n=== {part.name}: {part.said}" + ("" if plan.quick else f" (about {part.minutes:g} minutes)"))
        try:
            results.parts[part.name] = run_part(plan, part)
        except PartFailedError as exc:
            results.missing[part.name] = str(exc)
            failed.append(part.name)
            say(f"{part.name} failed: {exc}")
        results.write(plan.results)
    return failed


class PartFailedError(Exception):
    """A part gave no figures; the message says why."""


def run_part(plan: Plan, part: Part) -> PartResult:
    """Run one part in a process of its own; its Markdown goes to a file beside its JSON."""
    begun = time.monotonic()
    with plan.file(part, "md").open("wb") as page:
        status = run_to_the_end(plan.command(part), page.fileno())
    if status:
        raise PartFailedError(f"{part.module} ended with status {status}; its error is above")
    try:
        return read_part(plan.file(part, "json"), time.monotonic() - begun)
    except ResultsError as exc:
        raise PartFailedError(str(exc)) from exc


def run_to_the_end(command: list[str], output: int) -> int:
    """Run a command; returns its status.

    An interrupt is passed on to all its processes, once, and raised again when they have ended.
    """
    process = subprocess.Popen(command, stdout=output, cwd=ROOT, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        raise


def publish(results: Results, directory: Path) -> None:
    """Make tables and plots of the results, in the directory where they are."""
    page = markdown(results, draw(results, directory / "plots"))
    (directory / "results.md").write_text(page + "\n", encoding="utf-8")
    say(f"written: {directory}/results.md and {directory}/plots")


def publish_docs(results: Results, docs: Path) -> None:
    """Put the tables into the page of the documentation, the plots and the results beside it."""
    insert_page(docs / "benchmarks.md", markdown(results, draw(results, docs / "plots")))
    results.write(docs / "plots" / "results.json")
    say(f"written: {docs}/benchmarks.md and {docs}/plots")


def parser() -> ArgumentParser:
    documentation = (__doc__ or "").format(
        minutes=sum(part.minutes for part in PARTS),
        disk=WORKING_DISK + sum(part.disk for part in PARTS),
        parts="\n".join(f"    {part.name:10} {part.said} ({part.minutes:g} minutes)" for part in PARTS),
    )
    made = options_parser(
        "bench.everything",
        documentation,
        output="everything/results.json",
        peers=tuple(PEERS),
        parts=[part.name for part in PARTS],
        rounds="2, of --quick 1",
    )
    made.add_argument("--quick", action="store_true", help="tiny sizes, 1 round; its results are kept apart")
    made.add_argument("--resume", action="store_true", help="keep the parts that the results have")
    made.add_argument(
        "--own-pages", action="store_true", help="before a cold load, drop the pages of the system's files alone"
    )
    made.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="PATH",
        help="measure nothing, make tables and plots of these results",
    )
    made.add_argument("--docs", type=Path, metavar="DIR", help="put tables and plots into the page there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    kept: Path = options.output.absolute()
    if options.quick and options.output == parser().get_default("output"):
        kept = kept.parent.with_name("everything-quick") / kept.name
    if options.source:
        results = read_results(options.source)
        if options.docs:
            publish_docs(results, options.docs)
        else:
            publish(results, options.source.parent)
        return 0
    kept.parent.mkdir(parents=True, exist_ok=True)
    results = read_results(kept) if kept.exists() else Results(quick=options.quick)
    if results.quick != options.quick:
        raise SystemExit(f"{kept} has results of {'a quick' if results.quick else 'a full'} run: give another --json")
    done = set(results.parts) if options.resume else set()
    wanted = tuple(part for part in PARTS if part.name in options.parts - done)
    options.workdir.mkdir(parents=True, exist_ok=True)
    needed = QUICK_DISK if options.quick else WORKING_DISK + sum(part.disk for part in wanted)
    require_disk(options.workdir, int(needed * GIB))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    peers = {option: path for option in PEERS if (path := peer(options, option))}
    rounds = options.rounds or (1 if options.quick else 2)
    with new_run(options.workdir.absolute(), leave=options.leave) as scratch:
        try:
            failed = measure(Plan(wanted, options.quick, rounds, options.own_pages, scratch, kept, peers), results)
            status = int(bool(failed))
        except KeyboardInterrupt:
            say(f"\ninterrupted; there are: {', '.join(results.parts) or 'no figures'}. Go on with --resume")
            status = 128 + signal.SIGINT
        say(f"{'leaving' if options.leave else 'deleting'} {scratch}")
    if results.parts:
        publish(results, kept.parent)
        if options.docs:
            publish_docs(results, options.docs)
    return status


if __name__ == "__main__":
    sys.exit(main())
