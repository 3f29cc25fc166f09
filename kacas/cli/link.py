"""The command that keeps files where they are: link."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import click

from kacas.cli.command import ExampleCommand, filled, json_option
from kacas.cli.keeping import check_label, keep_all, push_options
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas.store import Store


@click.command(
    cls=ExampleCommand,
    examples=[
        "kacas link /data/recording.dat",
        "kacas link --json /data/*.npy",
        "kacas link /data/session7 --exclude '*.tmp'",
    ],
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(readable=False), callback=filled)
@click.option("--label", help="The name to remember, instead of the file's own.")
@click.option("--exclude", metavar="PATTERN", multiple=True, help="In directories, leave out names or paths like this.")
@click.option("--partial", is_flag=True, help="Link a directory though parts of it cannot be read; they are named.")
@push_options()
@json_option('Print {"uri", "size", "path"} for each PATH, one object per line.')
@click.pass_obj
def link(
    session: Session,
    paths: tuple[str, ...],
    label: str | None,
    exclude: tuple[str, ...],
    partial: bool,
    push: bool,
    push_to: str | None,
    as_json: bool,
) -> None:
    """Keep files or directories where they are and print their URIs.

    The bytes are read once and not copied: the store gets what verifies them, and loads read them from PATH. So
    the files must stay as they are; a load names a file that is gone or was changed. The URIs come in the order of
    the paths, one per line, when all are kept safely; on an error none is printed.
    """
    check_label(label, paths)
    sizes = {path: _size(path) for path in paths}

    def keep(opened: Store, path: str) -> str:
        if sizes[path] is None:
            return opened.link_dir(path, label=label, exclude=exclude, partial=partial)
        return opened.link_file(path, label=label)

    keep_all(session, sizes, paths, keep, push_to if push_to is not None else push or None, as_json)


def _size(path: str) -> int | None:
    """The size of a file, None for a directory; what cannot be linked is refused before any work."""
    from kacas.errors import UnreadableSourceError

    try:
        status = os.stat(path)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UnreadableSourceError(f"{path} cannot be read: {why}", path=path) from exc
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableSourceError(f"{path} is not a regular file; only such can be linked", path=path)
    return status.st_size
