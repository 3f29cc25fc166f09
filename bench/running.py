"""What the commands of the benchmarks share: their options, where they write, what they say."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench import machine
from bench.machine import GIB
from bench.measure import Figures
from bench.report import Target
from bench.worker import ROOT


def options_parser(program: str, documentation: str, *, output: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes; output: the JSON file's name."""
    summary, _, details = documentation.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, help="rounds after the warm-up (5)")
    parser.add_argument("--kachery-python", metavar="PATH", help="a Python that has kachery-cloud: see bench/peers.sh")
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path(tempfile.gettempdir()) / "kacas-bench",
        help="where inputs are made and kept, and stores are made and deleted (%(default)s)",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "bench-out" / output, help="the JSON file (%(default)s)")
    return parser


def kachery_python(path: str | None) -> str | None:
    """The Python that has kachery-cloud, or None, which is said."""
    found = shutil.which(path) if path else None
    if not found:
        say("kachery-cloud is left out: install it with `make bench-peers`, then give --kachery-python PATH")
    return found


def new_run(workdir: Path) -> Path:
    """A new directory for one run, deleted at its end and not before.

    Making files soon after deleting as many is ten times slower.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=workdir))


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
        "HOME": str(run),
        "TMPDIR": str(temporary),
    }


def require_disk(workdir: Path, needed: int) -> None:
    """Raises SystemExit if `workdir` has less than `needed` bytes free."""
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise SystemExit(
            f"{workdir} has {free / GIB:.0f} GiB free, {needed / GIB:.0f} are needed: "
            "give another --workdir, a smaller size (see --help) or fewer --rounds"
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
        "machine": about,
        "versions": dict(versions),
        **plan,
        "figures": {
            name: {system: {what: series.as_json() for what, series in one.items()} for system, one in by.items()}
            for name, by in measured.items()
        },
        "memory": dict(memory),
        "targets": [target.as_json() for target in targets],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(", ".join(f"{what}: {value}" for what, value in about.items()), end="; ")
    print(", ".join(versions.values()), end="\n\n")
    print(markdown)
    say(f"\nwritten: {output}")


def say(what: str) -> None:
    """Progress, on stderr."""
    print(what, file=sys.stderr, flush=True)
