"""Arrays that are written row by row: into a put that runs beside the caller, or into a spool if their length is not known."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from kacas.codec_choice import check_codec
from kacas.disk.spool import Spool
from kacas.errors import ArrayStreamError, StoreClosedError, UnsupportedDataError
from kacas.formats.array_blocks import Rows
from kacas.formats.array_source import SpoolSource
from kacas.formats.npy import SampledSource, put_array
from kacas.formats.put_beside import AbandonedError, Put, PutBeside
from kacas.model.npy_header import encode_header, parse_header
from kacas.model.tiling import Chunks
from kacas.model.uri import label_bytes
from kacas.repository import Repository


class _Target(Protocol):
    """Where rows go."""

    def append(self, part: memoryview) -> None: ...

    def finish(self, rows: int) -> str:
        """Store what was appended; returns the URI."""
        ...

    def abandon(self) -> None:
        """Let nothing of it be published, without waiting. Safe to call at any time, and twice."""
        ...

    def wait(self) -> None:
        """Until nothing is left of what was abandoned."""
        ...


class NpyWriter:
    """An array that is stored row by row; made by `npy_writer`. A context manager; `uri` is there after the block.

    Rows of several threads are not mixed, but come in any order. It belongs to the process that made it.
    """

    def __init__(
        self,
        repository: Repository,
        shape: int | Sequence[int | None] | None,
        dtype: Any,
        label: str | None,
        codec: str,
        chunks: Chunks | None = None,
    ) -> None:
        check_codec(codec)
        label_bytes(label or "")
        try:
            kind = np.dtype(dtype)
        except (TypeError, ValueError) as exc:
            raise UnsupportedDataError(f"{dtype!r} is no dtype: {exc}") from exc
        self._declared, row_shape = _declared(shape, kind)
        self._rows = Rows(kind, row_shape)
        self._repository = repository
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._count = 0
        self._failure: BaseException | None = None
        self._uri: str | None = None
        self._ended = False
        self._tell: Callable[[str], None] | None = None

        def put(source: SampledSource, rows: int) -> str:
            return put_array(repository, source, kind, (rows, *row_shape), False, label, codec, chunks)

        row_size = kind.itemsize * int(np.prod(row_shape, dtype=object))
        self._target: _Target
        if self._declared is None:
            self._target = _Spooled(repository, put)
        else:
            self._target = PutBeside(repository, put, self._declared, row_size, kind.itemsize)

    def append(self, rows: Any) -> None:
        """Add a block of rows, or one row; they are copied before this returns.

        rows: whatever np.asarray makes an array of. Their dtype must be the array's, or one of which every value fits in it.
        Raises ArrayStreamError for other rows, and for more than were declared, and what a put raises, such as
        NoSpaceError. Whatever it raises, nothing of the array will be stored.
        """
        self._check_open()
        with self._lock:
            failure, self._failure = self._failure, AbandonedError("it was interrupted")
            if failure is not None:
                self._failure = failure
                raise StoreClosedError(f"this array cannot be continued: {failure}; store it anew") from failure
            try:
                block = self._rows.take(rows)
                if self._declared is not None and self._count + len(block) > self._declared:
                    raise ArrayStreamError(
                        f"{self._count + len(block):,} rows were appended to an array of {self._declared:,}; nothing is stored"
                    )
                for part in self._rows.parts(block):
                    self._target.append(part)
            except BaseException as exc:
                self._failure = exc
                self._target.abandon()
                raise
            self._count += len(block)
            self._failure = None

    def close(self) -> None:
        """Store the array. Raises ArrayStreamError if rows are missing, and what a put raises: then nothing is stored."""
        if self._ended and self._uri is not None:
            return
        self._check_open()
        with self._lock:
            try:
                if self._failure is not None:
                    raise StoreClosedError(f"this array is not stored: {self._failure}") from self._failure
                if self._declared is not None and self._count < self._declared:
                    raise ArrayStreamError(
                        f"{self._count:,} of {self._declared:,} rows were appended; nothing is stored. "
                        "If their number is not known before, let the shape begin with None"
                    )
                self._uri = self._target.finish(self._count)
                self._ended = True
            except BaseException:
                self._end()
                raise
        if self._tell is not None:
            self._tell(self._uri)

    def when_stored(self, tell: Callable[[str], None]) -> None:
        """Call this with the URI at the end of `close`, which then raises what it raises; the array is stored all the same."""
        self._tell = tell

    def abandon(self) -> None:
        """Store nothing. Safe to call at any time, and more than once."""
        if os.getpid() == self._pid and not self._ended:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._target.abandon()
        self._target.wait()

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise StoreClosedError("this array is written by the parent process; make a writer after the fork")
        if self._ended:
            raise StoreClosedError("this array has ended; make another writer")
        if self._repository.closed:
            self._end()
            raise StoreClosedError("the store was closed while an array was written to it; nothing of it is stored")

    @property
    def uri(self) -> str:
        """Raises StoreClosedError while the array is not stored."""
        if self._uri is None:
            raise StoreClosedError(
                "the array has no URI: it is stored when the block of its writer ends without an error"
            )
        return self._uri

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def __repr__(self) -> str:
        shape = (self._declared, *self._rows.shape)
        return f"<kacas writer of {shape} {self._rows.dtype}, {self._count} rows so far>"


def _declared(shape: int | Sequence[int | None] | None, dtype: np.dtype[Any]) -> tuple[int | None, tuple[int, ...]]:
    """(number of rows or None, shape of one). Raises ArrayStreamError, and UnsupportedDataError for the dtype."""
    lengths = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    try:
        if not lengths:
            raise ValueError("it has no rows")
        if None in lengths[1:]:
            raise ValueError("only the number of rows, the first length, may be unknown")
        count = None if lengths[0] is None or lengths[0] == -1 else lengths[0]
        header = parse_header(encode_header(dtype, (0 if count is None else count, *lengths[1:]), False))  # type: ignore[arg-type]
    except (TypeError, ValueError) as exc:
        if isinstance(exc, UnsupportedDataError):
            raise
        raise ArrayStreamError(f"{shape!r} is not the shape of an array that can be written by rows: {exc}") from exc
    return None if count is None else header.shape[0], header.shape[1:]


class _Spooled:
    """Rows that wait in a spool: a .npy file begins with their number."""

    def __init__(self, repository: Repository, put: Put) -> None:
        self._spool = Spool(repository.cache)
        self._put = put

    def append(self, part: memoryview) -> None:
        self._spool.append([part])

    def finish(self, rows: int) -> str:
        with self._spool as spool:
            return self._put(SpoolSource(spool), rows)

    def abandon(self) -> None:
        self._spool.close()

    def wait(self) -> None:
        """It is gone already."""
