"""Storing a directory: every file by its own identity, every directory as the document of its names."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kacas.disk.identities import Identities, Identity
from kacas.errors import InvalidSettingError, KacasError, SkippedWarning, SourceChangedError, UnreadableSourceError
from kacas.formats.file import FileSource, file_layout
from kacas.formats.known_files import KnownFiles
from kacas.ingest import Ingested
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.entry import Kind
from kacas.model.tree import MAX_TREE_SIZE, EntryType, TreeEntry, TreeError, check_name, encode_tree
from kacas.model.uri import DirectoryUri, label_bytes
from kacas.repository import Repository

_TRIES = 3  # for a file that changes while it is read
_MAX_HARD_LINKS = 1 << 20  # remembered, to read each file once
_TOGETHER = 512  # small files that are handed to the batch at once
_TOGETHER_SIZE = 2 << 20  # bytes
_PACKAGE = __name__.partition(".")[0]
_MAX_NAMED = 20  # paths in one message
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def store_dir(
    repository: Repository,
    identities: Identities,
    path: str | os.PathLike[str],
    label: str | None,
    exclude: Iterable[str],
    partial: bool,
    rehash: bool,
) -> str:
    """Store a directory with all below it; see `kacas.store_dir`."""
    top, name = named_directory(repository, path, label)
    with repository.batch():
        walk = Walk(repository, KnownFiles(identities, rehash=rehash), exclude)
        uri = walk.keep(top, name, partial=partial)
    walk.warn(top)
    return uri


def named_directory(repository: Repository, path: str | os.PathLike[str], label: str | None) -> tuple[str, str]:
    """The absolute path, and the label, which is the directory's name unless given.

    Raises UnreadableSourceError if it is no directory, or kacas' own, and InvalidLabelError, before anything is read.
    """
    if not os.fspath(path):
        raise UnreadableSourceError("the path is empty; is a variable not set?", path="")
    top = os.path.abspath(path)
    if not os.path.isdir(top):
        what = "not a directory; store_file takes files" if os.path.lexists(top) else "not there"
        raise UnreadableSourceError(f"{path} is {what}", path=str(path))
    for place in (repository.volume.path, repository.cache.parent):
        if Path(os.path.realpath(top)).is_relative_to(os.path.realpath(place)):
            raise UnreadableSourceError(f"{path} lies in {place}, which is kacas' own", path=str(path))
    name = os.path.basename(top) if label is None else label
    label_bytes(name)
    return top, name


class _Frame(NamedTuple):
    """A directory whose entries are being taken. path: where it is; relative: from the top, with a slash, or empty."""

    path: bytes
    relative: bytes
    identity: tuple[int, int]
    names: Iterator[os.DirEntry[bytes]]
    known: dict[bytes, Identity]  # files that have not changed, by name
    taken: list[TreeEntry]


# A small file that was read: its name, its state, the same before and after, when it was synced, and its bytes.
_Read = tuple[bytes, os.stat_result, int | None, bytes]


class Walk:
    """One pass over a tree, deepest directories first, without recursion."""

    def __init__(self, repository: Repository, files: KnownFiles, exclude: Iterable[str]) -> None:
        self._repository = repository
        self._files = files
        batch = repository.current_batch.get()
        assert batch is not None, "a walk belongs into a batch"
        self._batch = batch
        self._excluded = _patterns(exclude)
        self._hard_links: dict[tuple[int, int], TreeEntry] = {}
        self._stored = 0
        self._reads: list[_Read] = []  # of the directory at hand
        self._reads_size = 0
        self._own = {
            (status.st_dev, status.st_ino)
            for place in (repository.volume.path, repository.cache)
            for status in [os.stat(place)]
        }
        repository.lookup.refresh()  # what was lost is noticed before it is relied on
        self.problems: list[str] = []
        self.skipped: list[str] = []

    def keep(self, top: str, label: str, *, partial: bool) -> str:
        """Store the tree and claim it; returns the URI. Raises UnreadableSourceError if a part cannot be read, unless `partial`."""
        try:
            document = self.store(os.fsencode(top))
            if self.problems and not partial:
                raise self.error(top)
            uri = self._repository.put_small(document, Kind.DIRECTORY, label)
            self._batch.write_back()  # while the disk works, what was learned is noted
        finally:
            self._files.flush()
        return str(DirectoryUri(uri.sha1, label))

    def store(self, top: bytes) -> bytes:
        """Store all below `top` but its own document, which is returned."""
        stack = [frame for frame in [self._open(top, b"", ())] if frame]
        while stack:
            frame = stack[-1]
            below = next((below for entry in frame.names if (below := self._take(entry, frame, stack))), None)
            if below is not None:
                self._keep_reads(frame)
                stack.append(below)
                continue
            stack.pop()
            document = self._finish(frame)
            if not stack:
                return document
            sha1 = hashlib.sha1(document, usedforsecurity=False).digest()
            if not self._batch.has_directory(sha1):
                self._repository.put_member(document, Kind.DIRECTORY)
            stack[-1].taken.append(TreeEntry(os.path.basename(frame.path), EntryType.DIRECTORY, sha1, len(document)))
        raise UnreadableSourceError((self.problems or self.skipped)[0], path=os.fsdecode(top))

    def _open(self, path: bytes, relative: bytes, above: Iterable[_Frame]) -> _Frame | None:
        try:
            with os.scandir(path) as found:
                names = sorted(found, key=lambda entry: entry.name)
            status = os.stat(path)
        except OSError as exc:
            self._problem(path, exc)
            return None
        identity = (status.st_dev, status.st_ino)
        if identity in self._own:
            self.skipped.append(f"{os.fsdecode(path)} (kacas' own)")
            return None
        if identity in (frame.identity for frame in above):
            self.problems.append(f"{os.fsdecode(path)}: it contains itself")
            return None
        return _Frame(path, relative, identity, iter(names), self._files.look_up(path, status.st_dev, names), [])

    def _take(self, entry: os.DirEntry[bytes], frame: _Frame, stack: list[_Frame]) -> _Frame | None:
        """Take one name; returns the frame of a directory that is to be gone into first."""
        name = entry.name
        if self._excluded is not None and self._excluded(os.fsdecode(name), os.fsdecode(frame.relative + name)):
            return None
        try:
            check_name(name)
            if entry.is_file(follow_symlinks=False):
                if known := frame.known.get(name):
                    frame.taken.append(_unchanged(entry, known))
                else:
                    self._file_or_problem(entry.path, name, frame)
            elif entry.is_symlink():
                frame.taken.append(TreeEntry(name, EntryType.LINK, target=os.readlink(entry.path)))
            elif entry.is_dir(follow_symlinks=False):
                return self._open(entry.path, frame.relative + name + b"/", stack)
            else:
                self.skipped.append(f"{os.fsdecode(entry.path)} ({_special(entry)})")
        except OSError as exc:
            self._problem(entry.path, exc)
        except TreeError as exc:
            self.problems.append(f"{os.fsdecode(entry.path)}: {exc}")
        return None

    def _file_or_problem(self, path: bytes, name: bytes, frame: _Frame) -> None:
        try:
            self._file(path, name, frame)
        except OSError as exc:
            self._problem(path, exc)

    def _file(self, path: bytes, name: bytes, frame: _Frame) -> None:
        for _ in range(_TRIES - 1):
            try:
                return self._file_once(path, name, frame)
            except (SourceChangedError, FileNotFoundError):
                continue
        return self._file_once(path, name, frame)

    def _file_once(self, path: bytes, name: bytes, frame: _Frame) -> None:
        fd = os.open(path, _OPEN)
        try:
            status = os.fstat(fd)
            if status.st_nlink > 1 and (known := self._hard_links.get((status.st_dev, status.st_ino))):
                frame.taken.append(known._replace(name=name))
                return
            status, synced_ns = self._files.sync(fd, status)
            if not self._is_read_whole(status):
                content = self._content(fd, path, status)
                self._took(frame, name, status, synced_ns, content)
                self._repository.report_progress("storing", self._stored, None)
                return
            raw = _read(fd, path, status, self._files)
        finally:
            os.close(fd)
        self._reads.append((name, status, synced_ns, raw))
        self._reads_size += len(raw)
        if len(self._reads) >= _TOGETHER or self._reads_size >= _TOGETHER_SIZE or status.st_nlink > 1:
            self._keep_reads(frame)

    def _keep_reads(self, frame: _Frame) -> None:
        """Hand the files of the frame that were read to the batch. Done before another directory is gone into."""
        reads, self._reads, self._reads_size = self._reads, [], 0
        if not reads:
            return
        contents = self._batch.gather_members([raw for _, _, _, raw in reads], Kind.FILE)
        for (name, status, synced_ns, _), content in zip(reads, contents, strict=True):
            self._took(frame, name, status, synced_ns, content)
        self._repository.report_progress("storing", self._stored, None)

    def _took(
        self, frame: _Frame, name: bytes, status: os.stat_result, synced_ns: int | None, content: Ingested
    ) -> None:
        self._files.remember(status, content, synced_ns)
        sha1, _, size = content
        self._stored += size
        entry = TreeEntry(name, EntryType.FILE, sha1, size, status.st_mode & 0o100 != 0)
        frame.taken.append(entry)
        if status.st_nlink > 1 and len(self._hard_links) < _MAX_HARD_LINKS:
            self._hard_links[status.st_dev, status.st_ino] = entry

    def _is_read_whole(self, status: os.stat_result) -> bool:
        return status.st_size <= CHUNK_TARGET and stat.S_ISREG(status.st_mode)

    def _content(self, fd: int, path: bytes, status: os.stat_result) -> Ingested:
        """Store a file that is not read whole."""
        source = FileSource(Path(os.fsdecode(path)), os.dup(fd))
        try:
            return self._repository.put_member(source, Kind.FILE, **file_layout(source)._asdict())
        finally:
            source.close()

    def _note(self, sha1: bytes) -> None:
        self._batch.note_directory(sha1)

    def _finish(self, frame: _Frame) -> bytes:
        """The directory's document; the files that were not read, as they had not changed, are in the store or are read."""
        self._keep_reads(frame)
        document = self._document(frame)
        sha1 = hashlib.sha1(document, usedforsecurity=False).digest()
        if frame.known and not self._batch.has_directory(sha1):
            there = self._batch.known_members(set(frame.known.values()))
            lost = {
                taken.name
                for taken in frame.taken
                if taken.type is EntryType.FILE
                and (identity := frame.known.get(taken.name)) is not None
                and identity not in there
            }
            frame.taken[:] = [taken for taken in frame.taken if taken.name not in lost]
            for name in sorted(lost):
                self._file_or_problem(os.path.join(frame.path, name), name, frame)
            self._keep_reads(frame)
            document = self._document(frame)
            sha1 = hashlib.sha1(document, usedforsecurity=False).digest()
        self._note(sha1)
        return document

    def _document(self, frame: _Frame) -> bytes:
        document = encode_tree(frame.taken)
        if len(document) > MAX_TREE_SIZE:
            raise UnreadableSourceError(
                f"{os.fsdecode(frame.path)} holds {len(frame.taken)} names, more than one directory may; split it",
                path=os.fsdecode(frame.path),
            )
        return document

    def _problem(self, path: bytes, exc: OSError) -> None:
        """Note what is wrong with the source; the store's trouble goes on to the caller."""
        if isinstance(exc, KacasError) and not isinstance(exc, SourceChangedError | UnreadableSourceError):
            raise exc
        text = str(exc) if isinstance(exc, KacasError) else f"{os.fsdecode(path)}: {os.strerror(exc.errno or 0)}"
        self.problems.append(text)

    def error(self, top: str) -> KacasError:
        return UnreadableSourceError(
            f"{top} was not stored, as parts of it cannot be read: {_named(self.problems)}. "
            "Mend these, exclude them, or store the rest with partial=True (kacas store --partial)",
            path=top,
        )

    def warn(self, top: str) -> None:
        for what, paths in (("cannot be read and {} left out", self.problems), ("{} skipped", self.skipped)):
            if paths:
                said = what.format("was" if len(paths) == 1 else "were")
                text = f"{len(paths):,} in {top} {said}: {_named(paths)}"
                warnings.warn(text, SkippedWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """The stacklevel, for who calls this, of the line that called kacas: how many frames of kacas are in between differs."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame, level = frame.f_back, level + 1
    return level


def _named(paths: list[str]) -> str:
    more = f"; and {len(paths) - _MAX_NAMED} more" if len(paths) > _MAX_NAMED else ""
    return "; ".join(paths[:_MAX_NAMED]) + more


def _unchanged(entry: os.DirEntry[bytes], known: Identity) -> TreeEntry:
    executable = bool(entry.stat(follow_symlinks=False).st_mode & 0o100)
    return TreeEntry(entry.name, EntryType.FILE, known.sha1, known.size, executable)


def _read(fd: int, path: bytes, before: os.stat_result, files: KnownFiles) -> bytes:
    """All bytes of a small file. One more is asked for, to notice a file that grew."""
    data = os.read(fd, before.st_size + 1)
    while 0 < len(data) < before.st_size and (more := os.read(fd, before.st_size + 1 - len(data))):
        data += more
    after = files.status_after(fd, before)
    if (
        len(data) != before.st_size
        or after.st_mtime_ns != before.st_mtime_ns
        or after.st_ctime_ns != before.st_ctime_ns
        or after.st_size != before.st_size
    ):
        raise SourceChangedError(f"{os.fsdecode(path)} changed while it was stored", path=os.fsdecode(path))
    return data


def _special(entry: os.DirEntry[bytes]) -> str:
    mode = entry.stat(follow_symlinks=False).st_mode
    kinds = (
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((what for test, what in kinds if test(mode)), "neither a file nor a directory")


class _Excluded:
    """Shell patterns: without a slash they are held against names, with one against paths from the top."""

    def __init__(self, names: re.Pattern[str] | None, paths: re.Pattern[str] | None) -> None:
        self._names = names
        self._paths = paths

    def __call__(self, name: str, relative: str) -> bool:
        return bool((self._names and self._names.match(name)) or (self._paths and self._paths.match(relative)))


def _patterns(exclude: Iterable[str]) -> _Excluded | None:
    if isinstance(exclude, str):
        raise InvalidSettingError(f"exclude is a list of patterns, not the text {exclude!r}")
    try:
        patterns = [os.fspath(pattern).rstrip("/") for pattern in exclude]
    except TypeError as exc:
        raise InvalidSettingError(f"exclude is a list of patterns: {exc}") from exc
    names = [fnmatch.translate(pattern) for pattern in patterns if "/" not in pattern]
    paths = [fnmatch.translate(pattern.lstrip("/")) for pattern in patterns if "/" in pattern]
    if not patterns:
        return None
    return _Excluded(*(re.compile("|".join(found)) if found else None for found in (names, paths)))
