"""The command bench: a profile of this machine, the store's place and the user's data."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kacas.cli import output
from kacas.cli.command import ExampleCommand, filled, json_option
from kacas.cli.progress import Steps
from kacas.cli.session import Session
from kacas.errors import DestinationError

if TYPE_CHECKING:
    from kacas.upkeep.profile.comparison import Comparison
    from kacas.upkeep.profile.figures import Profile

_QUICK_MIB = 16


@click.command(
    cls=ExampleCommand,
    examples=[
        "kacas bench",
        "kacas bench --input recording.npy --html report.html",
        "kacas bench --json > today.json; kacas bench --compare today.json",
    ],
)
@click.option(
    "--input",
    "source",
    metavar="PATH",
    type=click.Path(readable=False),
    callback=filled,
    help="Measure on this .npy file, any other file or directory, instead of a generated recording.",
)
@click.option("--quick", is_flag=True, help=f"The same as --size-mib {_QUICK_MIB}: a look, with less exact figures.")
@click.option(
    "--size-mib",
    type=click.IntRange(1, 256),
    metavar="N",
    help="How much data to measure on, at most: 128. The disk takes up to four times that for the moment.",
)
@click.option(
    "--compare",
    metavar="OLD.json",
    type=click.Path(readable=False),
    callback=filled,
    help="Show every figure beside that of an earlier run.",
)
@click.option(
    "--html",
    metavar="PATH",
    type=click.Path(readable=False),
    callback=filled,
    help="Write a report with plots, too: one file that needs no network.",
)
@json_option("Print one JSON object, for programs and for --compare.")
@click.pass_obj
def bench(
    session: Session,
    source: str | None,
    quick: bool,
    size_mib: int | None,
    compare: str | None,
    html: str | None,
    as_json: bool,
) -> None:
    """Profile this machine, the store's disk and your data.

    It says in less than a minute where the time goes, what to change, and what to expect of it. Nothing is stored: it
    works in a hidden directory beside the store's packs and in one beside its index, and both go at the end. Of large
    inputs it takes a sample.
    """
    from kacas.upkeep.profile import profile
    from kacas.upkeep.profile.comparison import compare as compared
    from kacas.upkeep.profile.profile_json import as_object, read_profile

    if quick and size_mib is not None:
        raise click.UsageError("give either --quick or --size-mib")
    # What would only be noticed after a minute.
    old = None if compare is None else read_profile(Path(compare))
    target = None if html is None else _checked_target(html, source, compare)
    size = (_QUICK_MIB if quick else size_mib or 128) << 20
    settings = session.settings()
    with Steps() as steps:
        found = profile(session.directory(settings), settings=settings, source=source, size=size, progress=steps)
    comparison = None if old is None else compared(old, found)
    failure: DestinationError | None = None
    if target is not None:
        try:
            _write_report(target, found, comparison)
        except DestinationError as exc:
            failure = exc  # what took a minute to measure is shown all the same
    if as_json:
        output.json_line(as_object(found, comparison))
    else:
        _print_report(found, comparison)
        if target is not None and failure is None:
            output.line()
            output.line(f"the report is in {target}")
    if failure is not None:
        raise failure


def _checked_target(html: str, *others: str | None) -> Path:
    """Where the report goes. others: files that are read. Raises UsageError if it cannot be written there."""
    path = Path(os.path.realpath(html))
    for other in others:
        if other is not None and path.exists() and os.path.exists(other) and os.path.samefile(path, other):
            raise click.UsageError(f"--html {html} would overwrite {other}, which is read; name another file")
    if path.is_dir():
        raise click.UsageError(f"{html} is a directory; name the file, such as {os.path.join(html, 'report.html')}")
    if not path.parent.is_dir():
        raise click.UsageError(f"{path.parent} is not a directory; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise click.UsageError(f"{html} cannot be written")
    return path


def _write_report(target: Path, profile: Profile, comparison: Comparison | None) -> None:
    from kacas.upkeep.profile.html import report

    try:
        target.write_text(report(profile, comparison), "utf-8")
    except OSError as exc:
        raise DestinationError(f"{target} cannot be written: {exc.strerror or exc}", path=str(target)) from exc


def _print_report(profile: Profile, comparison: Comparison | None) -> None:
    from kacas.upkeep.profile.tables import about, comparison_table, tables

    rich = sys.stdout.isatty()
    output.fields(about(profile))
    found = tables(profile) + ([] if comparison is None else [comparison_table(comparison)])
    for table in found:
        output.line()
        if rich:
            output.drawn_table(table.title, table.header, table.rows, words=table.words)
        else:
            output.line(table.title)
            output.table(table.header, table.rows)
        if table.note:
            output.line(table.note)
    output.line()
    output.line("What to change")
    if not profile.advice:
        output.line("nothing: no rule found a gain that is worth it")
    for number, advice in enumerate(profile.advice, 1):
        output.line(f"{number}. {advice.do}")
        output.line(f"   {advice.gain}")
        output.line(f"   {advice.when}")
    for note in profile.notes:
        output.line(f"note: {note}")
    output.line(f"measured in {profile.elapsed_s:.1f} s; nothing is left of it")
