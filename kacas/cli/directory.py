"""The commands that look into directories: ls and diff."""

from __future__ import annotations

import dataclasses

import click

from kacas.cli import output
from kacas.cli.command import ExampleCommand, json_option
from kacas.cli.session import Session

_EXAMPLE = "sha1dir://644de046f59c059a4459190a8d7e0078d4365dd0"
_SIGNS = {"added": "+", "removed": "-", "content": "M", "mode": "x", "type": "T"}


@click.command(
    cls=ExampleCommand, examples=[f"kacas ls {_EXAMPLE}", f"kacas ls {_EXAMPLE}/sub", f"kacas ls --json {_EXAMPLE} sub"]
)
@click.argument("uri")
@click.argument("path", default="")
@json_option('Print {"name", "type", "size", "executable", "uri", "target"}, one object per line.')
@click.pass_obj
def ls(session: Session, uri: str, path: str, as_json: bool) -> None:
    """List a directory.

    PATH is one below the URI. A directory's name ends with /, an executable file's with *.
    """
    with session.open_store() as store:
        items = store.list_dir(uri, path)
    if as_json:
        for item in items:
            output.json_line(dataclasses.asdict(item))
        return
    for item in items:
        size = "" if item.size is None else output.human_size(item.size)
        mark = {"directory": "/", "link": f" -> {item.target}"}.get(item.type, "*" if item.executable else "")
        output.line(f"{size:>10}  {item.name}{mark}")


@click.command(
    cls=ExampleCommand, examples=[f"kacas diff {_EXAMPLE} sha1dir://0f1e2d3c4b5a69788796a5b4c3d2e1f001234567"]
)
@click.argument("uri")
@click.argument("other")
@json_option('Print {"path", "change", "before", "after"} for each difference, one object per line.')
@click.pass_obj
def diff(session: Session, uri: str, other: str, as_json: bool) -> None:
    """Say how the directory OTHER differs from URI.

    One line for each path: + added, - removed, M other content, x the executable bit, T another type. Nothing is
    printed for equal directories; an added or removed directory is one line.
    """
    with session.open_store() as store:
        for found in store.diff(uri, other):
            if as_json:
                output.json_line(dataclasses.asdict(found))
            else:
                slash = "/" if "directory" in (found.after or found.before or "") else ""
                output.line(f"{_SIGNS[found.change]} {found.path}{slash}")
