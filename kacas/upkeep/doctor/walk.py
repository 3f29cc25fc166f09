"""One walk over all names of a store, a status each: what modes and leftovers are judged by."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kacas.disk.durable import writer_of

_SAY_EACH = 1000
_DEEPEST = 128


@dataclass(frozen=True)
class Found:
    """A name in the store. inside: its path below the store, "" for the store itself. writer: of a temporary (host, pid).

    parent_fd: the directory that it was seen in, open while it is looked at; -1 for the store itself.
    """

    path: Path
    inside: str
    status: os.stat_result
    writer: tuple[str, int] | None
    parent_fd: int = -1

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


def walk(store: Path, say: Callable[[str], None], closed: list[Path]) -> Iterator[Found]:
    """The directory `store` and all below it, each directory before what is in it; no link is followed.

    Members may exchange a directory for a link meanwhile, and root may be who walks: each directory that is opened must be
    the one that was seen. closed: gets those that could not be listed. say: is told now and then how far it is.
    """
    seen = 0
    top = Found(store, "", os.stat(store), None)
    yield top
    waiting = [(top, 0)]
    while waiting:
        directory, depth = waiting.pop()
        try:
            fd = open_same(directory.path, directory.status, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:
            closed.append(directory.path)
            continue
        except OSError:
            continue  # gone meanwhile, or another one
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # a temporary that has its final name now
                    seen += 1
                    if seen % _SAY_EACH == 0:
                        say(f"files and directories: {seen:,}")
                    name = f"{directory.inside}/{entry.name}".lstrip("/")
                    found = Found(directory.path / entry.name, name, status, writer_of(entry.name), fd)
                    yield found
                    if found.is_directory and found.writer is None and depth < _DEEPEST:
                        waiting.append((found, depth + 1))
        finally:
            os.close(fd)


def open_same(path: Path, status: os.stat_result, flags: int) -> int:
    """A descriptor of what has this status, no link. Raises OSError; FileNotFoundError if the path leads to another by now."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not os.path.samestat(os.fstat(fd), status):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "it was exchanged for another", str(path))
    return fd
