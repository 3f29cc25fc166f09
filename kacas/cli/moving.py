"""The command that moves in from another system: import-kachery."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from kacas.cli import output
from kacas.cli.command import ExampleCommand, filled, json_option
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas.interop.import_report import ImportReport

_LEFT_OUT = 8
_SHOWN = 20  # of what was left out, for people


@click.command(
    "import-kachery",
    cls=ExampleCommand,
    examples=[
        "kacas import-kachery ~/.kachery-cloud",
        "kacas import-kachery --link /data/kachery-cloud",
        "kacas import-kachery --json ~/.kachery-cloud | jq -r '.left_out[].path'",
    ],
)
@click.argument("directory", metavar="DIR", type=click.Path(readable=False), callback=filled)
@click.option("--copy", is_flag=True, help="Copy linked files too: then nothing outside of the store is needed.")
@click.option("--link", is_flag=True, help="Copy nothing: DIR must stay as it is, and takes no space twice.")
@click.option("--keys", is_flag=True, help="Make the key pair in DIR your identity, in ~/.config/kacas/identity.toml.")
@json_option("Print one JSON object, for programs.")
@click.pass_obj
def import_kachery(session: Session, directory: str, copy: bool, link: bool, keys: bool, as_json: bool) -> None:
    """Import the directory of kachery-cloud: all URIs work on.

    DIR is what KACHERY_CLOUD_DIR names, else ~/.kachery-cloud; it is only read. Every content is hashed, and kept
    if it has the SHA-1 of its name. What is stored in DIR is copied, so that DIR may be deleted afterwards; files that
    were linked stay linked where they are, unless they lie in DIR. If it is interrupted, give the same command again:
    what is here already is not read again. The store is made if it is not there.

    What could not be imported is listed, all else is imported, and the exit code is 8.
    """
    if copy and link:
        raise click.UsageError("give either --copy or --link, not both")
    from kacas.interop.kachery_directory import KacheryDirectory
    from kacas.interop.kachery_import import import_kachery as run

    KacheryDirectory(directory)  # what is none is refused before a store is made
    if session.make_store():
        output.note(f"made a new store at {session.directory(session.settings())}")
    try:
        with session.open_store() as opened:
            report = run(
                opened,
                directory,
                adopt="nothing" if copy else "all" if link else "links",
                keys=keys,
                watcher=session.bar if session.bar.visible else None,
            )
    except KeyboardInterrupt:
        output.note("what was imported is kept; to go on, give the same command again")
        raise
    if as_json:
        output.json_line({"schema": report.schema, "complete": report.complete} | dataclasses.asdict(report))
    else:
        _print_report(report)
    if not report.complete:
        output.flush()
        count = sum(report.counts.values())
        output.error(f"{output.count(count, 'item was', 'items were')} left out; all else is imported")
        raise click.exceptions.Exit(_LEFT_OUT)


def _print_report(report: ImportReport) -> None:
    for left in report.left_out[:_SHOWN]:
        output.line(f"{left.kind}: {left.path}: {left.message}")
    if (more := sum(report.counts.values()) - _SHOWN) > 0:
        output.line(f"and {more:,} more; --json names {'them' if len(report.left_out) >= more + _SHOWN else '10,000'}")
    rows = [
        ("copied", _contents(report.copied, report.copied_size)),
        ("linked", _contents(report.linked, report.linked_size)),
        ("here already", _contents(report.here, report.here_size)),
        ("mutables", f"{report.mutables:,} set, {report.mutables_here:,} here already"),
        ("left out", ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.counts.items())) or "nothing"),
    ]
    if report.key_pair != "none":
        rows.append(
            ("key pair", report.key_pair + ("; --keys imports it" if report.key_pair == "not asked for" else ""))
        )
    if report.temporaries:
        rows.append(("not contents", output.count(report.temporaries, "file") + " that kachery-cloud did not finish"))
    if report.others:
        rows.append(("not looked at", ", ".join(report.others)))
    output.fields(rows)


def _contents(number: int, size: int) -> str:
    return output.count(number, "content") + (f", {output.human_size(size)}" if number else "")
