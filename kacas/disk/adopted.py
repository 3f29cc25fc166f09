"""Adopted files: content that stays where it is. Its chunks are read from there, each proved by its digest."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import NamedTuple

from kacas.errors import AdoptedFileError
from kacas.model.digest import chunk_digest
from kacas.model.entry import Action, Entry, live
from kacas.model.location import Piece
from kacas.model.uri import label_text

_GONE = (errno.ENOENT, errno.ENOTDIR)
_WHAT_TO_DO = "put it back as it was, link the file again where it is now (kacas link), or store a copy (kacas store)"


class AdoptedFiles(NamedTuple):
    """Where one content lies outside of the store, if nobody touched it. paths: the first is asked first. size: of the content.

    A file is opened for each call and closed again: a deleted terabyte must not stay on the disk because we hold it.
    """

    paths: tuple[bytes, ...]
    size: int

    def fill(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Fill the pieces with verified bytes; returns those that no file has."""
        left = list(pieces)
        for path in self.paths:
            try:
                with _AdoptedFile(path, self.size) as file:
                    left = [piece for piece in left if not file.has(piece)]
            except AdoptedFileError:
                continue
            if not left:
                break
        return left

    def read(self, piece: Piece) -> None:
        """As `fill`, for one. Raises AdoptedFileError, which names the first file."""
        self._try(lambda file: file.read(piece))

    def check(self) -> None:
        """Look, without reading, whether a file is there and of the right size. Raises AdoptedFileError."""
        self._try(lambda file: None)

    def _try(self, use: Callable[[_AdoptedFile], None]) -> None:
        first: AdoptedFileError | None = None
        for path in self.paths:
            try:
                with _AdoptedFile(path, self.size) as file:
                    use(file)
                    return
            except AdoptedFileError as exc:
                first = first or exc
        assert first is not None
        raise first


def adopted_files(entries: Iterable[Entry], size: int) -> AdoptedFiles | None:
    """The files that entries of one SHA-1 name, whatever their layout: kept ones first, the newest before others."""
    known = list(entries)
    found = [entry for entry in known if entry.action == Action.ADOPTED and entry.size == size]
    if not found:
        return None
    kept = {entry.entry_id for entry in live(known, Action.ADOPTED)}
    found.sort(key=lambda entry: (entry.entry_id in kept, entry.time_ns), reverse=True)
    return AdoptedFiles(tuple(dict.fromkeys(entry.label for entry in found)), size)


class _AdoptedFile:
    """One file, open for reading."""

    def __init__(self, path: bytes, size: int) -> None:
        """Raises AdoptedFileError unless it is a regular file of that size."""
        self._path = path
        try:
            # What is there now may be anything: a pipe must not block us, nor a terminal take us over.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError) as exc:  # ValueError: a path with a zero byte
            raise self._unreadable(exc) from exc
        try:
            self._check(size)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> _AdoptedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def _check(self, size: int) -> None:
        try:
            status = os.fstat(self._fd)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        if not stat.S_ISREG(status.st_mode):
            raise self._changed("it is not a regular file now")
        if status.st_size != size:
            raise self._changed(f"it has {status.st_size} bytes, not {size}")

    def has(self, piece: Piece) -> bool:
        """Fill the piece, if its bytes are right here. Raises AdoptedFileError if reading fails."""
        done = 0
        try:
            while done < piece.size:
                count = os.preadv(self._fd, [piece.out[done:]], piece.at + done)
                if count == 0:
                    return False  # it was cut short after it was opened
                done += count
        except OSError as exc:
            raise self._unreadable(exc) from exc
        return chunk_digest(piece.out) == piece.digest

    def read(self, piece: Piece) -> None:
        """As `has`; raises AdoptedFileError if the bytes are others."""
        if not self.has(piece):
            raise self._changed(f"bytes {piece.at} to {piece.at + piece.size} are not what they were")

    def _changed(self, why: str) -> AdoptedFileError:
        return self._error("changed", f"changed after it was linked: {why}")

    def _unreadable(self, exc: OSError | ValueError) -> AdoptedFileError:
        if isinstance(exc, OSError) and exc.errno in _GONE:
            return self._error("missing", "is missing: it was linked, and no pack has its bytes")
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        return self._error("unreadable", f"was linked and cannot be read: {why}")

    def _error(self, state: str, what: str) -> AdoptedFileError:
        path = label_text(self._path)
        return AdoptedFileError(f"{path} {what}; {_WHAT_TO_DO}", path=path, state=state)
