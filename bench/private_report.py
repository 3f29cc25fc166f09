"""What bench/private.py measured as tables, and what was promised."""

from __future__ import annotations

from collections.abc import Mapping

from bench.measure import Figures, Series, ratio
from bench.remote_report import remote_table
from bench.report import Target, by_figure, scaled, table
from bench.workloads import MIB

SAID = {
    "arrays": "An array, whole, on loopback:",
    "slices": "64 KiB of a large array, each round trip 50 ms longer: cold, the next, and elsewhere:",
    "trees": "Many small files, on loopback:",
    "uris": "URIs a second:",
}
LIMIT = 1.6  # of the plain remote's time


def _part(name: str, figures: Figures) -> str:
    if name != "uris":
        return remote_table(name, figures)
    columns = [(what, scaled(figures, what)) for what in ("encrypted", "decrypted")]
    return by_figure(list(figures), columns)


def tables(measured: Mapping[str, Figures]) -> list[str]:
    """All that there are, each after what it shows."""
    return [text for name in SAID if name in measured for text in (SAID[name], _part(name, measured[name]))]


def targets(measured: Mapping[str, Figures]) -> list[Target]:
    found = []
    for name, calls in (("arrays", ("push", "pull")), ("trees", ("push_tree", "pull_tree"))):
        if figures := measured.get(name):
            what = "an array" if name == "arrays" else "small files"
            for call in calls:
                said = f"{call.removesuffix('_tree')} {what}, private beside plain"
                found.append(_ratio(said, figures["private"][f"{call}_s"], figures["kacas"][f"{call}_s"], LIMIT))
    if arrays := measured.get("arrays", {}).get("private"):
        found.append(_ratio("push again beside the first, private", arrays["again_s"], arrays["push_s"], 0.05))
    if ours := measured.get("slices", {}).get("private"):
        found += [
            Target("requests of a cold slice, private", ours["cold_requests"].median, 5),
            Target("moved for a cold slice, private", ours["cold_bytes"].median / MIB, 1, " MiB"),
            Target("requests of the next, private", ours["nearby_requests"].median, 1),
        ]
    if uris := measured.get("uris"):
        for what in ("encrypted", "decrypted"):
            least = min(one[what].median for one in uris.values())
            found.append(Target(f"URIs {what} a second, the slowest kind", least, 1000, at_least=True))
    memory = [
        max(one.values)
        for by in measured.values()
        for what, one in by.get("private", {}).items()
        if what.endswith("_memory")
    ]
    if memory:
        found.append(Target("memory, whatever it does, private", max(memory) / MIB, 256, " MiB"))
    return found


def _ratio(what: str, ours: Series, theirs: Series, limit: float) -> Target:
    return Target(what, ratio(ours, theirs), limit, " ×")


def markdown(measured: Mapping[str, Figures], promised: list[Target]) -> str:
    promises = table(["target", "measured", "limit", "holds"], [target.row() for target in promised])
    return "\n\n".join([*tables(measured), promises])
