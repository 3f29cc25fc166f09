"""Arrays in the store, read whole or by slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kacas.content import Content
from kacas.disk.memory import check_affordable
from kacas.formats.array_layouts import ArrayLayouts
from kacas.model.npy_header import MAX_HEADER_SIZE, NpyHeader, parse_header
from kacas.model.selection import select
from kacas.model.uri import Uri
from kacas.repository import Repository

_OUT_SIZE = 16 << 20  # bytes that are loaded at a time for an `out` that is not contiguous


Reopen = Callable[[str], "LazyArray"]
"""Opens the array with this URI, in another process too: what `open_npy` of a store is."""


class LazyArray:
    """An array in the store, read by slices: `a[10:20]` reads and verifies only the chunks that it needs.

    Indexing is NumPy's: integers, slices, Ellipsis, newaxis, integer arrays and boolean masks; the result
    is an ordinary array in memory. `np.asarray(a)` loads the whole. A pickle of it has its URI and where its store is.
    """

    def __init__(self, layouts: ArrayLayouts, header: NpyHeader, uri: str, reopen: Reopen | None = None) -> None:
        self._layouts = layouts
        self._header = header
        self._reopen = reopen
        self.uri = uri

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen, (self.uri,)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._header.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._header.dtype

    @property
    def order(self) -> str:
        """How it lies in the store, and in memory when it is loaded: "C" or "F"."""
        return "F" if self._header.fortran_order else "C"

    @property
    def tiles(self) -> tuple[int, ...] | None:
        """The shape of the tiles that it is stored in; None if it is stored in rows only."""
        return self._layouts.tiles

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        return self._header.data_size

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<kacas array {self.shape} {self.dtype} at {self.uri}>"

    def __getitem__(self, index: Any) -> Any:
        return select(
            index, self.shape, self.dtype, self._header.fortran_order, self._layouts.read_box,
            check_size=lambda size: check_affordable(size, f"the selection from {self.uri}"),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a stored array is always copied into memory")
        whole = self.load()
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def load(self, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The whole array, in `out` if that is given. Raises SizeLimitError before memory is taken, ValueError for an
        `out` of another shape or dtype, or one that is read-only."""
        if out is not None:
            return self._load_into(out)
        check_affordable(self.nbytes, self.uri)
        # Not np.empty, which makes a string of length 0 one longer.
        array: NDArray[Any] = np.ndarray(self.shape, self.dtype, order="F" if self._header.fortran_order else "C")
        if array.nbytes:
            self._layouts.read_into(0, bytes_of(array.T if self._header.fortran_order else array))
        return array

    def mapped(self, path: Path) -> NDArray[Any]:
        """The array in a file that has its .npy content, read-only: what is looked at is read then, unverified."""
        header = self._header
        order: Literal["C", "F"] = "F" if header.fortran_order else "C"
        return np.memmap(path, header.dtype, "r", header.size, header.shape, order)

    def _load_into(self, out: Any) -> NDArray[Any]:
        if not isinstance(out, np.ndarray) or out.shape != self.shape or out.dtype != self.dtype:
            what = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else f"a {type(out).__name__}"
            raise ValueError(f"out is {what}, the array is {self.dtype} {self.shape}")
        if not out.flags.writeable:
            raise ValueError("out is read-only")
        if isinstance(out, np.ma.MaskedArray):
            raise ValueError("out is a masked array, whose mask would stay as it is; give its .data")
        filled, out = out, out.view(np.ndarray)  # a subclass has ways of its own: a row of a matrix is a matrix
        in_order = out.T if self._header.fortran_order else out
        if in_order.flags.c_contiguous:
            if out.nbytes:
                self._layouts.read_into(0, bytes_of(in_order))
        elif not self.shape:
            out[...] = self[()]
        elif not out.nbytes or not self._layouts.read_scattered(in_order):
            step = max(1, _OUT_SIZE // max(1, self.nbytes // max(1, len(self))))
            for start in range(0, len(self), step):
                out[start : start + step] = self[start : start + step]
        return filled


def open_npy(repository: Repository, uri: Uri, reopen: Reopen | None = None) -> LazyArray:
    """Open an array for reading by slices; raises WrongKindError if the content is no .npy file. reopen: for its pickle."""
    layouts = [content for _, content in repository.readable(uri)]
    content = layouts[0]
    try:
        header = _header_of(content)
        if header.size + header.data_size != content.size:
            raise ValueError(
                f"the header declares {header.data_size} bytes of data, {content.size - header.size} follow"
            )
    except ValueError as exc:
        raise repository.wrong_kind(uri, f"it is not a .npy array ({exc})") from exc
    return LazyArray(ArrayLayouts(layouts, header), header, str(uri), reopen)


def _header_of(content: Content) -> NpyHeader:
    """Raises ValueError."""
    try:
        return parse_header(content.head)  # as arrays are stored: no chunk is read for it
    except ValueError:
        pass  # it may go on in the chunks, or all be there
    try:
        return parse_header(_front(content, 4096))
    except ValueError:
        return parse_header(_front(content, MAX_HEADER_SIZE))


def _front(content: Content, size: int) -> memoryview:
    front = memoryview(bytearray(min(content.size, size)))
    content.read_into(0, front)
    return front


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of a C-contiguous array, not copied."""
    # Through void: datetimes and unicode have no buffer format of their own.
    return array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")
