"""The command doctor: what is wrong around a store, and who can mend it how."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from kacas.cli import output
from kacas.cli.command import ExampleCommand, json_option
from kacas.cli.progress import Steps
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas.upkeep.doctor.finding import Finding, Report

WARNINGS, PROBLEMS = 10, 11
_WORKS = {True: "yes", False: "NO", None: "not known"}


@click.command(
    cls=ExampleCommand,
    examples=["kacas doctor", "kacas doctor --fix", "kacas doctor --json | jq -r '.findings[].commands[]'"],
)
@click.option("--fix", is_flag=True, help="Mend modes, groups and leftovers where you may.")
@json_option("Print one JSON object, for programs.")
@click.pass_obj
def doctor(session: Session, fix: bool, as_json: bool) -> None:
    """Find and mend what is wrong around the store.

    Looks at its file system, modes, leftovers, packs from outside, and this host's index and cache. Nothing is changed
    without --fix; small files are made in the store and removed, to see what works. Each finding says what is so, why
    it matters, and who can mend it how. The exit code is 11 if a problem remains, else 10 if a warning does. What is
    in the packs is read by `kacas verify`.
    """
    from kacas.upkeep.doctor.finding import SCHEMA, Severity
    from kacas.upkeep.doctor.run import examine

    settings = session.settings()
    with Steps("looking at") as steps:
        report = examine(session.directory(settings), settings, fix=fix, say=steps)
    if as_json:
        output.json_line({"schema": SCHEMA, "healthy": report.healthy} | dataclasses.asdict(report))
    else:
        _print_report(report)
    if not report.healthy:
        raise click.exceptions.Exit(PROBLEMS if report.worst is Severity.PROBLEM else WARNINGS)


def _print_report(report: Report) -> None:
    from kacas.upkeep.doctor.finding import Severity

    kind = report.file_system or "an unknown file system"
    where = "other hosts may share it" if report.network else "of this host"
    rows = [("store", report.store), ("file system", f"{kind}, {where}"), ("sharing", report.sharing)]
    rows += [("packs", f"{report.packs:,}"), *report.facts.items()]
    output.fields((name, value) for name, value in rows if value)
    if report.probes:
        output.line()
        output.table(("tried", "works", "in words"), [(one.id, _WORKS[one.works], one.detail) for one in report.probes])
    for finding in report.findings:
        output.line()
        _print_finding(finding)
    output.line()
    counts = [
        output.count(number, str(severity))
        for severity in (Severity.PROBLEM, Severity.WARNING, Severity.NOTE)
        if (number := sum(one.severity is severity for one in report.remaining))
    ]
    mended = len(report.findings) - len(report.remaining)
    verdict = "healthy" if report.healthy else "NOT HEALTHY"
    more = f"; mended {output.count(mended, 'finding')}" if mended else ""
    output.line(f"{', '.join(counts) or 'nothing found'}{more}: {verdict}")


def _print_finding(finding: Finding) -> None:
    output.line(f"{'mended' if finding.fixed else finding.severity}: {finding.what} [{finding.id}]")
    output.line(f"  why: {finding.why}")
    if finding.do:
        who = f" ({finding.by})" if finding.by else ""
        output.line(f"  do{who}: {finding.do}")
    for command in finding.commands:
        output.line(f"    {command}")
