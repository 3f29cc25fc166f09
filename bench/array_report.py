"""The figures of bench/arrays.py as tables, and what was promised of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from bench.measure import Figures, ratio
from bench.report import Target, by_figure, scaled, table
from bench.workloads import MIB

COMPRESSING = (
    "zarr, default",
    "zarr, Blosc",
    "icechunk, Blosc",
    "h5py, lzf",
    "h5py, Blosc",
)  # and gzip, never the fastest
WHOLE = ("recording", "random", "field", "imaging")
SLICES = {"slices": "Slices of 256 rows (64 KiB) a second:", "tiles": "Columns a second:"}
MEMORY_LIMIT_MIB = 256
CODEC_WORKLOADS = ("recording", "field", "imaging")


def targets(measured: Mapping[str, Figures], memory: Mapping[str, int]) -> list[Target]:
    """What was promised of the parts that were measured."""
    found: list[Target] = []
    if "recording" in measured:
        found += _recording_targets(measured["recording"])
    if "random" in measured:
        found += _random_targets(measured["random"])
    if "map" in measured:
        ours, plain = (measured["map"][one]["again_ms"].values for one in ("kacas, auto", "numpy"))
        more = statistics.median(a - b for a, b in zip(ours, plain, strict=True))
        found.append(Target("load_npy(mmap=True) again - np.load(mmap_mode='r')", more, 1.0, " ms"))
    if "slices" in measured:
        for peer in ("zarr", "h5py"):
            found.append(_faster_slices(measured["slices"], "different chunks", "64 KiB row slices", peer, 5.0))
    if "tiles" in measured:
        for kind in ("single columns", "4 columns"):
            found.append(_faster_slices(measured["tiles"], kind, f"tiles, {kind}", "zarr", 2.0))
    for call, size in memory.items():
        found.append(Target(f"{call}: anonymous memory beyond the array", size / MIB, MEMORY_LIMIT_MIB, " MiB"))
    return found


def _recording_targets(figures: Figures) -> Iterator[Target]:
    for codec, times, least in (("fast", 1.35, 1.7), ("auto", 1.6, 2.0)):
        ours, said = figures[f"kacas, {codec}"], f"store recording, {codec}, durable"
        yield Target(f"{said} / SHA-1", against(figures, f"kacas, {codec}", "store_s", "sha1"), times, " ×")
        yield Target(f"store recording, {codec}: ratio", ours["ratio"].median, least, at_least=True)
        for peer, name in (
            ("kachery-cloud", "kachery-cloud"),
            (fastest(figures, "total_s"), "the fastest that compresses"),
        ):
            value = against(figures, f"kacas, {codec}", "total_s", peer)
            yield Target(f"{said} / {_named(name, peer)} and sync", value, 0.6, " ×")
    if "load_s" not in figures["kacas, auto"]:
        return
    for codec in ("fast", "auto"):
        ours_name, said = f"kacas, {codec}", f"load recording, {codec}"
        peer = fastest(figures, "load_s")
        yield Target(f"{said}, warm / np.load", against(figures, ours_name, "load_s", "numpy"), 2.5, " ×")
        name = _named("the fastest that compresses", peer)
        yield Target(f"{said}, warm / {name}", against(figures, ours_name, "load_s", peer), 0.4, " ×")
        yield Target(f"{said}, cold / np.load", against(figures, ours_name, "cold_s", "numpy"), 1.0, " ×")


def _random_targets(figures: Figures) -> Iterator[Target]:
    for peer, said, limit in (("sha1", "SHA-1", 1.25), ("kacas, raw", "codec='raw'", 1.05)):
        value = against(figures, "kacas, auto", "store_s", peer)
        yield Target(f"store random, auto, durable / {said}", value, limit, " ×")


def _faster_slices(figures: Figures, kind: str, said: str, system: str, limit: float) -> Target:
    peer = next((one for one in figures if one.startswith(f"{system}, ")), None)
    value = against(figures, next(one for one in figures if one.startswith("kacas")), kind, peer)
    return Target(f"{said} per second / {peer or system}", value, limit, " ×", at_least=True)


def _named(name: str, peer: str | None) -> str:
    return name if peer in (name, None) else f"{name}: {peer}"


def against(figures: Figures, ours: str, what: str, peer: str | None) -> float | None:
    """A figure of ours over the peer's; None if the peer was not there."""
    return ratio(figures[ours][what], figures[peer][what]) if peer in figures else None


def fastest(figures: Figures, what: str) -> str | None:
    """Which peer that compresses has the lowest median; None if none was there."""
    there = [one for one in COMPRESSING if one in figures]
    return min(there, key=lambda one: figures[one][what].median) if there else None


def markdown(measured: Mapping[str, Figures], memory: Mapping[str, int], said: str, promised: Sequence[Target]) -> str:
    """The tables of docs/benchmarks.md. said: of what, how often, how."""
    parts = [said]
    for name in WHOLE:
        if name in measured:
            parts += [f"The {name}:", whole_table(measured[name])]
    if "map" in measured:
        figures = measured["map"]
        columns = [(f"map {what}, ms", scaled(figures, f"{what}_ms")) for what in ("first", "again")]
        parts += ["The recording, mapped:", by_figure(list(figures), columns)]
    for name, title in SLICES.items():
        if name in measured:
            parts += [title, slices_table(measured[name])]
    by_codec = {name: measured[f"{name} by codec"] for name in CODEC_WORKLOADS if f"{name} by codec" in measured}
    for what, title in (("ratio", "Ratio:"), ("store_s", "Store, s:"), ("load_s", "Load, s:")):
        if by_codec:
            labels = list(next(iter(by_codec.values())))
            parts += [title, by_figure(labels, [(name, scaled(one, what)) for name, one in by_codec.items()])]
    if "stream" in measured:
        one = measured["stream"]["kacas, auto"]
        parts.append(f"The stream, once: {one['store_s'].median:.1f} s, ratio {one['ratio'].median:.2f}.")
    if promised:
        parts.append(table(["target", "measured", "limit", "holds"], [target.row() for target in promised]))
    return "\n\n".join(parts)


def slices_table(figures: Figures) -> str:
    """One row per contender, one column per kind of slice."""
    kinds = list(next(iter(figures.values())))
    return by_figure(list(figures), [(kind, scaled(figures, kind)) for kind in kinds])


def whole_table(figures: Figures) -> str:
    """One row per contender: time, disk and ratio of an array that was stored and loaded whole."""
    columns = [
        ("store, s", scaled(figures, "store_s")),
        ("store and sync, s", scaled(figures, "total_s")),
        ("load, s", scaled(figures, "load_s")),
        ("load cold, s", scaled(figures, "cold_s")),
        ("disk, MB", scaled(figures, "disk_size", 1e6)),
        ("ratio", scaled(figures, "ratio")),
    ]
    return by_figure(list(figures), [(title, one) for title, one in columns if any(one.values())])
