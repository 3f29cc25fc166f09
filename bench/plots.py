"""SVG plots of the results: few, each of one question, kacas in its own colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.array_report import WHOLE
from bench.keeper_report import SECONDS
from bench.measure import Figures, Series
from bench.measure import figure as figure_text
from bench.results import Results
from bench.workloads import MIB

OURS, THEIRS = "#c8501e", "#5b7690"
OURS_LIGHT, THEIRS_LIGHT = "#efb79f", "#c3cfda"
INK, GRID = "#222222", "#dddddd"
STYLE = {
    "svg.hashsalt": "kacas",  # the same results give the same bytes
    "svg.fonttype": "path",  # letters as outlines: no reader's fonts move them
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
GROWING = {
    "bare_cold_s": "open without an index or segments",
    "cold_s": "open without an index",
    "open_s": "open",
    "miss_s": "prove that a content is missing",
    "present_s": "find a chunk",
    "absent_s": "find that there is no such chunk",
}
MOST_TICKS = 7  # of a logarithmic axis, else only powers of ten
MARKERS = "osD^vP*Xhpd8"


def draw(results: Results, directory: Path) -> list[str]:
    """Write the plots that the results have figures for to `directory`; returns their names, without the ending."""
    directory.mkdir(parents=True, exist_ok=True)
    names = []
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        for name, make in PLOTS.items():
            figure = make(results)
            if figure is None:
                (directory / f"{name}.svg").unlink(missing_ok=True)  # of other results
                continue
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.1)
            names.append(name)
    return names


def store(results: Results) -> Figure | None:
    """Seconds to store each array, and what a sync adds."""
    layers = (("store_s", "its own call (kacas: durable)"), ("total_s", "and a sync after it"))
    return _panels(results, layers, "seconds to store, lower is better", stacked=True)


def load(results: Results) -> Figure | None:
    """Seconds to load each array, warm and cold."""
    layers = (("load_s", "pages cached"), ("cold_s", "from the disk"))
    return _panels(results, layers, "seconds to load, lower is better", stacked=False)


def ratio(results: Results) -> Figure | None:
    """Ratio against speed, for what can be compressed."""
    found = {name: figures for name in WHOLE if name != "random" and (figures := results.figures("arrays", name))}
    if not found:
        return None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    grid = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    systems = [one for one in next(iter(found.values())) if one != "sha1"]
    for axes, (name, figures) in zip(grid, found.items(), strict=True):
        size = results.parts["arrays"].plan[f"sizes {name}"]
        for number, system in enumerate(one for one in systems if one in figures):
            one = figures[system]
            speed = [size / MIB / seconds for seconds in one["total_s"].values]
            axes.plot(
                sum(speed) / len(speed),
                one["ratio"].median,
                MARKERS[number % len(MARKERS)],
                ms=9 if _ours(system) else 7,
                color=OURS if _ours(system) else THEIRS,
                mfc=_color(system) if number % 2 or _ours(system) else "white",
                label=system,
                zorder=2 if _ours(system) else 3,  # ours is larger
            )
        axes.set(title=name, xscale="log", xlabel="store and sync, MiB/s")
        _plain_log(axes.xaxis)
        axes.grid()
    grid[0].set_ylabel("ratio: array / disk")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def slices(results: Results) -> Figure | None:
    """Slices a second, on a logarithmic axis."""
    wanted = (
        ("slices", "different chunks", "256 rows (64 KiB) of one chunk"),
        ("tiles", "4 columns", "4 columns, all rows, of tiles"),
    )
    found = [(figures, kind, title) for part, kind, title in wanted if (figures := results.figures("slices", part))]
    if not found:
        return None
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axes, (figures, kind, title) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        systems = list(figures)
        series = {system: figures[system][kind] for system in systems}
        _bars(axes, systems, series)
        medians = [one.median for one in series.values()]
        axes.set(title=title, xlabel="slices a second, higher is better", xscale="log")
        axes.set_xlim(10 ** math.floor(math.log10(min(medians) * 0.8)), max(medians) * 4)
        for at, one in enumerate(series.values()):
            axes.text(max(one.values) * 1.15, at, figure_text(one.median), va="center", fontsize=8)
        _plain_log(axes.xaxis)
    return figure


def small_files(results: Results) -> Figure | None:
    """Seconds to store and restore a tree."""
    figures = results.figures("trees", "trees")
    if not figures:
        return None
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    systems = list(figures)
    _stacked(left, systems, figures, "store_s", "total_s")
    left.set(title=f"store {results.parts['trees'].plan['files']:,.0f} small files", xlabel="seconds, lower is better")
    left.legend(handles=_legend("its own call", "and a sync after it"), loc="best", fontsize=8)
    _bars(right, systems, {system: figures[system]["restore_s"] for system in systems})
    _cut(right, {at: figures[system]["restore_s"].median for at, system in enumerate(systems)})
    right.set(title="restore them", xlabel="seconds, lower is better")
    return figure


def second_versions(results: Results) -> Figure | None:
    """New bytes against time, of a file's second version."""
    found = {name: figures for name in SECONDS if (figures := results.figures(name, name))}
    if not found:
        return None
    titles = {"edited": "a large file, edited", "appended": "an HDF5 file, with more rows"}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (name, figures) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        points = {system: (one["total_s"].median, one["new_size"].median / 1e6) for system, one in figures.items()}
        axes.set(title=titles[name], xscale="log", yscale="log")
        axes.set(xlabel="store the second version and sync, s", ylabel="new on disk, MB")
        _labelled_points(axes, points)
        axes.grid()
    return figure


def growth(results: Results) -> Figure | None:
    """Milliseconds by the number of chunks, on logarithmic axes."""
    if "growth" not in results.parts:
        return None
    curves: dict[str, dict[int, float]] = {what: {} for what in GROWING}
    for name, by in results.parts["growth"].figures.items():
        count = int(name.partition(" ")[0].replace(",", ""))
        for what in GROWING:
            if what in by["kacas"]:
                curves[what][count] = by["kacas"][what].median * 1e3
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (what, curve) in enumerate(curves.items()):
        counts = sorted(curve)
        axes.plot(counts, [curve[count] for count in counts], f"{MARKERS[number]}-", label=GROWING[what])
    axes.set(xscale="log", yscale="log", xlabel="chunks in the store", ylabel="milliseconds", title="kacas, growing")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_log(axis)
    axes.grid()
    figure.legend(loc="outside right center")
    return figure


PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "store": store,
    "load": load,
    "ratio": ratio,
    "slices": slices,
    "small_files": small_files,
    "second_versions": second_versions,
    "growth": growth,
}


def _panels(results: Results, layers: Sequence[tuple[str, str]], title: str, *, stacked: bool) -> Figure | None:
    """A panel for each array: one bar a contender, or two."""
    found = {name: figures for name in WHOLE if (figures := results.figures("arrays", name))}
    found = {name: by for name, by in found.items() if any(layers[-1][0] in one for one in by.values())}
    if not found:
        return None
    figure = Figure(figsize=(9, 2.9 * ((len(found) + 1) // 2)), layout="constrained")
    grid = figure.subplots(-(-len(found) // 2), 2, squeeze=False).flat
    (first, _), (second, _) = layers
    for axes, (name, figures) in zip(grid, found.items(), strict=False):
        systems = [system for system, one in figures.items() if first in one]
        if stacked:
            _stacked(axes, systems, figures, first, second)
        else:
            _bars(axes, systems, {system: figures[system][first] for system in systems}, place=-0.2, height=0.38)
            others = {system: figures[system][second] for system in systems if second in figures[system]}
            _bars(axes, systems, others, place=0.2, height=0.38, light=True)
            places = {at - 0.2: figures[system][first].median for at, system in enumerate(systems)}
            _cut(
                axes,
                places | {at + 0.2: others[system].median for at, system in enumerate(systems) if system in others},
            )
        axes.set_title(f"{name}, {results.parts['arrays'].plan[f'sizes {name}'] / MIB:,.0f} MiB")
    for axes in list(figure.axes)[len(found) :]:
        axes.remove()
    figure.legend(handles=_legend(*(said for _, said in layers)), loc="outside lower center", ncols=2)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _stacked(axes: Any, systems: Sequence[str], figures: Figures, first: str, total: str) -> None:
    """Bars of `first`, and behind them, lighter, of `total`, with its spread."""
    _bars(axes, systems, {system: figures[system][total] for system in systems}, light=True)
    for at, system in enumerate(systems):
        axes.barh(at, figures[system][first].median, 0.72, color=_color(system))
    _cut(axes, {at: figures[system][total].median for at, system in enumerate(systems)})


def _bars(
    axes: Any,
    systems: Sequence[str],
    series: Mapping[str, Series],
    *,
    place: float = 0.0,
    height: float = 0.72,
    light: bool = False,
) -> None:
    """Horizontal bars in the order of `systems`, the first on top, with least and greatest value."""
    for at, system in enumerate(systems):
        if system not in series:
            continue
        one = series[system]
        color = (OURS_LIGHT if _ours(system) else THEIRS_LIGHT) if light else _color(system)
        axes.barh(at + place, one.median, height, color=color)
        if len(one.values) > 1:
            low, high = one.median - min(one.values), max(one.values) - one.median
            axes.errorbar(one.median, at + place, xerr=[[low], [high]], color=INK, lw=0.9, capsize=2, zorder=3)
    axes.set_yticks(range(len(systems)), systems)
    for label, system in zip(axes.get_yticklabels(), systems, strict=True):
        if _ours(system):
            label.set(color=OURS, fontweight="bold")
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _cut(axes: Any, lengths: Mapping[float, float]) -> None:
    """Cut bars that are far longer than all others, their values written at their ends: the others stay readable.

    lengths: place of a bar → its length.
    """
    ordered = sorted(lengths.values())
    kept = next((number for number, one in enumerate(ordered) if number and one > 3 * ordered[number - 1] > 0), 0)
    few = len(ordered) - kept
    if not kept or few > len(ordered) // 4:
        return
    limit = ordered[kept - 1] * 1.3
    axes.set_xlim(0, limit)
    for at, length in lengths.items():
        if length > limit:
            axes.text(
                limit * 0.99, at, f"{figure_text(length)} s →", ha="right", va="center", fontsize=8, color="white"
            )


def _labelled_points(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Points with their names, above or below them, so that neighbours do not write over each other."""
    for system, (x, y) in points.items():
        axes.plot(x, y, "o", ms=9 if _ours(system) else 7, color=_color(system))
    axes.margins(0.18, 0.2)
    placed: list[tuple[float, float]] = []
    for system, (x, y) in sorted(points.items(), key=lambda item: item[1][0]):
        at = axes.transData.transform((x, y))
        level = 0
        while any(abs(at[0] - px) < 70 and abs(at[1] + 12 * _side(level) - py) < 11 for px, py in placed):
            level += 1
        placed.append((at[0], at[1] + 12 * _side(level)))
        axes.annotate(
            system,
            (x, y),
            (0, 9 * _side(level)),
            textcoords="offset points",
            ha="center",
            va="center",
            color=_color(system),
            fontweight="bold" if _ours(system) else "normal",
        )
    for axis in (axes.xaxis, axes.yaxis):
        _plain_log(axis)


def _side(level: int) -> int:
    """Above, below, further above, further below, ..."""
    return (level // 2 + 1) * (1 if level % 2 == 0 else -1)


def _plain_log(axis: Any) -> None:
    """Ticks as people write numbers, not as powers of ten: 1, 2 and 5 of each decade where there is room."""
    low, high = axis.get_view_interval()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axis.set_major_locator(FixedLocator(ticks if len(ticks) <= MOST_TICKS else _powers(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def _powers(ticks: Sequence[float]) -> list[float]:
    """The powers of ten among them."""
    return [tick for tick in ticks if abs(math.log10(tick) - round(math.log10(tick))) < 1e-9]


def _legend(*said: str) -> list[Any]:
    colors = ((OURS, THEIRS), (OURS_LIGHT, THEIRS_LIGHT))
    return [Patch(color=pair[1], label=what) for pair, what in zip(colors, said, strict=True)]


def _ours(system: str) -> bool:
    return system.partition(",")[0] == "kacas"


def _color(system: str) -> str:
    return OURS if _ours(system) else THEIRS
