"""The commands that look after a store: verify, index rebuild and index merge."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from kacas.cli import output
from kacas.cli.command import CommandGroup, ExampleCommand, json_option
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas.model.description import SegmentStats
    from kacas.upkeep.verify import Problem, VerifyReport

_DAMAGED, _UNCHECKED = 5, 6


@click.command(
    cls=ExampleCommand,
    examples=["kacas verify", "kacas verify --quick", "kacas verify --json | jq -r '.problems[].uris[]'"],
)
@click.option("--quick", is_flag=True, help="Check the packs and that all parts are there, without hashing contents.")
@click.option(
    "--no-linked", is_flag=True, help="Do not read linked files: look whether they are there, with their size."
)
@json_option("Print one JSON object, for programs.")
@click.pass_obj
def verify(session: Session, quick: bool, no_linked: bool, as_json: bool) -> None:
    """Read the whole store and say what is wrong with it.

    Every problem is listed under its pack, with the URIs that it touches. The exit code is 5 if there is
    any, else 6 if something could not be checked because its codec is not installed. Leftovers of writers
    that died, and damage in segments and in packs that were merged into a good one, are only notes. To heal
    a content, store it again: what is found damaged here is not used any more.
    """
    from kacas.upkeep import verify as upkeep

    with session.open_store() as store:
        report = upkeep.verify(store, quick=quick, linked=not no_linked)
    if as_json:
        output.json_line({"clean": report.clean} | dataclasses.asdict(report))
    else:
        _print_report(report)
    if report.problems:
        packs = len({problem.pack for problem in report.problems if problem.pack})
        where = f" in {output.count(packs, 'pack')}" if packs else ""
        found = output.count(len(report.problems), "problem")
        output.flush()
        output.error(
            f"the store is not clean: {found}{where}; restore packs, records and linked files, or store the contents again"
        )
        raise click.exceptions.Exit(_DAMAGED)
    if report.unchecked:
        output.flush()
        packages = " ".join(sorted(report.unchecked))
        output.error(f"not all could be checked, and nothing else is wrong: pip install {packages}, and verify again")
        raise click.exceptions.Exit(_UNCHECKED)


def _print_report(report: VerifyReport) -> None:
    by_place: dict[str, list[Problem]] = {}
    for problem in report.problems:
        elsewhere = "segments" if problem.kind == "contradicting" else "records" if problem.record else "contents"
        place = f"pack {problem.pack}" if problem.pack else elsewhere
        by_place.setdefault(place, []).append(problem)
    for place, problems in sorted(by_place.items()):
        output.line(place)
        for problem in problems:
            output.line(f"  {problem.kind}: {problem.message}")
        for uri in sorted({uri for problem in problems for uri in problem.uris}):
            output.line(f"  cannot be loaded: {uri}")
    for problem in report.redundant:
        what = f"pack {problem.pack} is {problem.kind}; all that it held is in a merged pack too"
        output.line(f"note: {what if problem.pack else problem.message}")
    for package, count in sorted(report.unchecked.items()):
        output.line(
            f"not checked: {output.count(count, 'payload')} that can be decoded with the package {package} only"
        )
    for name in report.orphans:
        output.line(f"note: {name} is no pack and no segment: left by a writer that died, or one at work now")
    verdict = "clean" if report.clean else "NOT CLEAN" if report.problems else "NOT WHOLLY CHECKED"
    counted = (
        output.count(report.packs, "pack"),
        output.count(report.chunks, "chunk"),
        output.count(report.contents, "content"),
        *([output.count(report.records, "record")] if report.records else []),
        f"{output.human_size(report.checked_size)} read",
    )
    output.line(f"{', '.join(counted)}: {verdict}")


@click.group(cls=CommandGroup, no_args_is_help=False, examples=["kacas index rebuild", "kacas index merge"])
def index() -> None:
    """Look after the host-local index, and the segments that all hosts share."""


@click.command(cls=ExampleCommand, examples=["kacas index rebuild"])
@json_option()
@click.pass_obj
def rebuild(session: Session, as_json: bool) -> None:
    """Make the index anew, from the tables of the packs that no segment holds.

    It is a cache of the packs' tables and may be lost at any time: this is only needed when it is broken.
    """
    with session.open_store() as store:
        records = store.rebuild_index()
        held = store.segment_stats()
    if as_json:
        output.json_line({"records": records, "segments": dataclasses.asdict(held)})
        return
    output.line(f"the index is new, with {output.count(records, 'chunk record')}")
    if held.segments:
        _print_segments(held)


@click.command(cls=ExampleCommand, examples=["kacas index merge"])
@json_option()
@click.pass_obj
def merge(session: Session, as_json: bool) -> None:
    """Merge the tables of all packs into one sorted segment.

    A host that has no index yet opens the store at once then, instead of reading every table. It happens by itself, in
    parts, while you store; run this after filling a large store, or once a week for one of many millions of chunks. A
    segment four times as large as all that is new stays as it is, beside smaller ones.
    """
    with session.open_store() as store:
        held = store.merge_segments()
    if as_json:
        output.json_line(dataclasses.asdict(held))
    else:
        _print_segments(held)


def _print_segments(held: SegmentStats) -> None:
    rows = f"{output.count(held.chunks, 'chunk record')} and {output.count(held.entries, 'entry', 'entries')}"
    where = f"{output.count(held.segments, 'segment')} of {output.human_size(held.size)}"
    more = f"; what they replaced takes {output.human_size(held.replaced_size)}" if held.replaced_size else ""
    output.line(f"{rows} of {output.count(held.packs, 'pack')} are in {where}{more}")


index.add_section("Commands", rebuild, merge)
