"""The functions that give content back, from the default store and what is behind it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kacas.default import default_store
from kacas.formats.lazy_array import LazyArray


def load_file(uri: str, *, dest: str | os.PathLike[str] | None = None) -> Path:
    """The content as a file: returns a path in the host-local cache, or `dest` (a path or a directory).

    >>> path = load_file(store_text("example text", label="a.txt"))
    >>> path.name, path.read_text()
    ('a.txt', 'example text')
    >>> load_file("sha1://d9e989f651cdd269d7f9bb8a215d024d8d283688", dest="copy.txt").name
    'copy.txt'

    The cached file is read-only and stays for a day at least; every byte was verified when it was written.
    A file that is at `dest` is replaced, when the new one is complete. To read a part, use `open_file`.
    """
    return default_store().load_file(uri, dest=dest)


def load_bytes(uri: str, start: int | None = None, stop: int | None = None) -> bytes:
    """The content, or the bytes start:stop of it as in a Python slice. Only the chunks needed are read.

    >>> load_bytes(store_text("example text"), 0, 7)
    b'example'
    """
    return default_store().load_bytes(uri, start, stop)


def load_dir(uri: str, dest: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Restore a directory, or a directory in one, as `dest`; returns its path.

    >>> _ = Path("photo").mkdir(); _ = Path("photo/a.txt").write_text("first")
    >>> load_dir(store_dir("photo"), "again").name
    'again'
    >>> Path("again/a.txt").read_text()
    'first'

    Every byte is verified; a file has its name only when it is complete. What an interrupted run restored is not
    written again. Nothing outside of `dest` is touched. A file that is there with other content raises
    DestinationError, unless `overwrite`; what the directory does not have is left alone.
    Raises NotFoundError, DestinationError, and DamagedContentError (the rest is restored, the damaged files named).
    """
    return default_store().load_dir(uri, dest, overwrite=overwrite)


def load_text(uri: str) -> str:
    """The content as text.

    >>> load_text(store_text("example text"))
    'example text'

    Raises NotFoundError, WrongKindError (not UTF-8), DamagedError.
    """
    return default_store().load_text(uri)


def load_json(uri: str) -> Any:
    """The content parsed as JSON.

    >>> load_json(store_json({"a": [1, 2.5, None]}))
    {'a': [1, 2.5, None]}
    """
    return default_store().load_json(uri)


def load_npy(uri: str, *, out: NDArray[Any] | None = None, mmap: bool = False) -> NDArray[Any]:
    """The content as an array in memory. To read a slice of something large, use `open_npy`.

    >>> import numpy as np
    >>> load_npy(store_npy(np.eye(1, 3)))
    array([[1., 0., 0.]])

    out: an array of the same shape and dtype that is filled and returned; ValueError if it is another, or read-only.
    Damage that is found on the way leaves it partly filled.

    mmap: map the file of `load_file`, read-only; verified when that is written, the first time, and not again.
    """
    return default_store().load_npy(uri, out=out, mmap=mmap)


def load_pkl(uri: str) -> Any:
    """Plain data and NumPy arrays from a pickle; a pickle that wants anything else is refused, nothing in it runs.

    >>> load_pkl(store_pkl((1, {"two"})))
    (1, {'two'})
    """
    return default_store().load_pkl(uri)


def open_file(uri: str) -> io.BufferedReader:
    """A seekable, buffered, read-only file over the content; reads and verifies only the chunks it needs.

    >>> with open_file(store_text("example text")) as file:
    ...     file.seek(8), file.read()
    (8, b'text')
    """
    return default_store().open_file(uri)


def open_h5(uri: str) -> Any:
    """An HDF5 or NWB file as an `h5py.File`, of which only what is asked for is read, verified. Needs the package h5py.

    >>> import h5py
    >>> with h5py.File("session.nwb", "w") as file:
    ...     file["trace"] = ["a", "b"]
    >>> open_h5(store_file("session.nwb"))["trace"][1]
    b'b'

    What leads into other files raises ExternalDataError. Raises MissingPackageError, WrongKindError.
    """
    return default_store().open_h5(uri)


def open_npy(uri: str) -> LazyArray:
    """A lazy array: `.shape` and `.dtype` at once, slices on demand, indexing like NumPy's.

    >>> import numpy as np
    >>> lazy = open_npy(store_npy(np.arange(10_000_000).reshape(-1, 10)))
    >>> lazy[500_000:500_001, [1, 3]]
    array([[5000001, 5000003]])
    """
    return default_store().open_npy(uri)
