"""The report: one HTML file with its plots inside, no scripts, nothing from elsewhere, every text escaped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from kacas.upkeep.profile.comparison import Comparison
from kacas.upkeep.profile.figures import Figure, Pipeline, Profile
from kacas.upkeep.profile.plots import Row, bars, dots
from kacas.upkeep.profile.style import STYLE
from kacas.upkeep.profile.tables import Table, about, codec_choice, comparison_table, tables
from kacas.upkeep.profile.wording import escaped, in_unit, rate, seconds, shown, times

_TOP = (
    ("store.auto", "store", "of the data, durability {durability}"),
    ("load.auto", "load", "every byte verified"),
    ("ratio.auto", "ratio", "raw bytes for a stored one"),
    ("slice", "slice", "64 KiB of rows, not read before"),
    ("small_singly", "small puts", "texts of 1 KiB, singly"),
)


def report(profile: Profile, comparison: Comparison | None = None) -> str:
    """The whole page."""
    sections = [
        _top(profile),
        _advice(profile),
        *(_pipeline(pipeline) for pipeline in profile.pipelines),
        _codecs(profile),
        _operations(profile),
        _limits(profile),
        _latencies(profile),
        _compared(comparison),
        _notes(profile),
        _all_tables(profile),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Even if a name slipped through unescaped, nothing could run or be fetched.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>kacas bench, {escaped(profile.created)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, content: str, lead: str = "") -> str:
    paragraph = f"<p>{escaped(lead)}</p>" if lead else ""
    return f"<section><h2>{escaped(title)}</h2>{paragraph}{content}</section>" if content else ""


def _top(profile: Profile) -> str:
    known = {figure.key: figure for figure in profile.operations}
    cards = "".join(
        f'<div class="card"><span>{escaped(name)}</span><b>{escaped(shown(known[key]))}</b>'
        f"<small>{escaped(what.format(durability=profile.place.durability))}</small></div>"
        for key, name, what in _TOP
        if key in known
    )
    rows = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in about(profile))
    when = escaped(f"{profile.created.replace('T', ' ').rstrip('Z')} UTC, measured in {profile.elapsed_s:.1f} s")
    return f'<header><h1>kacas bench</h1><p>{when}</p></header><div class="cards">{cards}</div><dl>{rows}</dl>'


def _advice(profile: Profile) -> str:
    if not profile.advice:
        return _section("What to change", "<p>Nothing: no rule found a gain that is worth it.</p>")
    items = "".join(
        f"<li><b>{escaped(one.do)}</b><p>{escaped(one.gain)}</p><p>{escaped(one.when)}</p>"
        f"<small>rule: {escaped(one.rule)}</small></li>"
        for one in profile.advice
    )
    return _section("What to change", f'<ol class="advice">{items}</ol>')


def _pipeline(pipeline: Pipeline) -> str:
    starts = accumulate((stage.seconds for stage in pipeline.stages), initial=0.0)
    rows = [
        Row(stage.title, (stage.seconds,), seconds(stage.seconds), "stage", start)
        for stage, start in zip(pipeline.stages, starts, strict=False)
    ]
    rows.append(Row("one after the other", (pipeline.stages_s,), seconds(pipeline.stages_s), "sum"))
    rows.append(Row("together, as kacas runs them", (pipeline.wall_s,), seconds(pipeline.wall_s), "wall"))
    lead = (
        "Each stage was run alone, in one thread, on the same bytes. In the pipeline they overlap"
        f": it kept {pipeline.cpu_s / max(pipeline.wall_s, 1e-9):.1f} processors busy."
    )
    return _section(f"Where the time goes: {pipeline.title}", bars(rows, f"stages of {pipeline.title}"), lead)


def _codecs(profile: Profile) -> str:
    if not profile.codecs:
        return ""
    rows = sorted(profile.codecs, key=lambda one: -one.ratio)
    ratios = bars([Row(one.codec, (one.ratio,), times(one.ratio), "stage") for one in rows], "ratio of each codec")
    speeds = dots(
        [
            Row(one.codec, (one.encode, one.decode), f"{rate(one.encode)}")
            for one in rows
            if one.codec != "raw"  # takes no work
        ],
        rate,
        ("encode", "decode"),
        "speed of each codec",
    )
    legend = '<p class="legend"><i class="encode"></i>encode (the figure) <i class="decode"></i>decode; raw takes no work</p>'
    lead = f"Raw bytes for a stored one, and raw bytes a second of one processor's time; {codec_choice(profile)}."
    return _section("Codecs on this data", f"{ratios}{legend}{speeds}" if len(rows) > 1 else ratios, lead)


def _operations(profile: Profile) -> str:
    parts = []
    for unit, what in (("B/s", "speed"), ("s", "time"), ("/s", "a second")):
        rows = _figure_rows(profile.operations, unit)
        if rows:
            parts.append(f"<h3>{what}</h3>{bars(rows, f'operations: {what}')}")
    return _section("Storing, loading, slicing", "".join(parts), "Real stores, made and removed: medians.")


def _figure_rows(figures: tuple[Figure, ...], unit: str) -> list[Row]:
    return [
        Row(figure.title, (figure.value,), shown(figure), "load" if figure.key.startswith("load.") else "stage")
        for figure in figures
        if figure.unit == unit
    ]


def _limits(profile: Profile) -> str:
    rates = [Row(figure.title, (figure.value,), shown(figure)) for figure in profile.limits if figure.unit == "B/s"]
    others = [figure for figure in profile.limits if figure.unit != "B/s"]
    plot = dots(rates, rate, ("encode",), "limits of the machine") if rates else ""
    rest = "".join(f"<dt>{escaped(figure.title)}</dt><dd>{escaped(shown(figure))}</dd>" for figure in others)
    return _section("What the machine can do", f"{plot}<dl>{rest}</dl>", "One thread each; what no store can outrun.")


def _latencies(profile: Profile) -> str:
    values = {figure.key: figure for figure in profile.latencies}
    rows = []
    for key, figure in values.items():
        slow = values.get(key.replace(".median", ".p95"))
        if key.endswith(".median") and slow is not None:
            title = figure.title.removesuffix(", median")
            rows.append(Row(title, (figure.value, slow.value), shown(figure)))
    if not rows:
        return ""
    legend = '<p class="legend"><i class="encode"></i>median (the figure) <i class="decode"></i>95 % are below</p>'
    plot = dots(rows, seconds, ("encode", "decode"), "latencies of the file system")
    return _section("What publishing waits for", legend + plot, "Steps on the store's file system, one at a time.")


def _compared(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    table = comparison_table(comparison)
    plots = "".join(_ratio_rows(comparison))
    return _section(
        table.title,
        f"<p>{escaped(table.note)}</p>{plots}<details><summary>all figures</summary>{_html_table(table)}</details>",
    )


def _ratio_rows(comparison: Comparison) -> Iterator[str]:
    """What became better or worse, the largest changes first."""
    for better, what, kind in (("yes", "better", "better"), ("no", "worse", "worse")):
        found = [change for change in comparison.changes if change.better == better and change.ratio]
        found.sort(key=lambda change: -max(change.ratio or 0, 1 / (change.ratio or 1)))
        rows = [
            Row(
                change.title,
                (max(change.ratio or 0, 1 / (change.ratio or 1)),),
                f"{in_unit(change.new or 0, change.unit)}",
                kind,
            )
            for change in found[:12]
        ]
        if rows:
            yield f"<h3>{what}, by so many times (the figure is the new one)</h3>{bars(rows, what)}"


def _notes(profile: Profile) -> str:
    return _section("Notes", "".join(f"<p>{escaped(note)}</p>" for note in profile.notes))


def _all_tables(profile: Profile) -> str:
    content = "".join(f"<h3>{escaped(table.title)}</h3>{_html_table(table)}" for table in tables(profile))
    return f"<section><details><summary>All figures as tables</summary>{content}</details></section>"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escaped(name)}</th>" for name in table.header)
    rows = "".join(
        "<tr>"
        + "".join(f"<td{'' if n < table.words else ' class=number'}>{escaped(cell)}</td>" for n, cell in enumerate(row))
        + "</tr>"
        for row in table.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
