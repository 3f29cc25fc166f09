"""The commands that give content back: load and cat."""

from __future__ import annotations

import os
import re
import sys

import click

from kacas.cli import output
from kacas.cli.command import ExampleCommand, filled, json_option
from kacas.cli.session import Session

_WINDOW = 4 << 20  # bytes in memory, whatever the content's size
_RANGE = re.compile(r"(-?\d{1,18})?:(-?\d{1,18})?", re.ASCII)

_EXAMPLE = "sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230"


@click.command(
    cls=ExampleCommand,
    examples=[
        f"kacas load {_EXAMPLE}",
        f"kacas load {_EXAMPLE} -o notes.txt",
        "kacas load sha1dir://644de046f59c059a4459190a8d7e0078d4365dd0 -o results",
    ],
)
@click.argument("uri")
@click.option(
    "-o",
    "--dest",
    metavar="PATH",
    type=click.Path(readable=False),
    callback=filled,
    help="Write a copy here: a file's name, or a directory to put it in. A directory is restored as this.",
)
@click.option("--overwrite", is_flag=True, help="Restoring a directory, replace files that differ.")
@json_option('Print {"uri", "path"}.')
@click.pass_obj
def load(session: Session, uri: str, dest: str | None, overwrite: bool, as_json: bool) -> None:
    """Give content as a file, or restore a directory, and print its path.

    Without --dest the file is in the host-local cache: read-only, and there for a day at least. Every byte
    is verified while it is written. For a part of something large, use cat.

    A file that is there is replaced, when the new one is complete.

    A directory (sha1dir://…) needs --dest. What an earlier, interrupted run restored is kept; a file that is
    there with other content is an error unless --overwrite.
    """
    if dest == "-":
        raise click.UsageError(f"to write to standard output, use: kacas cat {uri}")
    with session.open_store() as store:
        if store.is_dir(uri):
            if dest is None:
                raise click.UsageError("a directory is restored to a place that you name: --dest PATH")
            path = store.load_dir(uri, dest, overwrite=overwrite)
        else:
            path = store.load_file(uri, dest=None if dest is None else _checked_destination(dest))
    if as_json:
        output.json_line({"uri": uri, "path": os.fspath(path)})
    else:
        output.path_line(path)


@click.command(
    cls=ExampleCommand,
    examples=[
        f"kacas cat {_EXAMPLE} | wc -l",
        f"kacas cat {_EXAMPLE} --range 0:128 | xxd",
        f"kacas cat {_EXAMPLE} --start -10",
    ],
)
@click.argument("uri")
@click.option("--start", type=int, metavar="N", help="First byte; negative counts from the end.")
@click.option("--stop", type=int, metavar="N", help="The byte to stop before; negative counts from the end.")
@click.option("--range", "span", metavar="A:B", help="Both at once, like a Python slice: 0:128, 5:, :-1.")
@click.pass_obj
def cat(session: Session, uri: str, start: int | None, stop: int | None, span: str | None) -> None:
    """Write content, or a range of its bytes, to standard output.

    Only the chunks that the range needs are read, and each is verified before its bytes are written: when
    something is damaged, what came before it was right, and the exit code is 5.
    """
    if span is not None:
        if start is not None or stop is not None:
            raise click.UsageError("give either --range or --start and --stop")
        start, stop = _parse_range(span)
    if sys.stdout.isatty():
        session.bar.visible = False
    with session.open_store() as store, store.open_file(uri) as file:
        size = file.seek(0, os.SEEK_END)
        first, last, _ = slice(start, stop).indices(size)
        file.seek(first)
        window = memoryview(bytearray(min(_WINDOW, max(0, last - first))))
        at = first
        while at < last:
            count = file.readinto(window[: last - at])
            output.write_bytes(window[:count])
            at += count
            session.bar("reading", at - first, last - first)


def _checked_destination(dest: str) -> str:
    """The file that a link leads to: the copy is renamed into place, and would replace the link itself."""
    if os.path.islink(dest):
        dest = os.path.realpath(dest)
    if os.path.isdir(dest):
        return dest
    if os.path.exists(dest) and not os.path.isfile(dest):
        raise click.UsageError(f"{dest} is a device or a pipe; to write to it, use: kacas cat URI > {dest}")
    directory = dest if dest.endswith("/") else os.path.dirname(dest)
    if directory and not os.path.isdir(directory):
        raise click.UsageError(f"{directory} is not a directory; make it first")
    return dest


def _parse_range(span: str) -> tuple[int | None, int | None]:
    match = _RANGE.fullmatch(span)
    if match is None:
        raise click.BadParameter(f"{span!r} is not a range such as 0:128, 5: or :-1", param_hint="--range")
    return (int(match[1]) if match[1] else None, int(match[2]) if match[2] else None)
