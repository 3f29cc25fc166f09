"""kacas as bench/remote.py calls it: a store, a remote, and for what is pulled a store and caches that are new."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

import kacas
from bench.array_systems import Array
from bench.private_worker import GROUP
from bench.remote_systems import Bucket
from kacas.settings import Settings
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.blobs.sealed import SealedBlobs
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.groups import keys_of
from kacas_remote.pulling import pull
from kacas_remote.push.pushing import push
from kacas_remote.remote import Remote
from kacas_remote.upstream import RemoteUpstream


class Kacas:
    """The remote is trusted, as a lab's own bucket is: parts are read without the whole.

    private: what leaves the host is encrypted for the group `GROUP`, of which this user is a member.
    """

    def __init__(self, *, private: bool = False) -> None:
        self._private = private
        self.version = f"kacas {kacas.__version__}"
        self._number = itertools.count()
        self._local: kacas.Store | None = None
        self._far: kacas.Store | None = None

    def open(self, bucket: Bucket, directory: Path) -> None:
        self._close()
        self._directory = directory
        blobs = open_blobs(
            bucket.url,
            endpoint=bucket.endpoint,
            region=bucket.region,
            credentials={"access_key_id": bucket.access_key_id, "secret_access_key": bucket.secret_access_key},
        )
        configuration = RemoteConfiguration("bench", bucket.url, endpoint=bucket.endpoint, trusted=True)
        if self._private:
            blobs = SealedBlobs(blobs, keys_of(GROUP))
        self._remote = Remote("bench", blobs, configuration)
        self._local = kacas.Store.open(directory / f"local-{next(self._number)}")

    def take(self, array: Array) -> None:
        self._uri = self._store.store_npy(array, codec="bits-lz4")

    def push(self, stored_size: int) -> None:
        push(self._store, self._remote, [self._uri])

    def push_large(self, array: Array, size: int) -> int:
        """An array of `size` bytes, which repeats the given one: few chunks, but a recipe of all. Returns its rows."""
        times = size // array.nbytes
        shape = (times * len(array), *array.shape[1:])
        with self._store.npy_writer(shape, array.dtype, codec="bits-lz4") as writer:
            for _ in range(times):
                writer.append(array)
        self._uri = writer.uri
        push(self._store, self._remote, [self._uri])
        return times * len(array)

    def cold(self) -> None:
        if self._far is not None:
            self._far.close()
        place = self._directory / f"far-{next(self._number)}"
        settings = Settings.from_environment({"KACAS_CACHE_DIR": str(place / "cache"), "HOME": str(place)})
        self._far = kacas.Store.open(
            place / "store", settings=settings, behind=[RemoteUpstream(self._remote, settings)]
        )

    def pull(self) -> Array | None:
        """All of it is in the store then, durable and verified; nobody asked for an array yet."""
        failed = pull(self._distant, [self._uri]).failed
        assert not failed, failed
        return None

    def rows(self, start: int, stop: int) -> Array:
        return np.asarray(self._distant.open_npy(self._uri)[start:stop])

    def take_tree(self, tree: Path) -> None:
        self._uri = self._store.store_dir(tree)

    def push_tree(self, tree: Path) -> None:
        push(self._store, self._remote, [self._uri])

    def fetch_tree(self) -> None:
        failed = pull(self._distant, [self._uri]).failed
        assert not failed, failed

    def fetched(self, name: str) -> bytes:
        """A file of the tree, from the store that it was fetched into."""
        return self._distant.load_bytes(f"{self._uri.partition('?')[0]}/{name}")

    def pull_tree(self, target: Path) -> None:
        self._distant.load_dir(self._uri, target)

    @property
    def _store(self) -> kacas.Store:
        assert self._local is not None
        return self._local

    @property
    def _distant(self) -> kacas.Store:
        assert self._far is not None
        return self._far

    def _close(self) -> None:
        for store in (self._local, self._far):
            if store is not None:
                store.close()
        self._local = self._far = None
