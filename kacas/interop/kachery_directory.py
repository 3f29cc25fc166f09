"""The directory of kachery-cloud, the ancestor, as it lies on the disk. It is only read.

<directory>/
  sha1/ab/cd/ef/<sha1>                  contents; beside them <sha1>.<random>, left by writers that died
  linked_files/sha1/ab/cd/ef/<sha1>     JSON: path, size, mtime and sha1 of a file that stayed where it was
  mutables/@folder/@folder/key          text; what is in @compute_sha1_cache is a cache of kachery-cloud's own
  private.pem, public.pem               the user's key pair

Nothing in it is trusted: names may be others, what should be a file may be a pipe, and a record may say anything. Symbolic
links below the directory are not followed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kacas.disk.small_file import read_small
from kacas.errors import UnreadableSourceError

_PAIR = re.compile(r"[0-9a-f]{2}", re.ASCII)
_SHA1 = re.compile(r"[0-9a-f]{40}", re.ASCII)
_TEMPORARY = re.compile(r"[0-9a-f]{40}(\.tmp)?\.[0-9A-Za-z]{8,10}", re.ASCII)
_DEPTH = 3  # directories above a content, each named by two of its digits
_MAX_RECORD_SIZE = 64 << 10  # bytes; a path has 4,096 at most
_HASH_CACHE = "@compute_sha1_cache"  # what files were hashed to, as their size and mtime say
_CONTENTS, _LINKS, _MUTABLES = "sha1", "linked_files", "mutables"


class Stored(NamedTuple):
    """A content in the directory. path: of its file; sha1: by its name; size: bytes, as the file says now."""

    path: str
    sha1: bytes
    size: int


class Linked(NamedTuple):
    """A file that stayed where it was. record: the file that says so; path: absolute; size, mtime: when it was linked."""

    record: str
    path: str
    sha1: bytes
    size: int
    mtime: float


class Named(NamedTuple):
    """A mutable. path: of the file that has its value; key: as kachery-cloud writes it, @folder/name, right or not."""

    path: str
    key: str


class Strange(NamedTuple):
    """Something that cannot be what its place says. kind: "strange", "unreadable", or "temporary", a dead writer's."""

    path: str
    kind: str
    why: str


class KacheryDirectory:
    """One such directory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises UnreadableSourceError if it is none."""
        given = os.path.expanduser(os.fspath(path))
        self.path = Path(os.path.realpath(given))
        if not given or not self.path.is_dir():
            raise UnreadableSourceError(
                f"{given or 'the path'} is no directory; name the one of kachery-cloud: KACHERY_CLOUD_DIR says where, or "
                "it is ~/.kachery-cloud",
                path=given,
            )
        try:
            names = set(os.listdir(self.path))
        except OSError as exc:
            raise UnreadableSourceError(f"{self.path} cannot be read: {exc.strerror}", path=str(self.path)) from exc
        known = {_CONTENTS, _LINKS, _MUTABLES, "private.pem", "public.pem"}
        if not names & known:
            raise UnreadableSourceError(
                f"{self.path} has neither sha1/ nor linked_files/ nor mutables/, so it is not kachery-cloud's; "
                "KACHERY_CLOUD_DIR says where that is, or it is ~/.kachery-cloud",
                path=str(self.path),
            )
        self.others = sorted(names - known)  # settings, temporary directories, caches of other services

    def contents(self) -> Iterator[Stored | Strange]:
        """Every content."""
        for found in _files(self.path / _CONTENTS):
            if isinstance(found, Strange):
                yield found
                continue
            try:
                size = found.stat(follow_symlinks=False).st_size
            except OSError as exc:
                yield _unreadable(found.path, exc)
                continue
            yield Stored(found.path, bytes.fromhex(found.name), size)

    def links(self) -> Iterator[Linked | Strange]:
        """Every file that stayed where it was."""
        top = self.path / _LINKS
        if top.is_symlink():
            yield Strange(str(top), "strange", "it is a symbolic link, which is not followed")
            return
        for found in _files(top / _CONTENTS):
            yield found if isinstance(found, Strange) else _link(found.path, found.name)

    def mutables(self) -> Iterator[Named | Strange]:
        """Every mutable, but for the cache that is kept as such."""
        top = str(self.path / _MUTABLES)
        if os.path.islink(top):
            yield Strange(top, "strange", "it is a symbolic link, which is not followed")
            return
        folders = [("", top)] if os.path.lexists(top) else []
        while folders:
            prefix, directory = folders.pop()
            try:
                with os.scandir(directory) as found:
                    for entry in found:
                        key = prefix + entry.name
                        if entry.is_file(follow_symlinks=False):
                            yield Named(entry.path, key)
                        elif not entry.is_dir(follow_symlinks=False):
                            yield Strange(entry.path, "strange", f"it is no mutable{_kind(entry)}")
                        elif not entry.name.startswith("@"):
                            yield Strange(entry.path, "strange", "folders of mutables begin with @")
                        elif key != _HASH_CACHE:
                            folders.append((f"{key}/", entry.path))
            except OSError as exc:
                yield _unreadable(directory, exc)

    def read_small(self, name: str, most: int) -> bytes:
        """The bytes of a file in the directory, at most so many. Raises OSError, ValueError if there are more."""
        return read_small(os.path.join(self.path, name), most)


def _files(top: Path) -> Iterator[os.DirEntry[str] | Strange]:
    """The regular files ab/cd/ef/<40 hex> below `top`, directory by directory; nothing if it is not there."""
    if top.is_symlink():
        yield Strange(str(top), "strange", "it is a symbolic link, which is not followed")
    elif os.path.lexists(top):
        yield from _below(str(top), "")


def _below(directory: str, digits: str) -> Iterator[os.DirEntry[str] | Strange]:
    try:
        with os.scandir(directory) as found:
            if len(digits) < 2 * _DEPTH:
                deeper = []
                for entry in found:
                    if _PAIR.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                        deeper.append(entry.name)  # 256 at most
                    else:
                        yield Strange(
                            entry.path, "strange", f"it is no directory named by two hex digits{_kind(entry)}"
                        )
            else:
                deeper = []
                for entry in found:
                    yield _file(entry, digits)
    except OSError as exc:
        yield _unreadable(directory, exc)
        return
    for name in sorted(deeper):
        yield from _below(os.path.join(directory, name), digits + name)


def _file(entry: os.DirEntry[str], digits: str) -> os.DirEntry[str] | Strange:
    if not entry.is_file(follow_symlinks=False):
        return Strange(entry.path, "strange", f"it is not a regular file{_kind(entry)}")
    if _TEMPORARY.fullmatch(entry.name):
        return Strange(entry.path, "temporary", "it was left by a writer that did not end")
    if not _SHA1.fullmatch(entry.name):
        return Strange(entry.path, "strange", "its name is not a SHA-1, 40 hex digits")
    if not entry.name.startswith(digits):
        return Strange(entry.path, "strange", f"it belongs into {entry.name[:2]}/{entry.name[2:4]}/{entry.name[4:6]}")
    return entry


def _kind(entry: os.DirEntry[str]) -> str:
    return " but a symbolic link, which is not followed" if entry.is_symlink() else ""


def _unreadable(path: str, exc: OSError) -> Strange:
    return Strange(path, "unreadable", f"it cannot be read: {os.strerror(exc.errno or 0)}")


def _link(record: str, name: str) -> Linked | Strange:
    """What a record says, if it makes sense."""
    try:
        said = json.loads(read_small(record, _MAX_RECORD_SIZE))
        path, size, mtime, sha1 = (said[key] for key in ("path", "size", "mtime", "sha1"))
        sound = (
            isinstance(path, str)
            and os.path.isabs(path)
            and "\0" not in path
            and os.fsencode(path)  # UnicodeEncodeError is a ValueError
            and type(size) is int
            and size >= 0
            and type(mtime) in (int, float)
            and sha1 == name
        )
    except OSError as exc:
        return _unreadable(record, exc)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        return Strange(record, "strange", f"it is no record of a linked file ({type(exc).__name__}: {str(exc)[:80]})")
    if not sound:
        return Strange(record, "strange", "it is no record of a linked file: path, size, mtime or sha1 make no sense")
    return Linked(record, path, bytes.fromhex(name), size, float(mtime))
