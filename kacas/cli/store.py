"""The commands that write: init and store."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

import click

from kacas.cli import output
from kacas.cli.command import ExampleCommand, filled, json_option
from kacas.cli.keeping import check_label, keep_all
from kacas.cli.session import Session
from kacas.cli.stdin import Stdin

if TYPE_CHECKING:
    from kacas.store import Store


@click.command(
    cls=ExampleCommand,
    examples=[
        "kacas init",
        "kacas init /data/lab/store",
        "kacas init /scratch/store --durability relaxed",
    ],
)
@click.argument("path", required=False, type=click.Path(file_okay=False, readable=False), callback=filled)
@click.option(
    "--durability",
    type=click.Choice(["full", "relaxed"]),
    help="full (default): what was stored survives a power cut. relaxed: faster, may lose the last seconds.",
)
@json_option()
@click.pass_obj
def init(session: Session, path: str | None, durability: str | None, as_json: bool) -> None:
    """Make a store.

    PATH is where; without it, the default store is made: $KACAS_DIR, else ~/.kacas. The durability is chosen
    here, for good. A store that is there already is left as it is.
    """
    if path is not None:
        if session.store_path is not None:
            raise click.UsageError("give either PATH or --store, not both")
        session.store_path = path
    made = session.make_store(durability)
    with session.open_store() as store:
        if as_json:
            output.json_line(
                {
                    "path": str(store.path),
                    "store_id": store.store_id,
                    "durability": store.durability,
                    "created": made,
                }
            )
            return
        what = "made a store at" if made else "there is a store already at"
        output.line(f"{what} {store.path} (durability {store.durability})")
        if store.path != session.settings().directory:
            output.note(f"to use it everywhere: export KACAS_DIR={store.path}")


def _lengths(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int | None, ...] | None:
    if text is None:
        return None
    try:
        return tuple(None if part.strip() == "*" else int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not lengths such as 64,64,* with * for a whole axis") from None


@click.command(
    cls=ExampleCommand,
    examples=[
        "kacas store movie.npy --codec fast --chunks '100,16,*'",
        "kacas store results --exclude '*.tmp' --exclude .git",
        "tar c results | kacas store - --label results.tar",
    ],
)
@click.argument(
    "paths",
    metavar="PATH...",
    nargs=-1,
    required=True,
    type=click.Path(readable=False, allow_dash=True),
    callback=filled,
)
@click.option("--label", help="The name to remember, instead of the file's own.")
@click.option(
    "--exclude",
    metavar="PATTERN",
    multiple=True,
    help="In directories, leave out names like this (*.tmp), or paths if it has a slash (raw/*.bak). Repeatable.",
)
@click.option("--partial", is_flag=True, help="Store a directory though parts of it cannot be read; they are named.")
@click.option("--rehash", is_flag=True, help="Read files that are known to be unchanged, too.")
@click.option(
    "--codec",
    metavar="NAME",
    default="auto",
    help="How .npy files are compressed: auto (default), fast, small, or a codec: raw, zstd, delta-bytes-lz4...",
)
@click.option(
    "--chunks",
    metavar="N,N,...",
    callback=_lengths,
    help="Keep the array in a .npy file as tiles of this shape, to read it along any axis; * for a whole axis.",
)
@json_option('Print {"uri", "size", "path"} for each PATH, one object per line.')
@click.pass_obj
def store(
    session: Session,
    paths: tuple[str, ...],
    label: str | None,
    exclude: tuple[str, ...],
    partial: bool,
    rehash: bool,
    codec: str,
    chunks: tuple[int | None, ...] | None,
    as_json: bool,
) -> None:
    """Store files and directories and print their URIs.

    PATH is a file, a directory, or - for standard input. The URIs come in the order of the paths, one per line, when all
    are stored safely; on an error none is printed. The store is made if it is not there. A file that has not
    changed since it was stored, as its size and times say, is not read again; --rehash reads it. --codec is for
    arrays in .npy files that are named themselves; what is stored already stays as it is.
    """
    from kacas.codec_choice import check_codec

    check_codec(codec)
    check_label(label, paths)
    if paths.count("-") > 1:
        raise click.UsageError("- is given twice: standard input can be read once")
    if "-" in paths and sys.stdin is None:
        raise click.UsageError("standard input is closed")
    if chunks is not None and (others := [path for path in paths if path == "-" or os.path.isdir(path)]):
        raise click.UsageError(f"--chunks is for .npy files; {others[0]} is none")
    sizes = {path: _stored_size(path) for path in paths}

    def keep(opened: Store, path: str) -> str:
        if path == "-":
            if sys.stdin.isatty():
                output.note("reading from the terminal; end with Ctrl-D")
            with Stdin() as stdin:
                return opened.store_stream(stdin, label=label)
        if chunks is not None:
            return opened.store_file(path, label=label, rehash=rehash, codec=codec, chunks=chunks)
        if os.path.isdir(path):
            return opened.store_dir(path, label=label, exclude=exclude, partial=partial, rehash=rehash)
        return opened.store_file(path, label=label, rehash=rehash, codec=codec)

    keep_all(session, sizes, paths, keep, as_json)


def _stored_size(path: str) -> int | None:
    """The size of a file, None for standard input and directories. What cannot be stored is refused before any work."""
    from kacas.errors import UnreadableSourceError

    if path == "-":
        return None
    try:
        status = os.stat(path)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UnreadableSourceError(f"{path} cannot be read: {why}", path=path) from exc
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableSourceError(
            f"{path} is not a regular file; to store what it yields: kacas store - < {path}", path=path
        )
    return status.st_size
