"""A profile and a comparison as tables of words, for whatever shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kacas.upkeep.profile.comparison import Comparison
from kacas.upkeep.profile.figures import Figure, Pipeline, Profile
from kacas.upkeep.profile.wording import in_unit, rate, seconds, shown, size, times

_BAR = 24  # columns


class Table(NamedTuple):
    """words: columns that are not numbers, from the left. note: a line below."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int = 1
    note: str = ""


def about(profile: Profile) -> list[tuple[str, str]]:
    """What was measured, and where."""
    machine, place, data = profile.machine, profile.place, profile.data
    where = "shared over a network" if place.network else "local"
    free = f"{size(place.free_size)} free"
    store = place.store if place.exists else f"{place.store} (not there yet)"
    shape = f", {data.dtype} {' × '.join(map(str, data.shape))}" if data.kind in ("generated", "array") else ""
    files = f", {data.files:,} {'file' if data.files == 1 else 'files'}" if data.kind == "directory" else ""
    part = "" if data.sample_size == data.size else f" of {size(data.size)}"
    return [
        ("machine", f"{machine.processor}, {machine.cpus} processors, {size(machine.memory)} of memory"),
        ("system", f"{machine.system}, Python {machine.python}, kacas {machine.kacas}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in machine.libraries.items())),
        ("store", f"{store}, durability {place.durability}"),
        ("settings", f"{place.threads} threads, {place.memory >> 20} MiB of memory"),
        ("file system", f"{place.file_system or 'unknown'}, {where}, {free}"),
        ("index", f"{place.index}, {place.index_file_system or 'unknown'}"),
        ("measured in", f"{place.scratch} (gone again)"),
        ("data", f"{data.name}: {size(data.sample_size)}{part}{shape}{files}"),
    ]


def tables(profile: Profile) -> list[Table]:
    """All figures, by section; none that are empty."""
    found = [
        Table("What the machine can do", ("limit, one thread", "figure"), _rows(profile.limits)),
        _latencies(profile),
        Table(
            "Codecs on this data",
            ("codec", "what it does", "ratio", "encode", "decode"),
            [(c.codec, c.recipe, times(c.ratio), rate(c.encode), rate(c.decode)) for c in profile.codecs],
            words=2,
            note=f"one thread, in time of the processor; {codec_choice(profile)}",
        ),
        Table("Storing, loading, slicing", ("what", "figure"), _rows(profile.operations)),
        *(_stages(pipeline) for pipeline in profile.pipelines),
    ]
    return [table for table in found if table.rows]


def codec_choice(profile: Profile) -> str:
    """What of the codecs is taken for such data."""
    if len(profile.codecs) > 2:
        return "auto, fast and small choose among them; codec=... names one"
    return "what is no array and no HDF5 file gets zstd, or stays raw where that saves nothing"


def _rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    return [(figure.title, shown(figure)) for figure in figures]


def _latencies(profile: Profile) -> Table:
    values = {figure.key: figure for figure in profile.latencies}
    rows = []
    for key, figure in values.items():
        if key.endswith(".median"):
            slow = values.get(key.replace(".median", ".p95"))
            title = figure.title.removesuffix(", median")
            rows.append((title, shown(figure), shown(slow) if slow else ""))
    return Table("What publishing waits for", ("step on the store's file system", "median", "95 % below"), rows)


def _stages(pipeline: Pipeline) -> Table:
    total = max(pipeline.stages_s, 1e-12)
    most = max((stage.seconds for stage in pipeline.stages), default=1.0)
    rows = [
        (
            stage.title,
            seconds(stage.seconds),
            f"{100 * stage.seconds / total:.0f} %",
            bar(stage.seconds / max(most, 1e-12)),
        )
        for stage in pipeline.stages
    ]
    note = (
        f"one after the other {seconds(pipeline.stages_s)}; together, as they overlap, {seconds(pipeline.wall_s)} "
        f"({seconds(pipeline.cpu_s)} of the processors)"
    )
    return Table(
        f"Where the time goes: {pipeline.title}", ("stage, alone in one thread", "time", "share", ""), rows, note=note
    )


def bar(share: float) -> str:
    """A bar of so much of its room.

    >>> bar(0.5)
    '████████████'
    """
    eighths = round(max(0.0, min(1.0, share)) * _BAR * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def comparison_table(comparison: Comparison) -> Table:
    """Every figure, old and new."""
    marks = {"yes": "better", "no": "worse", "same": "", "": ""}

    def value(number: float | None, unit: str) -> str:
        return "-" if number is None else in_unit(number, unit)

    rows = [
        (
            change.title,
            value(change.old, change.unit),
            value(change.new, change.unit),
            "-" if change.ratio is None else times(change.ratio),
            marks[change.better],
        )
        for change in comparison.changes
    ]
    differences = "; ".join(comparison.differences)
    return Table(
        f"Compared with {comparison.old_created}",
        ("figure", "old", "new", "new / old", ""),
        rows,
        note=f"not the same: {differences}" if differences else "same machine, settings and data",
    )
