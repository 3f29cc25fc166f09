"""The systems that are measured, each behind the same few verbs.

A system's library is imported when it is made, so that each can live in an environment of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int16]


class System(Protocol):
    """Stores and loads arrays in a directory. `open` starts with a new, empty one and is never timed."""

    version: str

    def open(self, directory: Path) -> None: ...

    def store(self, array: Array) -> str: ...

    def load(self, key: str) -> Array: ...


class Kacas:
    """kacas, durable."""

    def __init__(self) -> None:
        import kacas

        self.version = f"kacas {kacas.__version__}"
        self._open = kacas.Store.open

    def open(self, directory: Path) -> None:
        self._store = self._open(directory, durability="full")

    def store(self, array: Array) -> str:
        return self._store.store_npy(array)

    def load(self, key: str) -> Array:
        return self._store.load_npy(key)

    def store_documents(self, documents: list[dict[str, object]]) -> None:
        for document in documents:
            self._store.store_json(document)

    def store_documents_in_a_batch(self, documents: list[dict[str, object]]) -> None:
        with self._store.batch():
            for document in documents:
                self._store.store_json(document)

    def store_file(self, path: Path) -> str:
        return self._store.store_file(path)

    def load_file(self, key: str) -> str:
        return str(self._store.load_file(key))


def import_kachery_cloud() -> tuple[Any, str]:
    """The module, told to stay off the network, and its version."""
    os.environ.update(KACHERY_CLOUD_EPHEMERAL="TRUE", KACHERY_CLOUD_DIR=os.devnull)
    import kachery_cloud

    return kachery_cloud, f"kachery-cloud {importlib.metadata.version('kachery-cloud')}"


class KacheryCloud:
    """kachery-cloud's local functions: no sync, no network."""

    def __init__(self) -> None:
        self._kachery, self.version = import_kachery_cloud()

    def open(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        os.environ["KACHERY_CLOUD_DIR"] = str(directory)  # read by every call

    def store(self, array: Array) -> str:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints "Computing sha1 of ..." for large files
            return str(self._kachery.store_npy_local(array))

    def load(self, key: str) -> Array:
        array: Array = self._kachery.load_npy(key, local_only=True)
        return array

    def store_documents(self, documents: list[dict[str, object]]) -> None:
        for document in documents:
            self._kachery.store_json_local(document)


class NumpyFile:
    """np.save and np.load: no identity, no verification, no sync."""

    def __init__(self) -> None:
        self.version = f"numpy {np.__version__}"

    def open(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._path = directory / "array.npy"

    def store(self, array: Array) -> str:
        np.save(self._path, array)
        return str(self._path)

    def load(self, key: str) -> Array:
        array: Array = np.load(key)
        return array


class Sha1:
    """hashlib.sha1 over the array's bytes: the floor of every store whose identity is a SHA-1."""

    def __init__(self) -> None:
        self.version = "hashlib.sha1"

    def open(self, directory: Path) -> None:
        directory.mkdir(parents=True)

    def store(self, array: Array) -> str:
        return hashlib.sha1(array.data.cast("B")).hexdigest()

    def load(self, key: str) -> Array:
        raise NotImplementedError("a digest cannot be loaded")


SYSTEMS = {"kacas": Kacas, "kachery-cloud": KacheryCloud, "numpy": NumpyFile, "sha1": Sha1}
