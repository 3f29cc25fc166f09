"""A private remote beside a plain one, in the same bucket server and the same run, and encrypted URIs.

    python -m bench.private                 # about 5 minutes, 20 GB of disk
    python -m bench.private --quick         # 64 MiB, 400 files: a look, not a figure
    python -m bench.private --only uris     # some parts

Both are kacas; what differs is that the second encrypts whatever leaves the host. How to read it: docs/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from bench import machine
from bench.measure import Figures, Series, paired
from bench.private_report import markdown, targets
from bench.private_worker import GROUP, KINDS
from bench.remote import REPEATED, Plan, Turns
from bench.remote_places import FAR, NEAR, Place, places
from bench.remote_systems import OURS
from bench.running import new_run, options_parser, publish, require_disk, run_environment, say
from bench.trees import make_tree
from bench.worker import Worker
from bench.workloads import GIB, MIB, recording_block, write_npy
from kacas_remote.groups.verbs import create_group
from kacas_remote.identity import own_or_new

PARTS = ("arrays", "slices", "trees", "uris")
URIS = 2000  # a turn
URIS_WORKER = "bench.private_worker"


def disk_needed(plan: Plan) -> int:
    """The inputs, the buckets of one turn each, the stores of all turns of both, and what is pulled of trees."""
    turns = len(OURS) * (plan.rounds + 1)
    return int(plan.size * (4 + 1.3 * turns)) + turns * plan.files * 2 * 12 * 1024 + GIB


def make_group(run: Path) -> None:
    """An identity, and a group of which it is the only member: what workers find that have `run_environment`."""
    environment = run_environment(run)
    own_or_new(environment)
    create_group(GROUP, at=f"file:{run / 'record'}", environment=environment)


def measure(plan: Plan, servers: dict[str, Place], workers: dict[str, Worker]) -> dict[str, Figures]:
    """All parts but `uris`: near, where time is what counts, and slices far away, where requests are."""
    measured: dict[str, Figures] = {}
    near, far = (Turns(plan, servers[name], workers) for name in (NEAR, FAR))
    if "arrays" in plan.parts:
        say("pushing and pulling an array")
        measured["arrays"] = paired(plan.rounds, {system: near.array(system) for system in OURS})
    if "slices" in plan.parts:
        say("reading slices")
        measured["slices"] = {
            system: {what: Series((value,)) for what, value in far.slices(system).items()} for system in OURS
        }
    if "trees" in plan.parts:
        say("pushing and pulling small files")
        measured["trees"] = paired(plan.rounds, {system: near.tree(system) for system in OURS}, warm_up=0)
    return measured


def measure_uris(plan: Plan) -> Figures:
    """URIs a second, by what they say."""
    say("encrypting and decrypting URIs")

    def turn_of(kind: str) -> Callable[[int], dict[str, float]]:
        return lambda _: worker.call("uris", kind=kind, count=URIS)

    with Worker("kacas", python=sys.executable, environment=run_environment(plan.run), program=URIS_WORKER) as worker:
        return paired(5, {kind: turn_of(kind) for kind in KINDS})


def run(plan: Plan, output: Path) -> None:
    """Measure everything, write the JSON file and print the Markdown."""
    require_disk(plan.workdir, disk_needed(plan))
    say("making the inputs")
    write_npy(plan.array_path, recording_block, plan.size)
    write_npy(plan.small_array_path, recording_block, REPEATED)
    make_tree(plan.tree, files=plan.files, folders=max(1, plan.files // 200), sizes=(1024, 16 * 1024))
    make_group(plan.run)
    machine.settle()
    measured: dict[str, Figures] = {}
    versions: dict[str, str] = {}
    if plan.parts - {"uris"}:
        with contextlib.ExitStack() as stack:
            servers = stack.enter_context(places(plan.run))
            workers = {system: stack.enter_context(plan.worker(system)) for system in OURS}
            versions = {system: worker.version for system, worker in workers.items()}
            measured |= measure(plan, servers, workers)
    if "uris" in plan.parts:
        measured["uris"] = measure_uris(plan)
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
    parser = options_parser("bench.private", __doc__ or "", output="private.json", peers=(), parts=PARTS, rounds="3")
    parser.add_argument("--quick", action="store_true", help="64 MiB, a large array of 1 GiB, 400 files, 1 round")
    parser.add_argument("--size", type=int, metavar="MIB", help="size of the array (1024)")
    options = parser.parse_args(arguments)
    with new_run(options.workdir, leave=options.leave) as directory:
        plan = Plan(
            size=(options.size or (64 if options.quick else 1024)) * MIB,
            large_size=(1 if options.quick else 16) * GIB,
            files=400 if options.quick else 20_000,
            rounds=options.rounds or (1 if options.quick else 3),
            parts=options.parts,
            workdir=options.workdir,
            run=directory,
            peers_python=None,
            absent=frozenset(),
        )
        run(plan, options.output)


if __name__ == "__main__":
    main()
