"""The systems that keep arrays, each behind the same few verbs and with a few ways to store. What each is told:

    kacas          durability full: every sync is inside its call; its cache lies beside the store and is counted. A way is a codec
    kachery-cloud  store_npy_local, load_npy; no sync
    numpy          np.save and np.load: no identity, nothing verified, no sync
    zarr           format 3 in a directory, chunks of 1 MiB in whole rows; its own default codec (zstd), or Blosc with
                   bit shuffle and LZ4; its own concurrency; no checksums, no sync
    icechunk       a repository in a directory, one commit for each array, inside its call; zarr's chunks, Blosc and concurrency
    h5py           chunks of 1 MiB in whole rows; gzip level 4 with byte shuffle (smaller, as fast), lzf without (faster),
                   Blosc with bit shuffle and LZ4 (hdf5plugin), or contiguous; a new file for each array; no checksums, no sync
    sha1           hashlib.sha1 over the array's bytes: the floor of every store whose identity is a SHA-1

A library is imported when its system is made, so that each can live in an environment of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.systems import import_kachery_cloud

Array = NDArray[Any]
Chunks = tuple[int, ...]
CHUNK_SIZE = 1 << 20  # bytes of a peer's chunk where no chunks are asked for


class Sliceable(Protocol):
    """An array that was opened and is read by parts; a part is a new array in memory."""

    def __getitem__(self, index: tuple[int | slice, ...]) -> Array: ...


class ArraySystem(Protocol):
    """Stores arrays in a directory. Nothing but `store`, `load`, `map` and the slices of `opened` is ever timed."""

    version: str

    def open(self, directory: Path) -> None:
        """Begin with a directory, which is made if it is not there."""

    def close(self) -> None:
        """Hold no file and no cached content any longer."""

    def reopen(self) -> None:
        """Open again what was closed."""

    def store(self, array: Array, way: str, chunks: Chunks | None) -> str:
        """Returns the key of the array. chunks: elements of a chunk along each axis; None: as the system does it."""

    def load(self, key: str) -> Array: ...

    def opened(self, key: str) -> Sliceable: ...


class Kacas:
    def __init__(self) -> None:
        import kacas

        self.version = f"kacas {kacas.__version__}"
        self._open: Any = kacas.Store.open
        self._directory = Path()
        self._store: Any = None

    def open(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.reopen()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = None

    def reopen(self) -> None:
        self.close()
        os.environ["KACAS_CACHE_DIR"] = str(self._directory / "cache")  # read by every Store.open
        self._store = self._open(self._directory / "store", durability="full")

    def store(self, array: Array, way: str, chunks: Chunks | None) -> str:
        tiles: dict[str, Any] = {"chunks": chunks} if chunks else {}
        return str(self._store.store_npy(array, codec=way, **tiles))

    def load(self, key: str) -> Array:
        array: Array = self._store.load_npy(key)
        return array

    def map(self, key: str) -> Array:
        array: Array = self._store.load_npy(key, mmap=True)
        return array

    def opened(self, key: str) -> Sliceable:
        array: Sliceable = self._store.open_npy(key)
        return array

    def writer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return self._store.npy_writer(shape, dtype)


class InDirectory:
    """What needs no opening: a directory with a file or a folder named `array`."""

    def __init__(self) -> None:
        self._directory = Path()

    def open(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def close(self) -> None:
        pass

    def reopen(self) -> None:
        pass

    @property
    def _path(self) -> Path:
        return self._directory / "array"


class KacheryCloud(InDirectory):
    def __init__(self) -> None:
        super().__init__()
        self._kachery, self.version = import_kachery_cloud()

    def open(self, directory: Path) -> None:
        super().open(directory)
        os.environ["KACHERY_CLOUD_DIR"] = str(directory)  # read by every call

    def store(self, array: Array, way: str, chunks: Chunks | None) -> str:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints "Computing sha1 of ..." for large files
            return str(self._kachery.store_npy_local(array))

    def load(self, key: str) -> Array:
        array: Array = self._kachery.load_npy(key, local_only=True)
        return array

    def opened(self, key: str) -> Sliceable:
        return self.load(key)


class NumpyFile(InDirectory):
    def __init__(self) -> None:
        super().__init__()
        self.version = f"numpy {np.__version__}"

    def store(self, array: Array, way: str, chunks: Chunks | None) -> str:
        path = self._path.with_suffix(".npy")
        np.save(path, array)
        return str(path)

    def load(self, key: str) -> Array:
        array: Array = np.load(key)
        return array

    def map(self, key: str) -> Array:
        array: Array = np.load(key, mmap_mode="r")
        return array

    def opened(self, key: str) -> Sliceable:
        return Copied(self.map(key))


class Copied:
    """Parts of a map, copied: what is read lazily is read."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __getitem__(self, index: tuple[int | slice, ...]) -> Array:
        return np.array(self._array[index])


class Zarr(InDirectory):
    def __init__(self) -> None:
        super().__init__()
        import zarr

        self._zarr: Any = zarr
        self.version = f"zarr {zarr.__version__}"

    def store(self, array: Array, way: str, chunks: Chunks | None) -> str:
        write_zarr(self._zarr, str(self._path), array, way, chunks)
        return str(self._path)

    def load(self, key: str) -> Array:
        array: Array = self._zarr.open_array(key, mode="r")[:]
        return array

    def opened(self, key: str) -> Sliceable:
        array: Sliceable = self._zarr.open_array(key, mode="r")
        return array


class Icechunk(InDirectory):
    def __init__(self) -> None:
        super().__init__()
        os.environ["ICECHUNK_LOG"] = "error"  # it warns at each opening that two must not commit at once
        import icechunk
        import zarr

        self._icechunk: Any = icechunk
        self._zarr: Any = zarr
        self.version = f"icechunk {icechunk.__version__}"

    def store(self, array: Array, way: str, chunks: Chunks | None) -> str:
        session = self._icechunk.Repository.create(self._storage).writable_session("main")
        write_zarr(self._zarr, session.store, array, way, chunks)
        session.commit("stored")
        return "array"

    def load(self, key: str) -> Array:
        array: Array = self.opened(key)[(slice(None),)]
        return array

    def opened(self, key: str) -> Sliceable:
        session = self._icechunk.Repository.open(self._storage).readonly_session("main")
        array: Sliceable = self._zarr.open_array(session.store, path=key, mode="r")
        return array

    @property
    def _storage(self) -> Any:
        return self._icechunk.local_filesystem_storage(str(self._path))


def write_zarr(zarr: Any, store: Any, array: Array, way: str, chunks: Chunks | None) -> None:
    """Make a zarr array named `array` in a store, or at a path. way: default or Blosc."""
    options: dict[str, Any] = {} if isinstance(store, str) else {"name": "array"}
    if way == "Blosc":
        options["compressors"] = zarr.codecs.BloscCodec(
            cname="lz4", clevel=5, shuffle="bitshuffle", typesize=array.itemsize
        )
    stored = zarr.create_array(
        store, shape=array.shape, dtype=array.dtype, chunks=chunks or whole_rows(array), **options
    )
    stored[:] = array


class H5py(InDirectory):
    def __init__(self) -> None:
        super().__init__()
        import h5py

        self._h5py: Any = h5py
        self._ways: dict[str, dict[str, Any]] = {
            "gzip": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
            "lzf": {"compression": "lzf"},
            "contiguous": {},
        }
        self._file: Any = None
        self.version = f"h5py {h5py.__version__} (HDF5 {h5py.version.hdf5_version})"
        with contextlib.suppress(ImportError):  # then it has no Blosc
            import hdf5plugin

            bits = hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.BITSHUFFLE)
            self._ways["Blosc"] = dict(**bits)
            self.version += f", hdf5plugin {hdf5plugin.version}"

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def store(self, array: Array, way: str, chunks: Chunks | None) -> str:
        if way == "contiguous":
            chunks = None
        else:
            chunks = chunks or whole_rows(array)
        path = self._path.with_suffix(".h5")
        with self._h5py.File(path, "w") as file:
            file.create_dataset("array", data=array, chunks=chunks, **self._ways[way])
        return str(path)

    def load(self, key: str) -> Array:
        with self._h5py.File(key, "r") as file:
            array: Array = file["array"][:]
        return array

    def opened(self, key: str) -> Sliceable:
        self.close()
        self._file = self._h5py.File(key, "r")
        array: Sliceable = self._file["array"]
        return array


class Sha1(InDirectory):
    def __init__(self) -> None:
        super().__init__()
        self.version = "hashlib.sha1"

    def store(self, array: Array, way: str, chunks: Chunks | None) -> str:
        return hashlib.sha1(array.data.cast("B")).hexdigest()

    def load(self, key: str) -> Array:
        raise NotImplementedError("a digest cannot be loaded")

    def opened(self, key: str) -> Sliceable:
        raise NotImplementedError("a digest cannot be read")


def whole_rows(array: Array, size: int = CHUNK_SIZE) -> Chunks:
    """Chunks of as many whole rows as `size` bytes hold, and no more than there are."""
    rows = max(1, size // max(1, array[0].nbytes))
    return (min(rows, len(array)), *array.shape[1:])


SYSTEMS: dict[str, type[ArraySystem]] = {
    "kacas": Kacas,
    "kachery-cloud": KacheryCloud,
    "numpy": NumpyFile,
    "zarr": Zarr,
    "icechunk": Icechunk,
    "h5py": H5py,
    "sha1": Sha1,
}
