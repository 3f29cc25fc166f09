"""The figures of bench/directories.py as tables, and what was promised of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.measure import Figures, Series, ratio
from bench.report import Target, by_system, scaled, table
from bench.workloads import MIB

BACKUPS = ("restic", "borg", "casync")  # the targets name the fastest of these
MEMORY_LIMIT_MIB = 512
TREES = {
    "idle_s": ("start, do nothing, s", 1),
    "store_s": ("store the tree, s", 1),
    "total_s": ("store the tree and sync, s", 1),
    "restore_s": ("restore the tree, s", 1),
    "again_s": ("store it unchanged, s", 1),
    "disk_size": ("disk, MB", 1e6),
}
VERSIONS = {
    "first_s": ("store the file, s", 1),
    "again_ms": ("store it unchanged, ms", 1),
    "second_s": ("store the {second}, s", 1),
    "total_s": ("store it and sync, s", 1),
    "new_size": ("new on disk, MB", 1e6),
}
SECONDS = {"edited": "edited file", "appended": "file with more rows"}  # what a second version is called


def fastest(figures: Figures, what: str) -> str | None:
    """Which of the backup programs has the lowest median, or None if none was there."""
    there = [system for system in BACKUPS if system in figures]
    return min(there, key=lambda system: figures[system][what].median) if there else None


def targets(measured: Mapping[str, Figures], memory: Mapping[str, int]) -> list[Target]:
    """What was promised of the parts that were measured."""

    def against(figures: Figures, what: str, peer: str | None) -> float | None:
        return ratio(figures["kacas"][what], figures[peer][what]) if peer in figures else None

    found = []
    if trees := measured.get("trees"):
        for what, said, limit in (("store_s", "store the tree, durable", 0.5), ("restore_s", "restore the tree", 0.8)):
            peer = fastest(trees, what)
            name = f"{said} / the fastest of {', '.join(BACKUPS)}" + (f": {peer}" if peer else "")
            found.append(Target(name, against(trees, what, peer), limit, " ×"))
        found.append(Target("the unchanged tree", trees["kacas"]["again_s"].median, 0.3, " s"))
    if edited := measured.get("edited"):
        one = edited["kacas"]
        found += [
            Target("new bytes of the edited file", one["new_size"].median / 1e6, 10, " MB"),
            Target("the edited file / restic", against(edited, "second_s", "restic"), 0.4, " ×"),
            Target("the unchanged file", one["again_ms"].median, 10, " ms"),
        ]
    for call, size in memory.items():
        found.append(Target(f"{call} the tiny files: anonymous memory", size / MIB, MEMORY_LIMIT_MIB, " MiB"))
    return found


def trees_table(figures: Figures) -> str:
    """One row per figure of a tree, one column per system."""
    return _by_system(figures, TREES)


def versions_table(figures: Figures, name: str) -> str:
    """The same of a file and its second version; name: of `SECONDS`."""
    rows = {what: (said.format(second=SECONDS[name]), unit) for what, (said, unit) in VERSIONS.items()}
    return _by_system(figures, rows)


def markdown(measured: Mapping[str, Figures], said: Mapping[str, str], promised: Sequence[Target]) -> str:
    """The tables of docs/benchmarks.md. said: of each part what it is, and under "how" how all were measured."""
    parts = [said["how"]]
    if "trees" in measured:
        parts += [said["trees"], trees_table(measured["trees"])]
    for name in SECONDS:
        if name in measured:
            parts += [said[name], versions_table(measured[name], name)]
    if tiny := measured.get("tiny files"):
        seconds = ", ".join(f"{what.removesuffix('_s')} {one.median:.3g} s" for what, one in tiny["kacas"].items())
        parts.append(f"{said['tiny files']}, once: {seconds}.")
    parts.append(table(["target", "measured", "limit", "holds"], [target.row() for target in promised]))
    return "\n\n".join(parts)


def _by_system(figures: Figures, rows: Mapping[str, tuple[str, float]]) -> str:
    found: list[tuple[str, dict[str, Series | None]]] = [
        (said, scaled(figures, what, unit)) for what, (said, unit) in rows.items()
    ]
    return by_system(list(figures), found)
