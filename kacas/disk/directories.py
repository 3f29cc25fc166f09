"""Directories of records: which are there, and how one is made, when others on other hosts make them, too.

On a network file system nothing is looked up that a listing of its directory did not show: an NFS client that once missed a
name goes on missing it for 30 to 70 seconds [measured], while a listing by path is fresh at once. So directories are listed
from the top down. On a local one a name is looked up, which costs the same however many there are beside it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from kacas.disk.durable import (
    change_again_later,
    list_directory,
    set_mode,
    sync_directory,
    temporary_name,
    translate,
)
from kacas.disk.volume import Volume
from kacas.errors import StoreError, StrayError, WriteError

__all__ = ["Directories"]


class Directories:
    """Those below one store, by their paths there, with slashes. Thread-safe.

    _seen: those that were there once: they stay. _exact: those in which no name is taken for one in other letters.
    _absent: the last that was looked for and not there.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self._seen: set[str] = set()
        self._exact: set[str] = set()
        self._absent = ""

    def names(self, directory: str) -> list[str]:
        """What is in a directory, by a listing made now; [] if there is none. Raises StoreError."""
        if not self._is_there(directory):
            return []
        path = self.volume.path / directory
        try:
            return list_directory(path) if directory else os.listdir(path)
        except FileNotFoundError as exc:
            self._seen.discard(directory)
            if not directory:
                raise StoreError(f"{path} is gone; restore the store or open another", path=str(path)) from exc
            return []
        except NotADirectoryError as exc:
            raise _no_directory(path) from exc
        except OSError as exc:
            raise translate(exc, path, "listing") from exc

    def make(self, directory: str) -> None:
        """Make a directory, its parents too, unless it is there. Raises StoreError."""
        if not directory or directory in self._seen:
            return
        parent = directory.rpartition("/")[0]
        self.make(parent)
        # Whoever makes one has just looked for it, as a rule. If it was made meanwhile, its name is taken.
        if self._absent == directory or not self._is_there(directory):
            self._make_exactly(self.volume.path / directory, parent)
        self._seen.add(directory)

    def forget(self, directory: str) -> None:
        """That a directory and those above it were there: they may not be any more."""
        while directory:
            self._seen.discard(directory)
            directory = directory.rpartition("/")[0]

    def sync_above(self, directory: str) -> None:
        """Make the names of a directory and of all above it durable, whoever made them."""
        while directory:
            directory = directory.rpartition("/")[0]
            path = self.volume.path / directory
            try:
                sync_directory(path)
            except OSError as exc:
                raise translate(exc, path, "syncing") from exc

    def _is_there(self, directory: str) -> bool:
        """Whether there is something of that very name, in a directory that is one."""
        if not directory or directory in self._seen:
            return True
        parent, _, name = directory.rpartition("/")
        if not self._is_there(parent):
            return False
        if parent in self._exact and not self.volume.network:
            path = self.volume.path / directory
            status = _status(path)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                raise _no_directory(path)
            there = status is not None
        else:
            names = self.names(parent)
            there = name in names
            if not self.volume.network:
                self._compare_cases(parent, names)
        if there:
            self._seen.add(directory)
        else:
            self._absent = directory
        return there

    def _compare_cases(self, directory: str, names: list[str]) -> None:
        """Find out whether names are told apart there that differ in upper and lower case only. names: some that are there.

        A file system says so for all of it, or, as ext4, for each directory.
        """
        if directory in self._exact:
            return
        path = os.fsencode(self.volume.path / directory)
        name = next((name for name in map(os.fsencode, names) if name.swapcase() != name), None)  # in ASCII
        if name is None or _status(os.path.join(path, name.swapcase())) is not None:
            return  # not known yet, or not told apart
        if (
            _status(os.path.join(path, name)) is not None
        ):  # it was there all the time, and other letters did not lead to it
            self._exact.add(directory)

    def _make_exactly(self, path: Path, parent: str) -> None:
        """It has its mode when it gets its name: other users may be waiting to write into it."""
        temporary = path.with_name(temporary_name(path.name))
        try:
            temporary.mkdir(0o700, exist_ok=True)  # its name is random: if it is there, a reply was lost
            # On NFS too: nobody ever waits for a random name in capitals.
            self._compare_cases(parent, [temporary.name])
            mine = self._take_name(temporary, path, parent)
        except OSError as exc:
            raise translate(exc, path, "creating") from exc
        if parent not in self._exact:
            self._check_exactly(path, parent, mine)
        if self.volume.network:
            change_again_later(path.parent)

    def _check_exactly(self, path: Path, parent: str, mine: bool) -> None:
        """Raises WriteError if what has the name is listed with another. mine: we gave it the name."""
        names = self.names(parent)
        twins = [name for name in names if name.casefold() == path.name.casefold()]
        if path.name not in names and (mine or twins):
            raise WriteError(
                f"{path} cannot be made: the file system calls it {twins[0] if twins else 'otherwise'!r}; choose another name",
                path=str(path),
            )

    def _take_name(self, temporary: Path, path: Path, parent: str) -> bool:
        """Rename a new directory; False if the name is taken. One that is taken and empty is as good, and makes way."""
        try:
            set_mode(temporary, self.volume.directory_mode)  # mkdir's mode is masked by umask
            os.rename(temporary, path)
            return True
        except OSError as exc:
            with contextlib.suppress(FileNotFoundError):
                temporary.rmdir()
            # In a sticky directory, what another user has just made does not make way: EPERM. After a lost reply: ENOENT.
            if exc.errno in (errno.EEXIST, errno.ENOTEMPTY) or path.name in self.names(parent):
                return False
            raise


def _status(path: Path | bytes) -> os.stat_result | None:
    """None if there is nothing. Raises StoreError."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise translate(exc, Path(os.fsdecode(path)), "looking at") from exc


def _no_directory(path: Path) -> StrayError:
    what = "a file or a symbolic link, which is not followed"
    return StrayError(f"{path} is {what}; a directory belongs there: move it away", path=str(path))
