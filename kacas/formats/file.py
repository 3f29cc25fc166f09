"""Files: storing one that may change meanwhile, loading one to a path, reading one lazily."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from kacas.codec_choice import check_codec
from kacas.disk.fresh import fresh_status
from kacas.disk.identities import FileState, Identities, Identity, sync_source
from kacas.disk.materialised import MaterialisedFiles, safe_name, write_out
from kacas.errors import (
    DestinationError,
    InvalidChunksError,
    SourceChangedError,
    UnreadableSourceError,
    UnsupportedDataError,
)
from kacas.formats.content_reader import ContentReader
from kacas.formats.hdf5 import hdf5_layout
from kacas.formats.lazy_array import open_npy
from kacas.formats.npy import Layout, array_layout, recognised, tiled_layout
from kacas.formats.tiles import gather_from
from kacas.model.codec import MIB
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.entry import Kind
from kacas.model.hdf5_cuts import signature_at
from kacas.model.npy_header import MAX_HEADER_SIZE
from kacas.model.tiling import Chunks
from kacas.model.uri import Uri
from kacas.repository import Repository


class FileSource:
    """A regular file. It must not change from the first byte to the last."""

    def __init__(self, path: Path, fd: int | None = None) -> None:
        """fd: of the file, opened already; it is closed with the source."""
        self.path = path
        self._start = 0
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if fd is None else fd
            status = os.fstat(self._fd)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise UnreadableSourceError(f"{path} is {what}; only regular files can be stored or linked", path=str(path))
        self.state = FileState.of(status)

    def _unreadable(self, exc: OSError) -> UnreadableSourceError:
        return UnreadableSourceError(
            f"{self.path} cannot be read: {os.strerror(exc.errno or errno.EIO)}", path=str(self.path)
        )

    @property
    def size(self) -> int:
        return self.state.size - self._start

    def peek(self, size: int) -> bytes:
        """At most `size` of the first bytes, which are still to be read."""
        try:
            return os.pread(self._fd, size, 0)
        except OSError as exc:
            raise self._unreadable(exc) from exc

    def fileno(self) -> int:
        return self._fd

    def start_at(self, offset: int) -> None:
        """Leave out what comes before; to be called before anything is read."""
        self._start = os.lseek(self._fd, offset, os.SEEK_SET)

    def sample(self, start: int, size: int) -> memoryview:
        """Bytes from behind what is left out; fewer if the file ends there."""
        try:
            return memoryview(os.pread(self._fd, size, self._start + start))
        except OSError as exc:
            raise self._unreadable(exc) from exc

    def sync(self) -> int | None:
        """Before the first byte is read, so that the file's identity can be trusted: see `sync_source`."""
        synced_ns = sync_source(self._fd)
        self.state = FileState.of(os.fstat(self._fd))  # writing back what was mapped may have set its times
        return synced_ns

    def readinto(self, buffer: memoryview) -> int:
        try:
            return os.readv(self._fd, [buffer])
        except OSError as exc:
            raise self._unreadable(exc) from exc

    def check_unchanged(self) -> None:
        try:
            state = FileState.of(fresh_status(self._fd))
        except OSError as exc:
            raise self._unreadable(exc) from exc
        if state != self.state:
            raise SourceChangedError(
                f"{self.path} changed while it was stored; nothing was kept. Store it again when nobody writes to it",
                path=str(self.path),
            )

    def close(self) -> None:
        os.close(self._fd)


class StreamSource:
    """A binary stream such as stdin: read once, to its end."""

    size = None

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readinto(self, buffer: memoryview) -> int:
        try:
            data = self._stream.read(min(len(buffer), MIB))
        except OSError as exc:
            raise UnreadableSourceError(f"the stream cannot be read: {exc.strerror or exc}", path="-") from exc
        if not isinstance(data, bytes):
            raise UnsupportedDataError(f"the stream gives {type(data).__name__}; open it in binary, blocking mode")
        buffer[: len(data)] = data
        return len(data)

    def check_unchanged(self) -> None:
        """A stream has no state to compare."""


def store_file(
    repository: Repository,
    identities: Identities,
    path: str | os.PathLike[str],
    label: str | None,
    rehash: bool,
    codec: str = "auto",
    chunks: Chunks | None = None,
) -> str:
    """Store a regular file; the label is its name unless given. A .npy file is cut and encoded like its array, or, with
    `chunks`, cut into tiles; an HDF5 file is cut at the chunks of its datasets.

    One that is known to be unchanged is not read, unless it is to be cut into tiles. Raises InvalidChunksError.
    """
    check_codec(codec)
    source = FileSource(Path(path))
    try:
        name = Path(path).name if label is None else label
        known = None if rehash or chunks is not None else identities.get_many([source.state]).get(source.state)
        if known is not None and repository.claim(known, Kind.FILE, name):
            return str(Uri(known.sha1, name))
        synced_ns = source.sync()
        layout = file_layout(source, codec) if chunks is None else _tiled_layout(source, chunks, codec)
        entry = repository.put(source, Kind.FILE, name, **layout._asdict())
        identities.put_many({source.state: Identity(entry.sha1, entry.root, entry.size)}, synced_ns)
        return str(Uri(entry.sha1, name))
    finally:
        source.close()


def file_layout(source: FileSource, codec: str = "auto") -> Layout:
    """How a file is to be kept; codec: of an array, or of HDF5. The source then begins behind the head."""
    # What fits in one chunk is one chunk, whatever it is.
    if source.size > CHUNK_TARGET:
        front = source.peek(MAX_HEADER_SIZE)
        if (header := recognised(front, source.size)) is not None:
            source.start_at(header.size)
            return array_layout(front[: header.size], header, source.sample, codec)
        if signature_at(front) is not None:
            return hdf5_layout(source.fileno(), source.sample, codec)
    return Layout()


def _tiled_layout(source: FileSource, chunks: Chunks, codec: str) -> Layout:
    front = source.peek(MAX_HEADER_SIZE)
    header = recognised(front, source.size)
    if header is None:
        raise InvalidChunksError(f"{source.path} is no .npy file, and chunks are lengths along the axes of an array")
    source.start_at(header.size)
    layout = tiled_layout(front[: header.size], header, gather_from(source.sample, header), chunks, codec)
    if layout is None:
        source.start_at(0)
    return layout or Layout()


def store_stream(repository: Repository, stream: BinaryIO, label: str | None) -> str:
    """Store what a binary stream yields."""
    entry = repository.put(StreamSource(stream), Kind.FILE, label)
    return str(Uri(entry.sha1, label or ""))


def load_file(repository: Repository, files: MaterialisedFiles, uri: Uri, dest: str | os.PathLike[str] | None) -> Path:
    """Write the content to `dest` (a path, or a directory to put it in), or into the host-local cache."""
    repository.bring(uri)
    entry, content = repository.resolve(uri)
    label = uri.label or entry.label_text or uri.sha1.hex()

    def windows() -> Iterator[memoryview]:
        done = 0
        for part in content.windows():
            yield part
            done += len(part)
            repository.report_progress("loading", done, content.size)

    if dest is None:
        target = files.get(uri.sha1, label, content.size, windows())
    else:
        target = _destination(Path(dest), label)
        write_out(target, content.size, windows(), mode=0o666 & ~_umask(), sync=repository.volume.durable)
    repository.tiers.heal(uri)
    return target


def map_npy(repository: Repository, files: MaterialisedFiles, uri: Uri) -> NDArray[Any]:
    """The array in the cached file, mapped read-only; every chunk was verified when the file was written."""
    repository.bring(uri)
    array = open_npy(repository, uri)
    return array.mapped(load_file(repository, files, uri, None))


def _destination(dest: Path, label: str) -> Path:
    """The regular file to write. A link given as `dest` is followed; devices and pipes are refused."""
    target = Path(os.path.realpath(dest))
    if target.is_dir():
        target = target / safe_name(label)  # a link of that name is replaced: the label must not lead elsewhere
    if not target.parent.is_dir():
        raise DestinationError(f"{target.parent} is no directory; make it first", path=str(target))
    if target.exists() and not target.is_file():
        raise DestinationError(f"{target} is not a regular file; choose another destination", path=str(target))
    return target


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def open_file(repository: Repository, uri: Uri) -> io.BufferedReader:
    """A seekable, buffered, read-only file object over the content."""
    _, content = repository.resolve(uri)
    return io.BufferedReader(ContentReader(content, str(uri)), buffer_size=content.read_ahead)
