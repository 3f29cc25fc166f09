"""The systems that bench/remote.py compares, each told to do with a bucket what suits it best.

All are run by bench/remote_worker.py in a process of its own; who is not installed is left out.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.array_systems import Array, write_zarr
from bench.trees import same_trees
from bench.workloads import MIB

PACK_SIZE = 32 * MIB
PACKS_AT_ONCE = 4
FILES_AT_ONCE = 16  # requests in flight where one object is one file


@dataclass(frozen=True)
class Bucket:
    """Where to push: nothing is below `prefix` yet. endpoint: the server, or what stands before it."""

    endpoint: str
    bucket: str
    prefix: str
    region: str
    access_key_id: str
    secret_access_key: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


class RemoteSystem(Protocol):
    """What can be asked of a system. Not every one has a part in every table: what it has not raises NotImplementedError, and
    bench/remote.py does not ask it."""

    version: str

    def open(self, bucket: Bucket, directory: Path) -> None:
        """Push to here from now on; directory: for what is kept locally."""
        ...

    def take(self, array: Array) -> None:
        """This one is pushed next: what a system does before anything is sent, outside the time."""
        ...

    def push(self, stored_size: int) -> None:
        """stored_size: bytes that kacas sent of the same, for those who send as many and know nothing of arrays."""
        ...

    def cold(self) -> None:
        """Forget what is kept locally, as on another host."""
        ...

    def pull(self) -> Array | None:
        """The last array that was pushed, whole; None if what comes is no array."""
        ...

    def rows(self, start: int, stop: int) -> Array: ...

    def push_tree(self, tree: Path) -> None: ...

    def fetch_tree(self) -> None:
        """All of the tree is kept here, proved, and no file is made of it yet; who keeps files only has `pull_tree`."""
        ...

    def pull_tree(self, target: Path) -> None: ...


class Obstore:
    """The client that kacas has, bare: as many bytes as kacas stored, in as many packs, as many at once; files as objects."""

    def __init__(self) -> None:
        import obstore
        from obstore.store import S3Store

        self._obstore, self._make = obstore, S3Store
        self._keys: list[str] = []
        self._tree: list[str] = []
        self._pack = b""
        self.version = f"obstore {obstore.__version__}"

    def open(self, bucket: Bucket, directory: Path) -> None:
        self._keys = []
        self._store = self._make(
            bucket.bucket,
            prefix=bucket.prefix,
            endpoint=bucket.endpoint,
            region=bucket.region,
            access_key_id=bucket.access_key_id,
            secret_access_key=bucket.secret_access_key,
            client_options={"allow_http": True, "timeout": "300s"},
        )

    def take(self, array: Array) -> None:
        self._pack = np.random.default_rng(7).bytes(PACK_SIZE)

    def push(self, stored_size: int) -> None:
        sizes = [min(PACK_SIZE, stored_size - start) for start in range(0, stored_size, PACK_SIZE)]
        keys = [f"packs/{len(self._keys) + number}" for number in range(len(sizes))]
        pack = memoryview(self._pack)

        def send(key: str, size: int) -> None:
            self._obstore.put(self._store, key, pack[:size], use_multipart=False)

        together(send, zip(keys, sizes, strict=True), PACKS_AT_ONCE)
        self._keys += keys

    def cold(self) -> None:
        pass

    def pull(self) -> Array | None:
        def receive(key: str) -> None:
            self._obstore.get(self._store, key).bytes()

        together(receive, ((key,) for key in self._keys), PACKS_AT_ONCE)
        return None

    def rows(self, start: int, stop: int) -> Array:
        raise NotImplementedError("bytes have no rows")

    def push_tree(self, tree: Path) -> None:
        self._tree = [path.relative_to(tree).as_posix() for path in sorted(tree.rglob("*")) if path.is_file()]

        def send(name: str) -> None:
            self._obstore.put(self._store, name, (tree / name).read_bytes(), use_multipart=False)

        together(send, ((name,) for name in self._tree), FILES_AT_ONCE)

    def fetch_tree(self) -> None:
        raise NotImplementedError("objects become files, as pull_tree makes them")

    def pull_tree(self, target: Path) -> None:
        for folder in {os.path.dirname(name) for name in self._tree}:
            (target / folder).mkdir(parents=True)

        def receive(name: str) -> None:
            (target / name).write_bytes(self._obstore.get(self._store, name).bytes())

        together(receive, ((name,) for name in self._tree), FILES_AT_ONCE)


class OneObject(Obstore):
    """What kachery-cloud does, with the same client: a file is one object, named by its SHA-1, sent if it is not there."""

    def take(self, array: Array) -> None:
        self._array = array

    def push(self, stored_size: int) -> None:
        data = self._array.data.cast("B")
        self._keys = [f"sha1/{hashlib.sha1(data).hexdigest()}"]
        try:
            self._obstore.head(self._store, self._keys[0])
        except FileNotFoundError:
            self._obstore.put(self._store, self._keys[0], data, max_concurrency=PACKS_AT_ONCE)

    def pull(self) -> Array | None:
        whole = self._obstore.get(self._store, self._keys[0]).bytes()
        return np.frombuffer(whole, self._array.dtype).reshape(self._array.shape)

    def rows(self, start: int, stop: int) -> Array:
        """kachery-cloud has no parts: the whole comes."""
        whole = self.pull()
        assert whole is not None
        return whole[start:stop]


class Boto3:
    """The same bytes in as many packs by the client of AWS; packs only."""

    def __init__(self) -> None:
        import boto3

        self._boto3: Any = boto3
        self._count = 0
        self.version = f"boto3 {boto3.__version__}"

    def open(self, bucket: Bucket, directory: Path) -> None:
        from botocore.config import Config

        self._bucket, self._count = bucket, 0
        self._client = self._boto3.client(
            "s3",
            endpoint_url=bucket.endpoint,
            region_name=bucket.region,
            aws_access_key_id=bucket.access_key_id,
            aws_secret_access_key=bucket.secret_access_key,
            config=Config(s3={"addressing_style": "path"}, max_pool_connections=PACKS_AT_ONCE),
        )

    def take(self, array: Array) -> None:
        self._pack = np.random.default_rng(7).bytes(PACK_SIZE)

    def push(self, stored_size: int) -> None:
        sizes = [min(PACK_SIZE, stored_size - start) for start in range(0, stored_size, PACK_SIZE)]

        def send(number: int, size: int) -> None:
            body = self._pack if size == PACK_SIZE else self._pack[:size]
            self._client.put_object(Bucket=self._bucket.bucket, Key=self._key(number), Body=body)

        together(send, enumerate(sizes, self._count), PACKS_AT_ONCE)
        self._count += len(sizes)

    def cold(self) -> None:
        pass

    def pull(self) -> Array | None:
        def receive(number: int) -> None:
            self._client.get_object(Bucket=self._bucket.bucket, Key=self._key(number))["Body"].read()

        together(receive, ((number,) for number in range(self._count)), PACKS_AT_ONCE)
        return None

    def rows(self, start: int, stop: int) -> Array:
        raise NotImplementedError("bytes have no rows")

    def push_tree(self, tree: Path) -> None:
        raise NotImplementedError("obstore, which is faster, shows it")

    def fetch_tree(self) -> None:
        raise NotImplementedError("obstore, which is faster, shows it")

    def pull_tree(self, target: Path) -> None:
        raise NotImplementedError("obstore, which is faster, shows it")

    def _key(self, number: int) -> str:
        return f"{self._bucket.prefix}/packs/{number}"


class OfZarr(ABC):
    """An array that zarr writes: chunks of 1 MiB in whole rows, Blosc with bit shuffle and LZ4."""

    def __init__(self) -> None:
        import zarr

        self._zarr: Any = zarr
        self._there = False

    def take(self, array: Array) -> None:
        self._array = array

    def write(self, store: Any) -> None:
        """Make the array, or write all of it again: neither system looks for what is there already."""
        if self._there:
            self._zarr.open_array(store, path="array", mode="r+")[:] = self._array
        else:
            write_zarr(self._zarr, store, self._array, "Blosc", None)
            self._there = True

    def cold(self) -> None:
        """Nothing is kept locally."""
        return

    def pull(self) -> Array | None:
        array: Array = self._opened()[:]
        return array

    def rows(self, start: int, stop: int) -> Array:
        array: Array = self._opened()[start:stop]
        return array

    def push_tree(self, tree: Path) -> None:
        raise NotImplementedError("zarr has no files")

    def fetch_tree(self) -> None:
        raise NotImplementedError("zarr has no files")

    def pull_tree(self, target: Path) -> None:
        raise NotImplementedError("zarr has no files")

    @abstractmethod
    def _opened(self) -> Any:
        """The array, as it lies in the bucket."""


class Zarr(OfZarr):
    def __init__(self) -> None:
        import s3fs

        super().__init__()
        self.version = f"zarr {self._zarr.__version__} with s3fs {s3fs.__version__}"

    def open(self, bucket: Bucket, directory: Path) -> None:
        self._bucket, self._there = bucket, False

    def push(self, stored_size: int) -> None:
        self.write(self._place())

    def _opened(self) -> Any:
        return self._zarr.open_array(self._place(), path="array", mode="r")

    def _place(self) -> Any:
        options = {
            "key": self._bucket.access_key_id,
            "secret": self._bucket.secret_access_key,
            "client_kwargs": {"endpoint_url": self._bucket.endpoint, "region_name": self._bucket.region},
        }
        return self._zarr.storage.FsspecStore.from_url(self._bucket.url, storage_options=options)


class Icechunk(OfZarr):
    def __init__(self) -> None:
        os.environ["ICECHUNK_LOG"] = "error"
        import icechunk

        super().__init__()
        self._icechunk: Any = icechunk
        self.version = f"icechunk {icechunk.__version__}"

    def open(self, bucket: Bucket, directory: Path) -> None:
        self._there = False
        self._storage = self._icechunk.s3_storage(
            bucket=bucket.bucket,
            prefix=bucket.prefix,
            endpoint_url=bucket.endpoint,
            region=bucket.region,
            access_key_id=bucket.access_key_id,
            secret_access_key=bucket.secret_access_key,
            allow_http=True,
            force_path_style=True,
        )

    def push(self, stored_size: int) -> None:
        session = self._icechunk.Repository.open_or_create(self._storage).writable_session("main")
        self.write(session.store)
        session.commit("pushed")

    def _opened(self) -> Any:
        session = self._icechunk.Repository.open(self._storage).readonly_session("main")
        return self._zarr.open_array(session.store, path="array", mode="r")


def together(action: Callable[..., None], arguments: Iterable[Sequence[Any]], at_once: int) -> None:
    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(action, *one) for one in arguments]:
            done.result()


def check_tree(tree: Path, pulled: Path) -> None:
    if not same_trees(tree, pulled):
        raise AssertionError(f"{pulled} has other files than {tree}")


def make_system(name: str) -> RemoteSystem:
    if name in OURS:
        from bench.remote_kacas import Kacas

        return Kacas(private=name == "private")
    made: RemoteSystem = SYSTEMS[name]()
    return made


SYSTEMS: dict[str, Callable[[], Any]] = {
    "bare obstore": Obstore,
    "boto3": Boto3,
    "zarr with s3fs": Zarr,
    "icechunk": Icechunk,
    "one object": OneObject,
}
EVERYBODY = ("kacas", *SYSTEMS)
OURS = ("kacas", "private")  # in a plain remote, and in a private one
NEEDS = {"boto3": "boto3", "zarr with s3fs": "zarr, s3fs", "icechunk": "icechunk, zarr"}  # of the peers' Python
