"""What is measured on: generated data, or a sample of bounded size of the user's own. Nothing of the user's is written."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kacas.disk.scratch import is_scratch
from kacas.errors import UnreadableSourceError
from kacas.formats.array_source import ArraySource, copy_bytes
from kacas.formats.file import FileSource, file_layout
from kacas.formats.npy import Layout, array_layout, recognised
from kacas.model.codec import MIB
from kacas.model.content_cuts import ContentCutter
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.npy_header import MAX_HEADER_SIZE, NpyHeader, encode_header
from kacas.model.tiling import Tiling
from kacas.upkeep.profile.figures import Data
from kacas.upkeep.profile.generated import recording
from kacas.upkeep.profile.wording import size as size_text

_PLACES = 4  # that a part of a large file is taken from
_MOST_FILES = 4000  # of a directory; more would take longer to create than all else
_COPY_S = 3.0  # for copying files of a directory: each step that follows opens, makes or removes all of them again
_MOST_SEEN, _WALK_S = 500_000, 5.0  # entries of a directory that are looked at, and how long


@dataclass
class Sample:
    """raw: its bytes in memory order. ends: where each file in it ends. array: if it is one. path: the file or directory to
    store; None for an array. notes: how it was taken."""

    data: Data
    raw: memoryview
    ends: Sequence[int]
    array: NDArray[Any] | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()

    def layout(self, codec: str = "auto") -> Layout:
        """How kacas cuts and encodes it: chosen anew on each call, as by a put."""
        if self.array is None:
            return self._file_layout(codec)
        source = ArraySource(self.array)
        head = encode_header(self.array.dtype, self.array.shape, source.fortran_order)
        header = NpyHeader(self.array.dtype, self.array.shape, source.fortran_order, len(head))
        return array_layout(head, header, source.sample, codec)

    def read(self, block: memoryview) -> None:
        """Read all of it once as a put does, block by block."""
        if self.array is not None or self.path is None:
            for start in range(0, len(self.raw), len(block)):
                part = self.raw[start : start + len(block)]
                copy_bytes(block[: len(part)], part)
            return
        for path in sorted(_files(self.path, [])) if self.path.is_dir() else [self.path]:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while os.readv(fd, [block]):
                    pass
            finally:
                os.close(fd)

    def chunks(self) -> list[memoryview]:
        """As it is stored: each file by itself, cut if it is larger than a chunk."""
        chunks, start = [], 0
        for stop in self.ends:
            file, at = self.raw[start:stop], 0
            for end in self._cut(file) if len(file) > CHUNK_TARGET else [len(file)]:
                if end > at:
                    chunks.append(file[at:end])
                at = end
            start = stop
        return chunks

    def _file_layout(self, codec: str) -> Layout:
        if self.path is None or self.path.is_dir():
            return Layout()
        source = FileSource(self.path)
        try:
            return file_layout(source, codec)
        finally:
            source.close()

    @property
    def has_recipes(self) -> bool:
        """Whether the codec can be chosen: of arrays, and of HDF5 files whose datasets are found."""
        return self.array is not None or self.layout("raw").cutter is not None

    def _cut(self, file: memoryview) -> list[int]:
        cutter = self.layout("raw").cutter or ContentCutter()
        assert not isinstance(cutter, Tiling)
        return cutter.cut(file, True)


def generated(size: int) -> Sample:
    """A recording that is made up."""
    array = recording(size)
    data = Data("a generated recording", "generated", array.nbytes, array.nbytes, 1, array.shape, str(array.dtype))
    return Sample(data, memoryview(array.data).cast("B"), [array.nbytes], array)


def check_source(path: Path) -> os.stat_result:
    """Raises UnreadableSourceError if there is nothing, or what is neither a directory nor a file that may be read."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise UnreadableSourceError(f"{path} cannot be read: {why}", path=str(path)) from exc
    if not stat.S_ISDIR(status.st_mode):
        FileSource(path).close()
    return status


def sample_of(path: Path, most: int, room: Path) -> Sample:
    """At most so many bytes of a .npy file, any other file, or a directory.

    room: a directory for copies. Raises UnreadableSourceError.
    """
    if stat.S_ISDIR(check_source(path).st_mode):
        return _of_directory(path, most, room)
    source = FileSource(path)
    try:
        header = recognised(source.peek(MAX_HEADER_SIZE), source.size)
        if header is not None and not header.dtype.hasobject:
            return _of_array(path, source, header, most)
        return _of_file(path, source, most, room)
    finally:
        source.close()


def _of_array(path: Path, source: FileSource, header: NpyHeader, most: int) -> Sample:
    shape = header.shape[::-1] if header.fortran_order else header.shape
    item_size, size, start = header.dtype.itemsize, header.data_size, header.size
    least = max(most, item_size)
    while len(shape) > 1 and item_size * prod(shape) > least and item_size * prod(shape[1:]) * _PLACES > least:
        # A row is too large for several of them: the middle one stands for all.
        start += shape[0] // 2 * item_size * prod(shape[1:])
        shape = shape[1:]
    notes: tuple[str, ...] = ()
    where = "its middle"
    row = item_size * prod(shape[1:])
    if shape and item_size * prod(shape) > most:
        rows = max(_PLACES, most // max(1, row)) // _PLACES * _PLACES
        each = rows // _PLACES
        starts = [start + row * ((shape[0] - each) * place // (_PLACES - 1)) for place in range(_PLACES)]
        raw = b"".join(source.sample(at, each * row) for at in starts)
        shape, where = (rows, *shape[1:]), f"{_PLACES} places spread over it"
    else:
        raw = bytes(source.sample(start, item_size * prod(shape)))
    if len(raw) < size:
        notes = (f"{path} has {size_text(size)}: measured on {size_text(len(raw))} from {where}",)
    array: NDArray[Any] = np.frombuffer(raw, header.dtype) if raw else np.empty(0, header.dtype)
    array = array.reshape(shape)
    if header.fortran_order:
        array = array.T
    data = Data(str(path), "array", size, len(raw), 1, array.shape, str(array.dtype))
    return Sample(data, memoryview(raw), [len(raw)], array, notes=notes)


def _of_file(path: Path, source: FileSource, most: int, room: Path) -> Sample:
    size = source.size
    if size <= most:
        raw = bytes(source.sample(0, size))
        return Sample(Data(str(path), "file", size, len(raw), 1, (), ""), memoryview(raw), [len(raw)], path=path)
    each = most // _PLACES
    raw = b"".join(source.sample((size - each) * place // (_PLACES - 1), each) for place in range(_PLACES))
    copy = room / f"sample{path.suffix}"
    copy.write_bytes(raw)
    part = f"{size_text(len(raw))} from {_PLACES} places spread over it"
    note = f"{path} has {size_text(size)}: measured on {part}, as one file that is cut by its content"
    data = Data(str(path), "file", size, len(raw), 1, (), "")
    return Sample(data, memoryview(raw), [len(raw)], path=copy, notes=(note,))


def _of_directory(path: Path, most: int, room: Path) -> Sample:
    """Copies under numbers: a sample need not be named as its originals, and links would change those."""
    unreadable: list[str] = []
    sizes: dict[Path, int] = {}
    begun, seen_all = time.monotonic(), True
    for file in _files(path, unreadable):
        if len(sizes) >= _MOST_SEEN or time.monotonic() - begun > _WALK_S:
            seen_all = False
            break
        sizes[file] = _size_of(file)
    found = list(sizes)
    total = sum(sizes.values())
    copy = room / "sample"
    copy.mkdir()
    parts: list[bytes] = []
    ends: list[int] = []
    filled, cut_short, slow = 0, 0, False
    begun = time.monotonic()
    for number, file in enumerate(_spread(found, sizes, most)):
        if ends and time.monotonic() - begun > _COPY_S:
            slow = True
            break
        wanted = min(sizes[file], most - filled, max(most // _PLACES, MIB))
        try:
            with open(file, "rb", opener=_open_quietly) as opened:
                part = opened.read(wanted)
        except OSError:
            unreadable.append(str(file))
            continue
        cut_short += len(part) < sizes[file]
        if number % 100 == 0:
            (copy / f"{number // 100:04}").mkdir()
        target = copy / f"{number // 100:04}"
        target.mkdir(exist_ok=True)
        (target / f"{number % 100:02}{file.suffix}").write_bytes(part)
        parts.append(part)
        filled += len(part)
        ends.append(filled)
    notes = []
    if not seen_all:
        notes.append(
            f"{path} has more than {len(found):,} files: the sample is of those that were found in {_WALK_S:.0f} s"
        )
    if len(ends) < len(found) or cut_short:
        of = f"{len(ends):,} of {len(found):,} files" + (
            f", the first part of {cut_short:,} of them" if cut_short else ""
        )
        notes.append(f"{path} has {size_text(total)}: measured on {size_text(filled)}, {of}")
    if slow:
        notes.append(f"of {path} no more files were taken than could be copied in {_COPY_S:.0f} s: the disk is slow")
    if unreadable:
        notes.append(
            f"{len(unreadable):,} parts of {path} cannot be read and are left out, such as {sorted(unreadable)[0]}"
        )
    data = Data(str(path), "directory", total, filled, len(ends), (), "")
    return Sample(data, memoryview(b"".join(parts)), ends, path=copy, notes=tuple(notes))


def _open_quietly(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _size_of(file: Path) -> int:
    try:
        return os.lstat(file).st_size
    except OSError:
        return 0


def _files(directory: Path, unreadable: list[str]) -> Iterator[Path]:
    """Regular files below it; links are not followed. What bench itself works in is no data of the user's."""
    todo = [directory]
    while todo:
        where = todo.pop()
        try:
            with os.scandir(where) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_dir(follow_symlinks=False):
                        if is_scratch(entry.name):
                            continue
                        todo.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        yield Path(entry.path)
        except OSError:
            unreadable.append(str(where))


def _spread(files: list[Path], sizes: dict[Path, int], most: int) -> Iterator[Path]:
    """All files, or, of too many, every so many-th: until their sizes reach the limit."""
    step = max(1, -(-len(files) // _MOST_FILES), -(-sum(sizes.values()) // max(most, 1)))
    filled = count = 0
    for first in range(step):
        for file in files[first::step]:
            if filled >= most or count >= _MOST_FILES:
                return
            filled += min(sizes[file], max(most // _PLACES, MIB))
            count += 1
            yield file
