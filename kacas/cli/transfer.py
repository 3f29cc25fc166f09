"""The commands that send content to a remote: push and sync."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from kacas.cli import names, output
from kacas.cli.command import ExampleCommand, json_option
from kacas.cli.session import Session
from kacas.cli.stdin import lines

if TYPE_CHECKING:
    from kacas.store import Store
    from kacas_remote.push import PushSummary
    from kacas_remote.push.summary import Watcher
    from kacas_remote.remote import Remote

_EVERY_S = 1.0  # between two lines of progress for programs


def rate(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """Bytes per second."""
    from kacas.settings import parse_size

    if text is None:
        return None
    try:
        found = parse_size(text.removesuffix("/s"))
    except ValueError:
        found = 0
    if found <= 0:
        raise click.BadParameter(f"{text!r} is no rate; one is 10M, for ten MiB a second", ctx=ctx, param=param)
    return found


_to = click.option(
    "--to",
    "name",
    metavar="NAME",
    shell_complete=names.of_remotes,
    help="The remote; without it the default one, see `kacas remote list`.",
)
_plain = click.option("--plain", is_flag=True, help="As whole objects, for browsers and kachery clients.")
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
_limit = click.option("--limit", callback=rate, metavar="RATE", help="Send at most so many bytes a second, as 10M.")
_json = json_option("Print JSON, one object per line: what begins, how far it is, a summary.")


@click.command(
    cls=ExampleCommand,
    examples=[
        "kacas push sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230",
        "kacas push --to lab --limit 10M 'run7*.npy'",
        "kacas push --pending",
    ],
)
@click.argument("uris", metavar="[URI|PATTERN]...", nargs=-1)
@_to
@_plain
@click.option("--pending", "is_pending", is_flag=True, help="Go on with everything that was interrupted.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read URIs from standard input, one in each line.")
@_dry_run
@_limit
@_json
@click.pass_obj
def push(
    session: Session,
    uris: tuple[str, ...],
    name: str | None,
    plain: bool,
    is_pending: bool,
    from_stdin: bool,
    dry_run: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Send content to a remote, so that its URI works everywhere.

    URI names a file or a directory, or what is in one. PATTERN, as 'run7*.npy', is compared with the labels that `kacas log`
    shows: all that you keep under such a label is sent. Only what the remote lacks is sent. If it is interrupted, what
    arrived is not sent again: --pending goes on.
    """
    given = [is_pending, from_stdin, bool(uris)].count(True)
    if "" in uris:
        raise click.UsageError("a URI or pattern is empty; is a variable not set?")
    if given != 1:
        raise click.UsageError("give URIs or patterns, or --stdin, or --pending")
    if is_pending and (dry_run or plain):
        raise click.UsageError("--pending goes on as it was begun: it takes neither --dry-run nor --plain")
    if is_pending:
        _push_pending(session, name, limit, as_json)
        return
    with session.open_store() as store:
        wanted = [*lines("URIs")] if from_stdin else [*_matching(store, uris)]
        _push(session, store, name, wanted, plain, dry_run, limit, as_json)


@click.command(
    cls=ExampleCommand,
    examples=["kacas sync", "kacas sync --to lab --dry-run", "kacas sync --json | tail -1 | jq .sent_size"],
)
@_to
@_plain
@_dry_run
@_limit
@_json
@click.pass_obj
def sync(session: Session, name: str | None, plain: bool, dry_run: bool, limit: int | None, as_json: bool) -> None:
    """Send everything that you keep, and that a remote lacks.

    That is what `kacas log` lists and was not forgotten. Nothing is deleted there, and nothing is fetched from there: what is
    not here is fetched when it is loaded.
    """
    with session.open_store() as store:
        wanted = [item.uri for item in store.history() if not item.forgotten]
        _push(session, store, name, wanted, plain, dry_run, limit, as_json)


def _push(
    session: Session,
    store: Store,
    name: str | None,
    uris: Sequence[str],
    plain: bool,
    dry_run: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    from kacas_remote.push import push as run

    remote = _remote(name)
    try:
        summary = run(
            store,
            remote,
            uris,
            plain=plain or None,
            dry_run=dry_run,
            limit_bytes_s=limit,
            progress=watcher(session, as_json),
        )
    except KeyboardInterrupt:
        output.note("what arrived is not sent again; to go on: kacas push --pending")
        raise
    _tell(session, summary, as_json)


def _push_pending(session: Session, name: str | None, limit: int | None, as_json: bool) -> None:
    from kacas.errors import KacasError
    from kacas.pushing import joined
    from kacas.store import Store
    from kacas_remote.errors import PushError
    from kacas_remote.pending import taken
    from kacas_remote.push import push_pending
    from kacas_remote.remote import open_remote

    failures: list[PushError] = []
    with taken() as notes, session.bar:
        mine = [note for note in notes if name in (None, note.push.remote)]
        if not mine:
            output.note("nothing is pending")
        for note in mine:
            try:
                remote = open_remote(note.push.remote)
                with Store.open(note.push.store, create=False, settings=session.settings()) as store:
                    summary, gone = push_pending(
                        note, store, remote, limit_bytes_s=limit, progress=watcher(session, as_json)
                    )
            except PushError as exc:
                failures.append(exc)
                continue
            except KacasError as exc:
                failures.append(note.stays(exc))
                continue
            for uri in gone:
                output.warn(f"{uri} is not in {note.push.store} any more: it was struck out")
            _tell(session, summary, as_json)
    if failures:
        raise joined(failures) from failures[0]


def _remote(name: str | None) -> Remote:
    from kacas_remote.configuration import default_remote, read_remotes
    from kacas_remote.errors import RemoteNotFoundError
    from kacas_remote.remote import open_configured, open_remote

    if name is not None:
        return open_remote(name)
    chosen = default_remote(read_remotes())
    if chosen is None:
        raise RemoteNotFoundError(
            "no remote is the default; say which: --to NAME, or kacas remote default NAME, or add one: kacas remote add NAME URL"
        )
    return open_configured(chosen)


def _matching(store: Store, given: Sequence[str]) -> Iterator[str]:
    """URIs as they are, and for each pattern what is kept under such a label."""
    patterns = [one for one in given if "://" not in one]
    kept = [item for item in store.history() if not item.forgotten] if patterns else []
    for one in given:
        if "://" in one:
            yield one
            continue
        found = [item.uri for item in kept if fnmatchcase(item.label, one)]
        if not found:
            raise click.UsageError(
                f"nothing that you keep has a label like {one!r}; `kacas log` shows them. A file is stored first: kacas store FILE"
            )
        yield from found


def watcher(session: Session, as_json: bool, stage: str = "pushing") -> Watcher:
    """Tells people, or programs, how far it is. stage: of what is too small to tell itself."""
    session.bar.usual = stage
    return ProgressLines(stage) if as_json else session.bar


class ProgressLines:
    """What goes on, for programs: JSON, one object per line. See Watcher."""

    def __init__(self, stage: str) -> None:
        self._name = ""
        self._stage = stage
        self._told_s = 0.0
        self._done = 0
        self._total: int | None = None

    def expect(self, total: int | None) -> None:
        self._total = total
        output.json_line({"event": "expect", "total_size": total})

    def begin(self, name: str) -> None:
        self._name = name
        output.json_line({"event": "begin", "name": name})

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        self._stage = stage
        now = time.monotonic()
        if now - self._told_s >= _EVERY_S:
            self._told_s = now
            output.json_line(
                {
                    "event": stage,
                    "name": self._name,
                    "done_size": done,
                    "size": total,
                    "total_done_size": self._done + done,
                    "total_size": self._total,
                }
            )
            sys.stdout.flush()

    def finished(self, size: int) -> None:
        self._done += size
        self(self._stage, 0, None)


def _tell(session: Session, summary: PushSummary, as_json: bool) -> None:
    if as_json:
        output.json_line({"event": "summary"} | asdict(summary) | {"deduplicated_size": summary.deduplicated_size})
        return
    with session.bar:
        pass  # it is taken away before anything is printed
    would = "would be " if summary.dry_run else ""
    rows = [
        ("contents", f"{output.count(summary.contents, 'content')}, {output.human_size(summary.raw_size)}"),
        (
            "there already",
            f"{output.count(summary.contents_there, 'content')}, {output.human_size(summary.raw_size_there)}",
        ),
        (f"{would}sent", f"{output.human_size(summary.sent_size)} {_sent(summary)}"),
    ]
    if not summary.dry_run:
        rate = summary.sent_size / summary.seconds if summary.seconds else 0
        rows.append(
            (
                "took",
                f"{summary.seconds:.1f} s, {output.human_size(rate)}/s, {output.count(summary.requests, 'request')}",
            )
        )
    output.fields(rows)


def _sent(summary: PushSummary) -> str:
    if summary.plain_objects:
        return f"in {output.count(summary.plain_objects, 'plain object')}"
    if not summary.chunks_sent:
        return "in no chunk"
    return (
        f"in {output.count(summary.chunks_sent, 'chunk')}; {output.count(summary.chunks_there, 'chunk')} there already"
    )
