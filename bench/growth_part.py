"""Growth as a part of `bench.everything`: what `bench.growth` measures, with the options and in the form of all parts.

python -m bench.growth_part --quick
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

import kacas
from bench.measure import Figures, Series
from bench.running import new_run, options_parser, publish

MODULE = "bench.growth"
SIZES = "10000,100000,1000000,10000000"  # chunk records
QUICK_SIZES = "10000,100000"
# Figure → its title, and what a unit of the title is in the figure.
TITLES: dict[str, tuple[str, float]] = {
    "open_s": ("open, ms", 1e-3),
    "present_s": ("find a chunk, µs", 1e-6),
    "absent_s": ("find that there is no such chunk, µs", 1e-6),
    "miss_s": ("prove that a content is missing, ms", 1e-3),
    "cold_s": ("open and find a chunk, without an index, ms", 1e-3),
    "bare_cold_s": ("the same, of a store that has no segments yet, ms", 1e-3),
    "rebuild_rate": ("index rebuild, records a second", 1),
    "memory": ("memory of the process, MiB", 1 << 20),
    "index_bytes": ("index of what no segment holds, bytes per record", 1),
    "segment_bytes": ("segments, bytes per record", 1),
}


def as_tables(figures: Sequence[dict[str, float]]) -> dict[str, Figures]:
    """One table for each number of records, named after it."""
    return {
        f"{one['records']:,.0f} records": {"kacas": {what: Series((one[what],)) for what in TITLES if what in one}}
        for one in figures
    }


def main(arguments: list[str] | None = None) -> None:
    parser = options_parser("bench.growth_part", __doc__ or "", output="growth.json", peers=())
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SIZES} chunk records")
    options = parser.parse_args(arguments)
    growth: Any = importlib.import_module(MODULE)  # not by name: `bench.everything` leaves it out where it is missing
    with new_run(options.workdir, leave=options.leave) as directory:
        written = directory / "growth.json"
        sizes = QUICK_SIZES if options.quick else SIZES
        growth.main(["--json", str(written), "--workdir", str(directory), "--sizes", sizes])
        figures = json.loads(written.read_text(encoding="utf-8"))["figures"]
    publish(
        options.output,
        options.workdir,
        plan={},
        versions={"kacas": f"kacas {kacas.__version__}"},
        measured=as_tables(figures),
        memory={},
        targets=[],
        markdown="",
    )


if __name__ == "__main__":
    main()
