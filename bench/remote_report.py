"""What bench/remote.py measured as tables, and what was promised."""

from __future__ import annotations

from collections.abc import Mapping

from bench.measure import Figures, Series, ratio
from bench.report import Target, by_figure, scaled, table
from bench.workloads import MIB

NEAR, FAR = "loopback", "50 ms"
MB = 1_000_000
COLUMNS: dict[str, dict[str, tuple[str, float]]] = {
    "arrays": {
        "push_s": ("push new, s", 1),
        "again_s": ("again, s", 1),
        "changed_s": ("1 % changed, s", 1),
        "pull_s": ("pull, s", 1),
        "stored": ("stored, MB", MB),
        "changed_stored": ("new of the change, MB", MB),
        "push_cpu_s": ("push, CPU s", 1),
        "pull_cpu_s": ("pull, CPU s", 1),
        "push_memory": ("push, memory MB", MB),
        "pull_memory": ("pull, memory MB", MB),
        "push_requests": ("push, requests", 1),
        "again_requests": ("again, requests", 1),
        "changed_requests": ("changed, requests", 1),
        "pull_requests": ("pull, requests", 1),
    },
    "slices": {
        "cold_s": ("cold, s", 1),
        "cold_requests": ("cold, requests", 1),
        "cold_bytes": ("cold, MB", MB),
        "nearby_s": ("the next, s", 1),
        "nearby_requests": ("the next, requests", 1),
        "nearby_bytes": ("the next, MB", MB),
        "elsewhere_s": ("elsewhere, s", 1),
        "elsewhere_requests": ("elsewhere, requests", 1),
    },
    "trees": {
        "push_tree_s": ("push, s", 1),
        "fetch_tree_s": ("pull into the store, s", 1),
        "pull_tree_s": ("pull and restore, s", 1),
        "push_tree_requests": ("push, requests", 1),
        "pull_tree_requests": ("pull, requests", 1),
        "push_tree_cpu_s": ("push, CPU s", 1),
        "fetch_tree_cpu_s": ("pull into the store, CPU s", 1),
        "pull_tree_cpu_s": ("pull and restore, CPU s", 1),
    },
}
TREE_CALLS = (
    ("push small files", "push_tree_s", "push_tree_s"),
    ("pull small files into the store", "fetch_tree_s", "pull_tree_s"),
    ("pull and restore small files", "pull_tree_s", "pull_tree_s"),
)
"""What is asked for, the figure of kacas, and that of the client for which an object is a file and pulled is restored."""
SAID = {
    "arrays": "An array, whole",
    "slices": "64 KiB of a large array: cold, the next, and elsewhere",
    "trees": "Many small files",
}


def remote_table(name: str, figures: Figures) -> str:
    """One row per system; columns that nobody has a figure for are left out."""
    part = name.partition(",")[0]
    columns = [
        (said, found)
        for what, (said, unit) in COLUMNS[part].items()
        if any((found := scaled(figures, what, unit)).values())
    ]
    return by_figure(list(figures), columns)


def said(name: str) -> str:
    part, _, place = name.partition(", ")
    return f"{SAID[part]}, {'on loopback' if place == NEAR else 'each round trip 50 ms longer'}:"


def tables(measured: Mapping[str, Figures]) -> list[str]:
    """All that there are, each after what it shows."""
    names = [f"{part}, {place}" for part in COLUMNS for place in (NEAR, FAR)]
    return [text for name in names if name in measured for text in (said(name), remote_table(name, measured[name]))]


def targets(measured: Mapping[str, Figures]) -> list[Target]:
    found = []
    for place in (NEAR, FAR):
        arrays, trees = measured.get(f"arrays, {place}", {}), measured.get(f"trees, {place}", {})
        if ours := arrays.get("kacas"):
            bare = arrays.get("bare obstore", {})
            found += [
                _ratio(f"push new beside obstore, {place}", ours.get("push_s"), bare.get("push_s"), 1.3),
                _ratio(f"push again beside the first, {place}", ours.get("again_s"), ours.get("push_s"), 0.05),
                _ratio(f"1 % changed beside the first, {place}", ours.get("changed_s"), ours.get("push_s"), 0.1),
                _ratio(f"pull beside a raw download, {place}", ours.get("pull_s"), bare.get("pull_s"), 1.3),
            ]
        if ours := trees.get("kacas"):
            theirs = trees.get("one object", {})
            for what, mine, other in TREE_CALLS:
                said = f"{what} beside one object each, {place}"
                found.append(_ratio(said, ours.get(mine), theirs.get(other), 0.1))
    if ours := measured.get(f"slices, {FAR}", {}).get("kacas"):
        found += [
            Target("requests of a cold slice", ours["cold_requests"].median, 5),
            Target("moved for a cold slice", ours["cold_bytes"].median / MIB, 1, " MiB"),
            Target("requests of the next", ours["nearby_requests"].median, 1),
        ]
    memory = [
        max(one.values)
        for name, by in measured.items()
        for what, one in by.get("kacas", {}).items()
        if what.endswith("_memory")
    ]
    if memory:
        found.append(Target("memory, whatever it does", max(memory) / MIB, 256, " MiB"))
    return found


def _ratio(what: str, ours: Series | None, theirs: Series | None, limit: float) -> Target:
    return Target(what, ratio(ours, theirs) if ours and theirs else None, limit, " ×")


def markdown(measured: Mapping[str, Figures], promised: list[Target]) -> str:
    return "\n\n".join([*tables(measured), promises(promised)])


def promises(promised: list[Target]) -> str:
    return table(["target", "measured", "limit", "holds"], [target.row() for target in promised])
