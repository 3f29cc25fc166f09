"""What store and link share: paths kept in one batch, pushed if that is wanted, one line for each when all are safe."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from kacas.cli import names, output
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas.cli.progress import Bar
    from kacas.pushing import Outgoing
    from kacas.store import Store
    from kacas_remote.configuration import RemoteConfiguration
    from kacas_remote.errors import PushError


def push_options() -> Callable[[Any], Any]:
    """Two of them, so that no path after --push is taken for a name."""
    flag = click.option("--push", is_flag=True, help="Upload it, too, to the default remote.")
    name = click.option(
        "--push-to",
        metavar="NAME",
        shell_complete=names.of_remotes,
        help="Upload it, too, to the remote of this name.",
    )
    return lambda command: flag(name(command))


def check_label(label: str | None, paths: Sequence[str]) -> None:
    """Raises UsageError for one label and several paths."""
    if label is not None and len(paths) > 1:
        raise click.UsageError("--label is for one PATH: each of several keeps its own name")


def keep_all(
    session: Session,
    sizes: dict[str, int | None],
    paths: Sequence[str],
    keep: Callable[[Store, str], str],
    push: str | bool | None,
    as_json: bool,
) -> None:
    """Keep each path, push what was kept, and print the URIs; the store is made if need be.

    sizes: of the files; None where not known. push: as for `store_*`; None: to the remote that is marked for it, but not from a
    store that --store names. Raises PushError after the URIs were printed: they are safe here.
    """
    from kacas.pushing import Outgoing

    remote = _remote(session, push)
    if session.make_store():
        output.note(f"made a new store at {session.directory(session.settings())}")
    with session.open_store() as opened:
        bar = session.bar
        known = [sizes[path] for path in paths]
        bar.expect(None if None in known else sum(size or 0 for size in known))
        uris: list[str] = []
        outgoing = Outgoing(opened)
        with outgoing.batch():
            for path in paths:
                bar.begin("" if path == "-" else os.path.basename(path))
                uris.append(keep(opened, path))
                if remote is not None:
                    outgoing.add(uris[-1], remote)
                bar.finished(sizes[path] or 0)
        failure = None if remote is None else _failure(outgoing, bar)
        # Of what was kept: a file may have grown since its size was asked for.
        rows = [
            {"uri": uri, "size": opened.size(uri) if as_json else 0, "path": path}
            for uri, path in zip(uris, paths, strict=True)
        ]
    for row in rows:
        if as_json:
            output.json_line(row)
        else:
            output.line(str(row["uri"]))
    if failure is not None:
        raise failure


def _failure(outgoing: Outgoing, bar: Bar) -> PushError | KeyboardInterrupt | None:
    """What ended the upload, if it did not go well."""
    from kacas_remote.errors import PushError

    try:
        outgoing.send(bar)
    except (PushError, KeyboardInterrupt) as exc:
        return exc
    return None


def _remote(session: Session, push: str | bool | None) -> RemoteConfiguration | None:
    from kacas.pushing import remote_to_push

    if push is None and session.store_path is not None:
        return None
    return remote_to_push(push, session.settings())
