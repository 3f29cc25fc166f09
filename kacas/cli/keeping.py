"""What store and link share: paths kept in one batch, pushed if that is wanted, one line for each when all are safe."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from kacas.cli import output
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas.store import Store
    from kacas_remote.errors import PushError
    from kacas_remote.remote import Remote


def push_option() -> Callable[[Any], Any]:
    """--push alone is "", the default remote."""
    return click.option(
        "--push",
        metavar="[NAME]",
        is_flag=False,
        flag_value="",
        help="Upload it, too: to the remote of this name, or to the default one.",
    )


def check_label(label: str | None, paths: Sequence[str]) -> None:
    """Raises UsageError for one label and several paths."""
    if label is not None and len(paths) > 1:
        raise click.UsageError("--label is for one PATH: each of several keeps its own name")


def keep_all(
    session: Session,
    sizes: dict[str, int | None],
    paths: Sequence[str],
    keep: Callable[[Store, str], str],
    push: str | None,
    as_json: bool,
) -> None:
    """Keep each path, push what was kept, and print the URIs; the store is made if need be.

    sizes: of the files; None where not known. push: of `push_option`; None: to the remote that is marked for it, but not from a
    store that --store names. Raises PushError after the URIs were printed: they are safe here.
    """
    remote = _remote(session, push)
    if session.make_store():
        output.note(f"made a new store at {session.directory(session.settings())}")
    with session.open_store() as opened:
        bar = session.bar
        known = [sizes[path] for path in paths]
        bar.expect(None if None in known else sum(size or 0 for size in known))
        uris: list[str] = []
        with opened.batch():
            for path in paths:
                bar.begin("" if path == "-" else os.path.basename(path))
                uris.append(keep(opened, path))
                bar.finished(sizes[path] or 0)
        failure = None if remote is None else _pushed(session, opened, remote, uris)
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


def _remote(session: Session, push: str | None) -> Remote | None:
    from kacas.pushing import remote_to_push

    if push is None and session.store_path is not None:
        return None
    return remote_to_push(True if push == "" else push, session.settings())


def _pushed(session: Session, store: Store, remote: Remote, uris: Sequence[str]) -> PushError | None:
    """What went wrong, if it did."""
    from kacas_remote.errors import PushError
    from kacas_remote.push import push

    try:
        push(store, remote, uris, progress=session.bar)
    except PushError as exc:
        return exc
    return None
