"""The commands that look into directories, and into HDF5 files: ls and diff."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

import click

from kacas.cli import output
from kacas.cli.command import ExampleCommand, json_option
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas.model.description import Hdf5Item

_EXAMPLE = "sha1dir://644de046f59c059a4459190a8d7e0078d4365dd0"
_SIGNS = {"added": "+", "removed": "-", "content": "M", "mode": "x", "type": "T"}


@click.command(
    cls=ExampleCommand,
    examples=[f"kacas ls {_EXAMPLE}", f"kacas ls --json {_EXAMPLE} sub", f"kacas ls {_EXAMPLE}/sub/x.nwb"],
)
@click.argument("uri")
@click.argument("path", default="")
@json_option(
    'Print {"name", "type", "size", "executable", "uri", "target"}, one object per line; of an HDF5 file {"path", "type", '
    '"target", "attributes", "shape", "dtype", "storage", "chunks", "filters"}.'
)
@click.pass_obj
def ls(session: Session, uri: str, path: str, as_json: bool) -> None:
    """List a directory, or the outline of an HDF5 or NWB file.

    PATH is one below the URI. A directory's name ends with /, an executable file's with *. Of an HDF5 file, groups, datasets
    and links are shown, from its metadata alone; links are not followed. This needs the package h5py.
    """
    with session.open_store() as store:
        if store.is_h5(uri):
            _outline(store.list_h5(uri, path), as_json)
            return
        if path and store.is_dir(uri) and store.is_h5(file := _below(uri, path)):
            _outline(store.list_h5(file), as_json)
            return
        items = store.list_dir(uri, path)
    if as_json:
        for item in items:
            output.json_line(dataclasses.asdict(item))
        return
    for item in items:
        size = "" if item.size is None else output.human_size(item.size)
        mark = {"directory": "/", "link": f" -> {item.target}"}.get(item.type, "*" if item.executable else "")
        output.line(f"{size:>10}  {item.name}{mark}")


def _below(uri: str, path: str) -> str:
    """The URI of what lies at `path` in the directory."""
    directory, mark, query = uri.partition("?")
    names = [quote_from_bytes(name, safe="") for name in os.fsencode(path).split(b"/") if name]
    return "/".join([directory.rstrip("/"), *names]) + mark + query


def _outline(items: Iterator[Hdf5Item], as_json: bool) -> None:
    if as_json:
        for item in items:
            output.json_line(dataclasses.asdict(item))
        return
    rows = []
    for item in items:
        name = item.path + (f" -> {item.target}" if item.target is not None else "")
        shape = _shape(item)
        chunks = " × ".join(map(str, item.chunks)) if item.chunks else item.storage or ""
        attributes = str(item.attributes) if item.attributes else ""
        rows.append((name, item.type, shape, item.dtype or "", chunks, " + ".join(item.filters), attributes))
    output.table(("path", "type", "shape", "dtype", "chunks", "filters", "attributes"), rows)


def _shape(item: Hdf5Item) -> str:
    if item.shape is None:
        return "?" if item.storage == "virtual" else ""
    return " × ".join(map(str, item.shape)) or "()"


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
