"""What the commands of the benchmarks share: their options, where they write, what they say."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import machine
from bench.machine import GIB
from bench.measure import Figures
from bench.report import Target
from bench.worker import ROOT

PEERS = {
    "--kachery-python": ("kachery-cloud", "a Python that has kachery-cloud"),
    "--peers-python": (
        "zarr, h5py, icechunk and boto3",
        "a Python that has zarr, h5py, hdf5plugin, icechunk, s3fs and boto3",
    ),
    "--dvc": ("DVC", "the program dvc"),
}  # option → who is left out without it, and what it names: see bench/peers.sh


def options_parser(
    program: str,
    documentation: str,
    *,
    output: str,
    peers: Sequence[str] = ("--kachery-python",),
    parts: Sequence[str] = (),
    rounds: str = "5",
) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes.

    output: the JSON file's name. peers: which of `PEERS` it takes. parts: what `--only` chooses from, if there
    are any. rounds: how many there are if nothing is said.
    """
    summary, _, details = documentation.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, help=f"rounds after the warm-up ({rounds})")
    if parts:
        parser.add_argument(
            "--only",
            dest="parts",
            metavar="PARTS",
            type=some_of(parts),
            default=frozenset(parts),
            help=f"some of {', '.join(parts)}, with commas (all)",
        )
    for option in peers:
        parser.add_argument(option, metavar="PATH", help=f"{PEERS[option][1]}: see bench/peers.sh")
    parser.add_argument(
        "--dir",
        dest="workdir",
        type=Path,
        default=Path(tempfile.gettempdir()) / "kacas-bench",
        help="where inputs are made and kept, and stores are made and deleted (%(default)s)",
    )
    parser.add_argument(
        "--json",
        dest="output",
        metavar="PATH",
        type=Path,
        default=ROOT / "bench-out" / output,
        help="the JSON file (%(default)s)",
    )
    parser.add_argument(
        "--leave", action="store_true", help="delete nothing that was made: who asks for it does, when all is measured"
    )
    return parser


def some_of(parts: Sequence[str]) -> Callable[[str], frozenset[str]]:
    """How an option reads names of `parts`, with commas between them."""

    def read(text: str) -> frozenset[str]:
        chosen = frozenset(text.split(","))
        if unknown := chosen - set(parts):
            raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
        return chosen

    return read


def peer(options: argparse.Namespace, option: str) -> str | None:
    """The program that an option of `PEERS` names, or None, which is said."""
    path: str | None = getattr(options, option.removeprefix("--").replace("-", "_"))
    found = shutil.which(path) if path else None
    if not found:
        say(f"{PEERS[option][0]}: left out; install it with `make bench-peers`, then give {option} PATH")
        return None
    return os.path.abspath(found)  # systems run in other directories; not resolved: it may be a link of an environment


@contextlib.contextmanager
def new_run(workdir: Path, *, leave: bool = False) -> Iterator[Path]:
    """A new directory for one run, deleted at its end and not before, or left to the caller.

    Making files soon after deleting as many is ten times slower: whoever measures again must leave it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix="run-", dir=workdir))
    try:
        yield run
    finally:
        if not leave:
            shutil.rmtree(run, ignore_errors=True)


def run_environment(run: Path) -> dict[str, str]:
    """What every system in a worker finds: homes, caches and temporary files below `run`, on the disk that is measured."""
    temporary = run / "temporary"
    temporary.mkdir(exist_ok=True)
    return {
        "KACAS_DIR": str(run / "default"),
        "KACAS_CACHE_DIR": str(run / "cache"),
        "KACAS_OWNER": "bench",
        "XDG_CONFIG_HOME": str(run / "config"),
        "XDG_CACHE_HOME": str(run / "cache"),
        "DVC_SITE_CACHE_DIR": str(run / "cache" / "dvc"),
        "HOME": str(run),
        "TMPDIR": str(temporary),
    }


def require_disk(workdir: Path, needed: int) -> None:
    """Raises SystemExit if `workdir` has less than `needed` bytes free."""
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise SystemExit(
            f"{workdir} has {free / GIB:.0f} GiB free, {needed / GIB:.0f} are needed: "
            "give another --dir, a smaller size (see --help) or fewer --rounds"
        )


def publish(
    output: Path,
    workdir: Path,
    *,
    plan: Mapping[str, object],
    versions: Mapping[str, str],
    measured: Mapping[str, Figures],
    memory: Mapping[str, int],
    targets: list[Target],
    markdown: str,
) -> None:
    """Write the JSON file and print the Markdown, each with the machine and the versions."""
    about = machine.describe(workdir)
    report: dict[str, object] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": about,
        "versions": dict(versions),
        "plan": dict(plan),
        "figures": {
            name: {system: {what: series.as_json() for what, series in one.items()} for system, one in by.items()}
            for name, by in measured.items()
        },
        "memory": dict(memory),
        "targets": [target.as_json() for target in targets],
    }
    write_json(output, report)
    print(", ".join(f"{what}: {value}" for what, value in about.items()), end="; ")
    print(", ".join(versions.values()), end="\n\n")
    print(markdown)
    say(f"\nwritten: {output}")


def write_json(path: Path, report: object) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def say(what: str) -> None:
    """Progress, on stderr."""
    print(what, file=sys.stderr, flush=True)
