"""The results as the part of docs/benchmarks.md that is made by `bench.everything`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from bench.array_report import WHOLE, slices_table, whole_table
from bench.array_systems import SYSTEMS
from bench.engine import documents_table
from bench.growth import ROWS as GROWTH
from bench.keeper_report import SECONDS, trees_table, versions_table
from bench.keepers import KEEPERS
from bench.measure import figure
from bench.private_report import tables as private_tables
from bench.private_report import targets as private_targets
from bench.remote_report import promises
from bench.remote_report import tables as remote_tables
from bench.remote_report import targets as remote_targets
from bench.remote_systems import EVERYBODY as REMOTE
from bench.report import by_system, scaled, table
from bench.results import PartResult, Results
from bench.workloads import MIB

BEGIN = "<!-- made by bench.everything: begin -->"
END = "<!-- made by bench.everything: end -->"
EVERYBODY = {"numpy": "NumPy", "sha1": "SHA-1"} | {name: name for name in (*SYSTEMS, *KEEPERS, *REMOTE)}
ARRAYS = {
    "recording": "The recording ({size} of int16, 128 channels):",
    "field": "The field ({size} of float32, three axes, smooth, its low bits noisy):",
    "imaging": "The film ({size} of uint16, photon noise):",
    "random": "Noise ({size}), which nothing compresses:",
}


def markdown(results: Results, plots: Collection[str]) -> str:
    """All tables, each after the plots of `plots` that belong to it."""

    def plot(name: str, said: str) -> list[str]:
        return [f"![{said}](plots/{name}.svg)"] if name in plots else []

    parts = [_head(results)]
    for name, section in SECTIONS.items():
        if tables := section(results):
            title, shown = TITLES[name]
            parts += [f"#### {title}", *(line for one, said in shown.items() for line in plot(one, said)), *tables]
    parts += ["#### How long it took", _durations(results)]
    return "\n\n".join(parts)


def insert_page(path: Path, made: str) -> None:
    """Put what was made between the two marks of the page. Raises ValueError if they are not there."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no lines {BEGIN!r} and {END!r}: add them where the tables belong")
    path.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")


def inserted_page(path: Path) -> str:
    """What stands between the two marks."""
    return path.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def _head(results: Results) -> str:
    """When, where, with which versions, and what is not there."""
    parts = list(results.parts.values())
    versions = {system: version for part in parts for system, version in part.versions.items()}
    lines = []
    if results.quick:
        lines.append("**Tiny sizes (`--quick`): a look, not a figure.**")
    lines += _distinct(parts)
    rounds = sorted({int(part.plan["rounds"]) for part in parts if "rounds" in part.plan})
    lines.append(f"Versions: {', '.join(versions[name] for name in EVERYBODY if name in versions)}.")
    lines.append(
        f"Rounds after a warm-up: {', '.join(map(str, rounds)) or 'see the tables'}; cells are medians "
        f"(minimum..maximum){_dropped(results)}."
    )
    if absent := [said for name, said in EVERYBODY.items() if name not in versions]:
        lines.append(f"Not installed, or not in these parts: {', '.join(absent)}.")
    if results.missing:
        lines.append(f"Not measured: {'; '.join(f'{name} ({why})' for name, why in results.missing.items())}.")
    return "\n\n".join(lines)


def _distinct(parts: list[PartResult]) -> list[str]:
    """The days and machines of the parts: one line, unless they are of several."""
    said = (f"{part.date}; {', '.join(f'{what}: {value}' for what, value in part.machine.items())}." for part in parts)
    return list(dict.fromkeys(said))


def _dropped(results: Results) -> str:
    if "arrays" not in results.parts:
        return ""
    every = results.parts["arrays"].notes.get("pages_dropped") == "all"
    return f". Before a cold load, {'all cached pages were' if every else 'the pages of its files alone were'} dropped"


def _arrays(results: Results) -> list[str]:
    found: list[str] = []
    for name in (one for one in ARRAYS if one in WHOLE):
        if figures := results.figures("arrays", name):
            size = f"{results.parts['arrays'].plan[f'sizes {name}'] / MIB:,.0f} MiB"
            found += [ARRAYS[name].format(size=size), whole_table(figures)]
    return found


def _slices(results: Results) -> list[str]:
    said = {
        "slices": "Slices of 256 rows (64 KiB) a second, all with the same codec and chunks of 256 KiB:",
        "tiles": "Slices along the last axis a second, stored as tiles of 16,384 rows and 8 columns:",
    }
    found: list[str] = []
    for name, what in said.items():
        if figures := results.figures("slices", name):
            found += [what, slices_table(figures)]
    return found


def _trees(results: Results) -> list[str]:
    figures = results.figures("trees", "trees")
    return (
        [f"{results.parts['trees'].plan['files']:,.0f} files of 1 to 16 KiB:", trees_table(figures)] if figures else []
    )


def _versions(results: Results) -> list[str]:
    found: list[str] = []
    for name in SECONDS:
        if figures := results.figures(name, name):
            plan = results.parts[name].plan
            said = {
                "edited": f"{plan['size'] / MIB:,.0f} MiB of noise, then with insertions and overwrites:",
                "appended": f"An HDF5 file of {plan['hdf5_rows_size'] / MIB:,.0f} MiB of rows (gzip), then with "
                f"{plan['appended_size'] / MIB:,.3g} MiB more:",
            }
            found += [said[name], versions_table(figures, name)]
    return found


def _documents(results: Results) -> list[str]:
    figures = results.figures("documents", "documents")
    return [documents_table(figures)] if figures else []


def _growth(results: Results) -> list[str]:
    if "growth" not in results.parts:
        return []
    tables = {name: by["kacas"] for name, by in results.parts["growth"].figures.items()}
    return [by_system(list(tables), [(said, scaled(tables, what, unit)) for what, (said, unit) in GROWTH.items()])]


def _remote(results: Results) -> list[str]:
    if "remote" not in results.parts:
        return []
    figures = results.parts["remote"].figures
    return [*remote_tables(figures), promises(remote_targets(figures))]


def _private(results: Results) -> list[str]:
    if "private" not in results.parts:
        return []
    figures = results.parts["private"].figures
    return [*private_tables(figures), promises(private_targets(figures))]


def _durations(results: Results) -> str:
    rows = [(name, figure(part.seconds / 60)) for name, part in results.parts.items()]
    return table(
        ["part", "minutes"], [*rows, ("all", figure(sum(part.seconds for part in results.parts.values()) / 60))]
    )


SECTIONS: dict[str, Callable[[Results], list[str]]] = {
    "arrays": _arrays,
    "slices": _slices,
    "trees": _trees,
    "versions": _versions,
    "documents": _documents,
    "growth": _growth,
    "remote": _remote,
    "private": _private,
}
TITLES: dict[str, tuple[str, dict[str, str]]] = {
    "arrays": (
        "Arrays, whole",
        {
            "store": "Time to store each array, by system, with what a sync adds",
            "load": "Time to load each array, by system, warm and cold",
            "ratio": "Ratio against speed, by system",
        },
    ),
    "slices": ("Slices", {"slices": "Slices a second, by system"}),
    "trees": ("Many small files", {"small_files": "Time to store and restore small files, by system"}),
    "versions": ("Second versions of files", {"second_versions": "New bytes against time, by system"}),
    "documents": ("Small documents", {}),
    "growth": ("Growth", {"growth": "Times by the number of chunks"}),
    "remote": ("Remotes", {}),
    "private": ("Private remotes and encrypted URIs", {}),
}
