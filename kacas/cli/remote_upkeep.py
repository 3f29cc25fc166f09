"""The commands that look after a remote: usage, verify, gc, rm and index."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from kacas.cli import names, output
from kacas.cli.command import ExampleCommand, json_option
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas_remote.remote import Remote
    from kacas_remote.upkeep.collect import CollectReport
    from kacas_remote.upkeep.remove import Removal
    from kacas_remote.upkeep.usage import Usage

_DAMAGED, _UNCHECKED, _UNREAD = 5, 6, 9
_NAME = click.argument("name", required=False, shell_complete=names.of_remotes)
_ONE_OBJECT = "Print one JSON object, for programs."


def _open(session: Session, name: str | None) -> Remote:
    """The remote of that name, or the default one."""
    from kacas_remote.configuration import read_remotes
    from kacas_remote.errors import RemoteNotFoundError
    from kacas_remote.remote import open_remote

    settings = session.settings()
    if name is None:
        chosen = settings.remote or next((one.name for one in read_remotes(settings) if one.default), None)
        if chosen is None:
            raise RemoteNotFoundError("no remote is the default; name one, see `kacas remote list`")
        name = chosen
    return open_remote(name, settings)


@click.command(cls=ExampleCommand, examples=["kacas remote usage lab", "kacas remote usage --json lab"])
@_NAME
@json_option(_ONE_OBJECT)
@click.pass_obj
def usage(session: Session, name: str | None, as_json: bool) -> None:
    """Say what takes how much room in a remote.

    What deduplication and compression saved, and what nobody needs, too. Every table and recipe is read, no
    content. Without NAME, of the default remote.
    """
    from kacas_remote.upkeep.usage import usage as look

    with session.bar:
        report = look(_open(session, name), session.bar)
    if as_json:
        output.json_line(dataclasses.asdict(report))
    else:
        _print_usage(report)


def _print_usage(report: Usage) -> None:
    rows = [[what, f"{held.count:,}", output.human_size(held.size)] for what, held in sorted(report.classes.items())]
    output.table(["what", "blobs", "size"], rows)
    output.line(f"{output.count(report.contents.count, 'content')} of {output.exact_size(report.contents.size)}")
    for publisher, held in sorted(report.publishers.items()):
        who = f"signed by {publisher}" if publisher else "signed by nobody"
        output.line(f"  {who}: {output.count(held.count, 'content')}, {output.human_size(held.size)}")
    output.line(f"saved by deduplication: {output.human_size(report.deduplicated_size)}")
    output.line(f"saved by compression: {output.human_size(report.compressed_size)}")
    garbage = output.human_size(report.garbage_size)
    output.line(f"garbage in packs, about: {garbage}; kacas remote gc frees whole packs of it, --repack the rest")
    if report.condemned.count:
        size = output.human_size(report.condemned.size)
        output.line(f"condemned: {output.count(report.condemned.count, 'pack')}, {size}; the next gc deletes them")
    for problem in report.problems:
        output.warn(problem)


@click.command(cls=ExampleCommand, examples=["kacas remote verify lab", "kacas remote verify --deep lab"])
@_NAME
@click.option("--deep", is_flag=True, help="Download everything and check every byte.")
@json_option(_ONE_OBJECT)
@click.pass_obj
def verify(session: Session, name: str | None, deep: bool, as_json: bool) -> None:
    """Check that a remote holds what it says.

    Every table, recipe, signature and place is read and checked. Each problem is named, with what to do. The
    exit code is 5 if there is any; else 9 if the service did not give something, of which nothing is known then.
    """
    from kacas_remote.upkeep.verify import verify as check

    with session.bar:
        report = check(_open(session, name), deep=deep, progress=session.bar)
    if as_json:
        lists = {name: [one._asdict() for one in getattr(report, name)] for name in ("problems", "unread")}
        output.json_line({"clean": report.clean} | dataclasses.asdict(report) | lists)
    else:
        for problem in report.problems:
            output.line(f"{problem.kind}: {problem.message}")
        for problem in report.unread:
            output.line(f"could not be read: {problem.message}")
        for package, count in sorted(report.unchecked.items()):
            output.line(f"not checked: {output.count(count, 'payload')} that only the package {package} decodes")
        if report.strays:
            output.line(f"not of the group, and left alone: {output.count(report.strays, 'blob')}")
        counted = (
            output.count(report.packs, "pack"),
            output.count(report.chunks, "payload"),
            output.count(report.recipes, "recipe"),
            output.count(report.plain, "plain object"),
            *([f"{output.human_size(report.checked_size)} downloaded"] if deep else []),
        )
        output.line(f"{', '.join(counted)}: {'clean' if report.clean else 'NOT CLEAN'}")
    if report.problems:
        output.flush()
        output.error(f"the remote is not clean: {output.count(len(report.problems), 'problem')}")
        raise click.exceptions.Exit(_DAMAGED)
    if report.unread:
        output.flush()
        output.error(
            f"{output.count(len(report.unread), 'object')} could not be read: verify again when the service answers"
        )
        raise click.exceptions.Exit(_UNREAD)
    if report.unchecked:
        output.flush()
        output.error(f"not all could be checked: pip install {' '.join(sorted(report.unchecked))}, and verify again")
        raise click.exceptions.Exit(_UNCHECKED)


@click.command(
    cls=ExampleCommand,
    examples=["kacas remote gc --dry-run lab", "kacas remote gc lab", "kacas remote gc --repack 0.5 lab"],
)
@_NAME
@click.option("--dry-run", is_flag=True, help="Say what would go. Nothing is changed.")
@click.option("--grace", "grace_h", type=click.FloatRange(min=0), default=24.0, help="Younger packs stay. Hours; 24.")
@click.option(
    "--repack", type=click.FloatRange(0.01, 1), metavar="SHARE", help="Write packs anew of which this share is garbage."
)
@click.option("--wait", "wait_s", type=click.FloatRange(min=0), help="Wait no longer for pushes. Seconds.")
@json_option(_ONE_OBJECT)
@click.pass_obj
def gc(
    session: Session,
    name: str | None,
    dry_run: bool,
    grace_h: float,
    repack: float | None,
    wait_s: float | None,
    as_json: bool,
) -> None:
    """Delete what nobody needs of a remote.

    What recipes name and what was pushed stays; removed contents, and what is left of pushes that were killed, goes. Pushes may
    go on meanwhile: it waits for those that were there before. It may be ended at any moment, the next one goes on. If
    anything cannot be read, nothing is deleted.
    """
    from kacas_remote.upkeep.collect import CollectSettings, collect

    settings = CollectSettings(grace_s=grace_h * 3600, repack=repack, wait_s=wait_s)
    with session.bar:
        report = collect(_open(session, name), settings, dry_run=dry_run, progress=session.bar)
    if as_json:
        output.json_line(dataclasses.asdict(report))
    else:
        _print_collected(report, dry_run)


def _print_collected(report: CollectReport, dry_run: bool) -> None:
    output.line(f"looked at {output.count(report.packs, 'pack')} of {output.human_size(report.size)}")
    if dry_run:
        size = output.human_size(report.condemned_size)
        output.line(f"would delete or write anew {output.count(report.condemned, 'pack')}, and free {size}")
    elif report.waiting:
        waiting = output.count(report.waiting, "push", "pushes")
        output.line(f"{waiting} did not end in time; nothing is deleted yet, the next gc goes on")
    else:
        rescued = report.rescued
        output.line(f"deleted {output.count(report.deleted, 'pack')} of {output.human_size(report.deleted_size)}")
        if rescued.payloads or rescued.recipes:
            payloads, size = output.count(rescued.payloads, "payload"), output.human_size(rescued.size)
            output.line(f"written anew: {payloads} of {size}, {output.count(rescued.recipes, 'recipe')}")
    for sha1 in report.incomplete:
        output.warn(f"sha1://{sha1} lacks chunks; remove it (kacas remote rm) and push it again")


@click.command(
    cls=ExampleCommand,
    examples=[
        "kacas remote rm --dry-run lab sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230",
        "kacas remote rm --yes lab sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230",
    ],
)
@click.argument("name", shell_complete=names.of_remotes)
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.option("--dry-run", is_flag=True, help="Say what would go. Nothing is changed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option(_ONE_OBJECT)
@click.pass_obj
def rm(session: Session, name: str, uris: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove contents and directories from a remote.

    Of a directory its members go, too, that no other directory holds and that were not pushed by themselves. Local copies
    stay. Plain objects are gone at once; of the rest, kacas remote gc frees what nothing else shares.
    """
    from kacas_remote.upkeep.remove import remove

    if not (yes or dry_run or (sys.stdin is not None and sys.stdin.isatty())):
        raise click.UsageError("nobody is there to be asked: give --yes, or --dry-run to see what would go")

    def confirm(removal: Removal) -> bool:
        if yes:
            return True
        output.note(_removal_text(removal, "about to remove"))
        return click.confirm("Remove?", err=True)

    found = remove(_open(session, name), uris, dry_run=dry_run, confirm=confirm)
    if found is None:
        output.note("nothing was removed")
        raise click.exceptions.Exit(1)
    if as_json:
        output.json_line(dataclasses.asdict(found))
        return
    output.line(_removal_text(found, "would remove" if dry_run else "removed"))
    for sha1, directory in found.kept:
        why = f"sha1dir://{directory} holds it" if directory else "it was pushed by itself"
        output.line(f"stays: sha1://{sha1}: {why}")
    if not dry_run and found.contents:
        output.note(f"kacas remote gc {name} frees what nothing else needs")


def _removal_text(removal: Removal, what: str) -> str:
    members = f" ({removal.members:,} of them members)" if removal.members else ""
    contents = f"{output.count(len(removal.contents), 'content')}{members} of {output.human_size(removal.size)}"
    parts = (
        output.count(len(removal.recipes), "recipe"),
        output.count(len(removal.plain), "plain object"),
        output.count(removal.entries, "entry", "entries"),
    )
    return f"{what} {contents}: {', '.join(parts)}"


@click.command(cls=ExampleCommand, examples=["kacas remote index --dry-run lab", "kacas remote index lab"])
@_NAME
@click.option("--dry-run", is_flag=True, help="Say how much would be read. Nothing is changed.")
@json_option(_ONE_OBJECT)
@click.pass_obj
def index(session: Session, name: str | None, dry_run: bool, as_json: bool) -> None:
    """Make recipes of plain objects that have none, as kachery-cloud leaves them.

    Each is read once and checked against its SHA-1; then its parts can be read. What is done stays done if it is ended. The
    exit code is 5 if an object is not what its name says.
    """
    from kacas_remote.upkeep.index import index as make

    with session.bar:
        report = make(_open(session, name), dry_run=dry_run, progress=session.bar)
    if as_json:
        output.json_line(dataclasses.asdict(report))
    else:
        what = "would read" if dry_run else "read"
        size = output.human_size(report.size)
        output.line(
            f"{what} {output.count(report.objects, 'plain object')} of {size}; {output.count(report.made, 'recipe')} made"
        )
        for problem in report.problems:
            output.line(f"damaged: {problem}")
    if report.problems:
        output.flush()
        output.error(f"{output.count(len(report.problems), 'object')} could not be indexed")
        raise click.exceptions.Exit(_DAMAGED)


@click.command(cls=ExampleCommand, examples=["kacas remote mark lab"])
@_NAME
@click.option("--id", "chosen", metavar="ID", help="The id, if the packs name several.")
@json_option('Print {"name", "id"}.')
@click.pass_obj
def mark(session: Session, name: str | None, chosen: str | None, as_json: bool) -> None:
    """Put back the marker of a remote that is gone.

    kacas-remote.json has the id by which packs are believed, and which they name. Nothing is changed where it is there.
    The exit code is 5 if packs name no id, or several.
    """
    try:
        wanted = bytes.fromhex(chosen) if chosen is not None else None
    except ValueError as exc:
        raise click.UsageError("--id takes the 32 hex digits of an id") from exc
    remote = _open(session, name)
    remote.check_writable("put there")
    marked = remote.mark_again(wanted).hex()
    if as_json:
        output.json_line({"name": remote.name, "id": marked})
    else:
        output.line(f"{remote.name} has the id {marked}")


COMMANDS: tuple[Any, ...] = (usage, verify, gc, rm, index, mark)
