"""The commands that write: init and store."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

import click

from kacas.cli import output
from kacas.cli.command import ExampleCommand, filled, json_option
from kacas.cli.keeping import check_label, keep_all, push_options
from kacas.cli.session import Session
from kacas.cli.stdin import Stdin

if TYPE_CHECKING:
    from kacas.disk.volume import Sharing, Volume
    from kacas.store import Store


@click.command(
    cls=ExampleCommand,
    examples=[
        "kacas init",
        "kacas init /data/lab/store --shared --group lab",
        "kacas init /scratch/store --durability relaxed",
    ],
)
@click.argument("path", required=False, type=click.Path(file_okay=False, readable=False), callback=filled)
@click.option(
    "--durability",
    type=click.Choice(["full", "relaxed"]),
    help="full (default): what was stored survives a power cut. relaxed: faster, may lose the last seconds.",
)
@click.option("--shared", is_flag=True, help="A group of users has it in common: members read and add.")
@click.option("--group", metavar="NAME", help="The group, with --shared. You must be a member.")
@click.option("--sticky", is_flag=True, help="With --shared: members delete only what they made themselves.")
@click.option("--world-readable", is_flag=True, help="With --shared: everybody else reads, too.")
@json_option()
@click.pass_obj
def init(
    session: Session,
    path: str | None,
    durability: str | None,
    shared: bool,
    group: str | None,
    sticky: bool,
    world_readable: bool,
    as_json: bool,
) -> None:
    """Make a store.

    PATH is where; without it, the default store is made: $KACAS_DIR, else ~/.kacas. Durability and sharing are
    chosen here, for good. A store that is there already is left as it is.

    A store is private unless it is --shared: then all its directories and files belong to the group, with modes that
    no umask changes. Nobody can edit what is there. Members can delete files, unless the store is --sticky.
    """
    if path is not None:
        if session.store_path is not None:
            raise click.UsageError("give either PATH or --store, not both")
        session.store_path = path
    sharing = _sharing(shared, group, sticky, world_readable)
    made = session.make_store(durability, sharing)
    with session.open_store() as store:
        volume = store.repository.volume
        if as_json:
            output.json_line(
                {
                    "path": str(store.path),
                    "store_id": store.store_id,
                    "durability": store.durability,
                    "sharing": volume.settings.sharing,
                    "created": made,
                }
            )
            return
        what = "made a store at" if made else "there is a store already at"
        shared_by = f", {volume.sharing_words()}" if volume.shared else ""
        output.line(f"{what} {store.path} (durability {store.durability}{shared_by})")
        if volume.shared:
            _tell_members(volume)
        if store.path != session.settings().directory:
            output.note(f"to use it everywhere: export KACAS_DIR={store.path}")


def _sharing(shared: bool, group: str | None, sticky: bool, world_readable: bool) -> Sharing | None:
    from kacas.disk.volume import Sharing

    if not shared:
        if group is not None or sticky or world_readable:
            raise click.UsageError("--group, --sticky and --world-readable are for a store that is --shared")
        return None
    if group is None:
        raise click.UsageError("--shared needs the group that shares it: --group NAME (`id -Gn` lists yours)")
    return Sharing(group, sticky, world_readable)


def _tell_members(volume: Volume) -> None:
    """What the members of its group can do, and what keeps them out."""
    from kacas.disk.ownership import closed_to_group, group_name

    gid = os.stat(volume.path).st_gid
    delete = "only its owner can delete what others stored" if volume.settings.sticky else "members can delete files"
    output.note(f"members of {group_name(gid)} read and add; nobody can edit what is there; {delete}")
    for place in closed_to_group(volume.path, gid):
        output.warn(f"members of {group_name(gid)} cannot enter {place}: chmod o+x {place}, or choose another place")


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
        "kacas store results --exclude '*.tmp' --push-to lab",
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
@push_options()
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
    push: bool,
    push_to: str | None,
    as_json: bool,
) -> None:
    """Store files and directories and print their URIs.

    PATH is a file, a directory, or - for standard input. The URIs come in the order of the paths, one per line, when all
    are stored safely; on an error none is printed. The store is made if it is not there. A file that has not
    changed since it was stored, as its size and times say, is not read again; --rehash reads it. --codec is for
    arrays in .npy files that are named themselves; what is stored already stays as it is. What could not be pushed is safe
    here, and printed all the same; kacas push --pending sends it later.
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

    keep_all(session, sizes, paths, keep, push_to if push_to is not None else push or None, as_json)


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
