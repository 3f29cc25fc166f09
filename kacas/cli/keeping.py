"""What store and link share: paths kept in one batch, one line for each when all are safe."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from kacas.cli import output
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas.store import Store


def check_label(label: str | None, paths: Sequence[str]) -> None:
    """Raises UsageError for one label and several paths."""
    if label is not None and len(paths) > 1:
        raise click.UsageError("--label is for one PATH: each of several keeps its own name")


def keep_all(
    session: Session,
    sizes: dict[str, int | None],
    paths: Sequence[str],
    keep: Callable[[Store, str], str],
    as_json: bool,
) -> None:
    """Keep each path and print the URIs; the store is made if need be. sizes: of the files; None where not known."""
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
