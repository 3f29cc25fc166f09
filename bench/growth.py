"""What growth costs: opening, finding, missing and starting without an index, with ten thousand to ten million chunk records.

    python -m bench.growth                       # 10⁴ to 10⁷; about 3 minutes, 4 GB of disk
    python -m bench.growth --quick               # 10⁴ and 10⁵: a look, not a figure

The packs are synthetic: their tables are right in every byte, their payloads are holes in the files, as nothing here reads
a payload. A pack has 1,024 chunk records, as one of 256 MiB of an array has. "cold" is without an index, as on
another host; the page cache is warm in all of it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kacas
from bench.measure import Figures as BenchFigures
from bench.measure import Series
from bench.report import Target, table
from bench.running import new_run, options_parser, publish
from bench.worker import ROOT

PACK_RECORDS = 1024
ROUNDS = 5
SIZES = "10000,100000,1000000,10000000"  # chunk records
QUICK_SIZES = "10000,100000"
Figures = dict[str, float]
ROWS: dict[str, tuple[str, float]] = {  # figure: its title, and what a unit of the title is in the figure
    "packs": ("packs", 1),
    "segments": ("segments", 1),
    "open_s": ("open, ms", 1e-3),
    "present_s": ("find a chunk, µs", 1e-6),
    "absent_s": ("find that there is no such chunk, µs", 1e-6),
    "present_group_s": ("find 4,096 chunks, µs each", 1e-6),
    "absent_group_s": ("the same, none is there, µs each", 1e-6),
    "miss_s": ("prove that a content is missing, ms", 1e-3),
    "miss_again_s": ("the same again, ms", 1e-3),
    "memory": ("memory of the process, MiB", 1 << 20),
    "cold_s": ("cold start: open and find a chunk, s", 1),
    "bare_cold_s": ("the same, of a store that has no segments yet, s", 1),
    "rebuild_rate": ("index rebuild of a store without segments, records/s", 1),
    "settle_s": ("merging the segments, in the background, s", 1),
    "index_bytes": ("index, bytes per record that no segment holds", 1),
    "segment_bytes": ("segments, bytes per record", 1),
    "table_bytes": ("tables in the packs, bytes per record", 1),
}


def ask(do: str, place: Path, host: str, packs: int, pack_records: int, *, segments: bool) -> Figures:
    """What another process says of it. Raises CalledProcessError."""
    request: dict[str, Any] = {
        "do": do, "store": str(place / "store"), "cache": str(place / host), "packs": packs,
        "pack_records": pack_records, "segments": segments,
    }  # fmt: skip
    command = [sys.executable, "-m", "bench.growth_worker", json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures


class Grown:
    """A store with about so many chunk records, made by other processes."""

    def __init__(self, place: Path, records: int, pack_records: int) -> None:
        self._place = place
        self._packs, self._pack_records = max(1, records // pack_records), pack_records
        self._looks: list[Figures] = []

    def _ask(self, do: str, host: str, *, segments: bool) -> Figures:
        return ask(do, self._place, host, self._packs, self._pack_records, segments=segments)

    def grow(self) -> Figures:
        """Make it, and measure what is done once."""
        self._ask("make", "a", segments=False)
        bare = self._ask("open_cold", "a", segments=False)
        rebuilt = self._ask("rebuild", "a", segments=False)
        settled = self._ask("settle", "a", segments=True)
        cold = self._ask("open_cold", "b", segments=True)
        size = self._packs * self._pack_records
        return {
            "records": size,
            "packs": self._packs,
            "segments": settled["segments"],
            "cold_s": cold["found_s"],
            "bare_cold_s": bare["found_s"],
            "rebuild_rate": rebuilt["rate"],
            "settle_s": settled["settle_s"],
            "index_bytes": bare["index_size"] / max(bare["rows"], 1),
            "segment_bytes": settled["segment_size"] / settled["held"] if settled["held"] else 0,
            "table_bytes": 56.0,
        }

    def look(self) -> None:
        """One turn of what is measured several times."""
        self._looks.append(self._ask("look", "a", segments=True))

    def looks(self) -> Figures:
        """The medians of all turns."""
        return {name: statistics.median(one[name] for one in self._looks) for name in self._looks[0]}


def measure(place: Path, sizes: Sequence[int], pack_records: int = PACK_RECORDS, rounds: int = ROUNDS) -> list[Figures]:
    """All figures of stores with about so many chunk records. They take turns, so that all suffer from the same noise."""
    stores = [Grown(place / str(size), size, pack_records) for size in sizes]
    figures = []
    for size, store in zip(sizes, stores, strict=True):
        figures.append(store.grow())
        print(f"{size:,} records are there", file=sys.stderr)
    for _ in range(rounds):
        for store in stores:
            store.look()
    return [once | store.looks() for once, store in zip(figures, stores, strict=True)]


def targets(figures: list[Figures]) -> list[Target]:
    """What was promised, of the largest store, or of them all."""
    first, last = figures[0], figures[-1]
    found = [Target("open, with an index", last["open_s"] * 1e3, 50, " ms")]
    for name, what in (("present", "find a chunk"), ("absent", "find that there is no such chunk")):
        for end, how in (("_s", "singly"), ("_group_s", "4,096 at once")):
            ratio = last[name + end] / first[name + end]
            found.append(Target(f"{what}, {how}: largest / smallest", ratio, 2, " ×"))
    return [
        *found,
        Target("cold start, open and find a chunk", last["cold_s"], 1, " s"),
        Target("index rebuild", last["rebuild_rate"], 500_000, " records/s", at_least=True),
    ]


def markdown(figures: list[Figures]) -> str:
    head = ["", *(f"{one['records']:,.0f} records" for one in figures)]
    rows = [[title, *(_number(one[name] / unit) for one in figures)] for name, (title, unit) in ROWS.items()]
    promised = table(["target", "measured", "limit", "holds"], [target.row() for target in targets(figures)])
    return f"{table(head, rows)}\n\n{promised}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def as_tables(figures: Sequence[Figures]) -> dict[str, BenchFigures]:
    """One table for each number of records, named after it."""
    return {
        f"{one['records']:,.0f} records": {"kacas": {what: Series((one[what],)) for what in ROWS}} for one in figures
    }


def main(arguments: list[str] | None = None) -> None:
    parser = options_parser("bench.growth", __doc__ or "", output="growth.json", peers=())
    parser.add_argument("--quick", action="store_true", help="10⁴ and 10⁵ chunk records: a look of half a minute")
    parser.add_argument("--sizes", help="chunk records, rising, with commas (10⁴ to 10⁷)")
    parser.add_argument("--pack-records", type=int, default=PACK_RECORDS, help="chunk records of a pack (%(default)s)")
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in (options.sizes or (QUICK_SIZES if options.quick else SIZES)).split(",")]
    with new_run(options.workdir, leave=options.leave) as directory:
        figures = measure(directory, sizes, options.pack_records, options.rounds or ROUNDS)
    publish(
        options.output,
        options.workdir,
        plan={"sizes": sizes, "pack_records": options.pack_records, "rounds": options.rounds or ROUNDS},
        versions={"kacas": f"kacas {kacas.__version__}"},
        measured=as_tables(figures),
        memory={},
        targets=targets(figures),
        markdown=markdown(figures),
    )


if __name__ == "__main__":
    main()
