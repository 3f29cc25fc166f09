"""The command that fetches content from a remote: pull."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kacas.cli import names, output
from kacas.cli.command import ExampleCommand, json_option
from kacas.cli.session import Session
from kacas.cli.stdin import lines
from kacas.cli.transfer import rate, watcher

if TYPE_CHECKING:
    from kacas_remote.pulling import PullSummary


@click.command(
    cls=ExampleCommand,
    examples=[
        "kacas pull sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230",
        "kacas pull --from lab --limit 10M sha1dir://644de046f59c059a4459190a8d7e0078d4365dd0",
        "kacas pull --stdin < uris.txt",
    ],
)
@click.argument("uris", metavar="[URI]...", nargs=-1)
@click.option(
    "--from",
    "name",
    metavar="NAME",
    shell_complete=names.of_remotes,
    help="Ask this remote only; without it all, as `kacas load` does.",
)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read URIs from standard input, one in each line.")
@click.option("--dry-run", is_flag=True, help="Only say what would be fetched.")
@click.option("--limit", callback=rate, metavar="RATE", help="Fetch at most so many bytes a second, as 10M.")
@json_option("Print JSON, one object per line: what begins, how far it is, a summary.")
@click.pass_obj
def pull(
    session: Session,
    uris: tuple[str, ...],
    name: str | None,
    from_stdin: bool,
    dry_run: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Fetch content into the store, so that it is here without a network.

    URI names a file or a directory, or what is in one. All of it is fetched and compared with its SHA-1. What is here already
    is not fetched again; nor, if it is interrupted, what had arrived: give the same command again.

    What could not be had is named, all else is here, and the exit code is that of the first that failed.
    """
    if bool(uris) == from_stdin:
        raise click.UsageError("give URIs, or --stdin")
    from kacas_remote.pulling import pull as run

    wanted = [*lines("URIs")] if from_stdin else uris
    told = watcher(session, as_json, "fetching")
    with session.open_store(name, limit, told if as_json else None) as store:
        summary = run(store, wanted, dry_run=dry_run, progress=told)
    _tell(summary, as_json)
    for text, exc in list(summary.failed.items())[1:]:
        output.warn(f"{text}: {exc}")
    for exc in summary.failed.values():
        raise exc


def _tell(summary: PullSummary, as_json: bool) -> None:
    if as_json:
        failed = {text: str(exc) for text, exc in summary.failed.items()}
        output.json_line(
            {
                "event": "summary",
                "dry_run": summary.dry_run,
                "contents": summary.contents,
                "contents_here": summary.contents_here,
                "raw_size": summary.raw_size,
                "raw_size_here": summary.raw_size_here,
                "seconds": summary.seconds,
                "failed": failed,
            }
        )
        return
    there = output.count(summary.contents_here, "content")
    rows = [
        ("contents", f"{output.count(summary.contents, 'content')}, {output.human_size(summary.raw_size)}"),
        ("here already", f"{there}, {output.human_size(summary.raw_size_here)}"),
    ]
    new = summary.raw_size - summary.raw_size_here
    if summary.dry_run:
        rows.append(("would be fetched", output.human_size(new)))
    else:
        rate = new / summary.seconds if summary.seconds else 0
        rows.append(("fetched", f"{output.human_size(new)} in {summary.seconds:.1f} s, {output.human_size(rate)}/s"))
    output.fields(rows)
