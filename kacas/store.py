"""The store: what users hold. Every verb in one line."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from numpy.typing import NDArray

from kacas.changing_verbs import ChangingVerbs
from kacas.disk.identities import Identities
from kacas.disk.materialised import MaterialisedFiles
from kacas.disk.records import Sequences
from kacas.disk.volume import Sharing, Volume, open_volume
from kacas.errors import InvalidSettingError, NotFoundError, StoreClosedError
from kacas.formats import array_stream, file, hdf5, link, npy, objects, tree_link, tree_restore, tree_store
from kacas.formats.lazy_array import LazyArray, open_npy
from kacas.formats.npy_writer import NpyWriter
from kacas.formats.tree import Trees
from kacas.model.description import (
    Description,
    Difference,
    DirectoryItem,
    Forgotten,
    Hdf5Item,
    HistoryItem,
    SegmentStats,
    StoreStats,
)
from kacas.model.tiling import Chunks
from kacas.repository import Repository
from kacas.settings import Settings, check_store_in
from kacas.upstream import Upstream
from kacas.upstream_store import StoreUpstream, open_repository

T = TypeVar("T")
Progress = Callable[[str, int, int | None], None]


class Store(ChangingVerbs):
    """A directory of content, addressed by identity. A context manager; picklable; safe across threads and forks.

    >>> with Store.open("/data/lab/store") as store:      # doctest: +SKIP
    ...     uri = store.store_text("example text")
    """

    def __init__(
        self,
        repository: Repository,
        settings: Settings,
        progress: Progress | None,
        upstream: Path | Store | None = None,
        store_in: str = "here",
        behind: Sequence[Upstream] = (),
    ) -> None:
        """Use `open`. upstream, store_in, behind: as there; the repository has them already."""
        self._repository = repository
        self._settings = settings
        self._progress = progress
        self._upstream = upstream
        self._store_in = store_in
        self._behind = behind
        self._trees = Trees(repository)
        self._files = MaterialisedFiles(repository.cache, settings.cache_size)
        self._identities = Identities(repository.cache)
        self._sequences = Sequences(repository.volume)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        settings: Settings | None = None,
        durability: str | None = None,
        progress: Progress | None = None,
        upstream: str | os.PathLike[str] | Store | None = None,
        store_in: str = "here",
        behind: Sequence[Upstream] = (),
    ) -> Store:
        """Open the store at `path`; make it if it is not there and `create`.

        settings: default from the environment. durability: "full" (default) or "relaxed" (no syncs: faster,
        may lose the last seconds at a power cut); chosen when the store is made, for good.
        progress: called as progress(stage, done_bytes, total_bytes or None) during long work.
        upstream: the store behind this one, from which comes what is absent here: whole content is fetched, parts are read
        through. It is opened when it is needed; given as a Store, it stays open when this one is closed. store_in: which of
        the two keeps what is put, "here" or "upstream"; a put returns when that one holds it. behind: remotes, say, which
        are asked in this order for what is in neither.
        Raises StoreNotFoundError, StoreError, NewerFormatError, InvalidSettingError.
        """
        check_store_in(store_in, upstream is not None)
        volume = open_volume(Path(path), create=create, durability=durability)
        return cls._on(volume, settings, progress, upstream, store_in, behind)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        group: str | None = None,
        sticky: bool = False,
        world_readable: bool = False,
        durability: str | None = None,
        settings: Settings | None = None,
    ) -> Store:
        """Make a store that a group shares, or a private one (group=None); open it if it is there and made so.

        group: its members read and add; nobody can edit what is there. They can delete, unless it is sticky: then
        only the owner of the store, and of a file, can. world_readable: everybody on the host reads.
        Raises as `open`; InvalidSettingError if there is no such group, or you are no member.
        """
        if group is None and (sticky or world_readable):
            raise InvalidSettingError("sticky and world_readable are for a store that is shared: name its group")
        sharing = None if group is None else Sharing(group, sticky, world_readable)
        return cls._on(open_volume(Path(path), create=True, durability=durability, sharing=sharing), settings, None)

    @classmethod
    def _on(
        cls,
        volume: Volume,
        settings: Settings | None,
        progress: Progress | None,
        upstream: str | os.PathLike[str] | Store | None = None,
        store_in: str = "here",
        others: Sequence[Upstream] = (),
    ) -> Store:
        settings = settings or Settings.from_environment()
        behind = upstream if upstream is None or isinstance(upstream, Store) else Path(upstream).absolute()
        source: StoreUpstream | None = None
        if isinstance(behind, Store):
            source = StoreUpstream(behind.path, lambda: behind._repository, behind._repository)
        elif behind is not None:
            source = StoreUpstream(
                behind, lambda: open_repository(open_volume(behind, create=False), settings, progress, ())
            )
        if source is not None:
            source.serve(volume.path)
        chain = (*([source] if source is not None else ()), *others)
        return cls(open_repository(volume, settings, progress, chain), settings, progress, behind, store_in, others)

    @property
    def path(self) -> Path:
        return self._repository.volume.path

    @property
    def store_id(self) -> str:
        return self._repository.volume.settings.store_id

    @property
    def durability(self) -> str:
        return self._repository.volume.settings.durability

    @property
    def repository(self) -> Repository:
        """The engine beneath, for upkeep."""
        return self._repository

    @property
    def identities(self) -> Identities:
        """What unchanged files are known to contain, for upkeep."""
        return self._identities

    @property
    def closed(self) -> bool:
        return self._repository.closed

    def close(self) -> None:
        """Release the index and files. Open file objects and lazy arrays stay usable."""
        self._repository.close()
        self._identities.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), self._settings, self._upstream, self._store_in, self._behind)

    def __repr__(self) -> str:
        return f"<kacas store {self.path}>"

    def _keeper(self) -> Repository:
        """The repository that keeps what is put. Raises StoreError if it is the upstream's, and that is not there."""
        if self._store_in == "here" or self.closed:
            return self._repository  # which refuses, if it was closed
        if isinstance(self._upstream, Store):
            return self._upstream._keeper()
        source = self._repository.behind.upstreams[0]
        assert isinstance(source, StoreUpstream)
        return source.repository()

    def batch(self) -> AbstractContextManager[None]:
        """Publish many puts at once: `with store.batch(): ...`. Its URIs bind when the block ends without an error."""
        return self._keeper().batch()

    # --- store ------------------------------------------------------------------------------

    def store_file(
        self,
        path: str | os.PathLike[str],
        *,
        label: str | None = None,
        rehash: bool = False,
        codec: str = "auto",
        chunks: Chunks | None = None,
    ) -> str:
        return file.store_file(self._keeper(), self._identities, path, label, rehash, codec, chunks)

    def link_file(self, path: str | os.PathLike[str], *, label: str | None = None) -> str:
        return link.link_file(self._keeper(), self._identities, path, label)

    def store_stream(self, stream: BinaryIO, *, label: str | None = None) -> str:
        return file.store_stream(self._keeper(), stream, label)

    def store_bytes(self, data: bytes | bytearray | memoryview, *, label: str | None = None) -> str:
        return objects.store_bytes(self._keeper(), data, label)

    def store_text(self, text: str, *, label: str | None = None) -> str:
        return objects.store_text(self._keeper(), text, label)

    def store_json(self, value: Any, *, label: str | None = None) -> str:
        return objects.store_json(self._keeper(), value, label)

    def store_npy(
        self, array: Any, *, label: str | None = None, codec: str = "auto", chunks: Chunks | None = None
    ) -> str:
        return array_stream.store_array(self._keeper(), array, label, codec, chunks)

    def npy_writer(
        self,
        shape: int | Sequence[int | None] | None,
        dtype: Any,
        *,
        label: str | None = None,
        codec: str = "auto",
        chunks: Chunks | None = None,
    ) -> NpyWriter:
        return NpyWriter(self._keeper(), shape, dtype, label, codec, chunks)

    def store_pkl(self, value: Any, *, label: str | None = None) -> str:
        return objects.store_pkl(self._keeper(), value, label)

    def store_dir(
        self,
        path: str | os.PathLike[str],
        *,
        label: str | None = None,
        exclude: Iterable[str] = (),
        partial: bool = False,
        rehash: bool = False,
    ) -> str:
        return tree_store.store_dir(self._keeper(), self._identities, path, label, exclude, partial, rehash)

    def link_dir(
        self,
        path: str | os.PathLike[str],
        *,
        label: str | None = None,
        exclude: Iterable[str] = (),
        partial: bool = False,
    ) -> str:
        return tree_link.link_dir(self._keeper(), self._identities, path, label, exclude, partial)

    # --- load -------------------------------------------------------------------------------

    def load_file(self, uri: str, *, dest: str | os.PathLike[str] | None = None) -> Path:
        return file.load_file(self._repository, self._files, self._trees.content_uri(uri), dest)

    def load_bytes(self, uri: str, start: int | None = None, stop: int | None = None) -> bytes:
        content = self._trees.content_uri(uri)
        if start is None and stop is None:
            return self._repository.read_whole(content)
        return self._repository.read(content, start, stop)

    def load_text(self, uri: str) -> str:
        return objects.load_text(self._repository, self._trees.content_uri(uri))

    def load_json(self, uri: str) -> Any:
        return objects.load_json(self._repository, self._trees.content_uri(uri))

    def load_npy(self, uri: str, *, out: NDArray[Any] | None = None, mmap: bool = False) -> NDArray[Any]:
        if not mmap:
            return npy.load_npy(self._repository, self._trees.content_uri(uri), out)
        if out is not None:
            raise ValueError("an array is mapped, or loaded into out, not both")
        return file.map_npy(self._repository, self._files, self._trees.content_uri(uri))

    def load_pkl(self, uri: str) -> Any:
        return objects.load_pkl(self._repository, self._trees.content_uri(uri))

    def open_file(self, uri: str) -> io.BufferedReader:
        return file.open_file(self._repository, self._trees.content_uri(uri))

    def open_npy(self, uri: str) -> LazyArray:
        return open_npy(self._repository, self._trees.content_uri(uri), self.open_npy)

    def open_h5(self, uri: str) -> Any:
        return hdf5.open_h5(self._repository, self._trees.content_uri(uri))

    def list_h5(self, uri: str, path: str = "") -> Iterator[Hdf5Item]:
        return hdf5.list_h5(self._repository, self._trees.content_uri(uri), path)

    def is_h5(self, uri: str) -> bool:
        """Whether the URI names an HDF5 file, by its first bytes. Raises NotFoundError."""
        return not self.is_dir(uri) and hdf5.is_stored_hdf5(self._repository.resolve(self._trees.content_uri(uri))[1])

    def load_dir(self, uri: str, dest: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        directory = self._trees.directory(uri)
        return tree_restore.load_dir(self._repository, self._trees, directory, dest, overwrite=overwrite)

    def list_dir(self, uri: str, path: str = "") -> list[DirectoryItem]:
        return self._trees.list(uri, path)

    def is_dir(self, uri: str) -> bool:
        """Whether the URI names a directory. Raises NotFoundError for a path that the directory does not have."""
        return self._trees.is_directory(uri)

    def size(self, uri: str) -> int:
        """Bytes of the content; of a directory, of all files in it together. Raises as `describe`."""
        if self.is_dir(uri):
            directory = self._trees.directory(uri)
            return self._trees.totals(directory.sha1, str(directory)).size
        return self._repository.size(self._trees.content_uri(uri))

    def diff(self, uri: str, other: str) -> Iterator[Difference]:
        return self._trees.differences(uri, other)

    # --- ask --------------------------------------------------------------------------------

    def exists(self, uri: str) -> bool:
        try:
            return self._repository.exists(self._trees.content_uri(uri, directory=True))
        except NotFoundError:
            return False  # of a path in a directory

    def find(self, uri: str) -> Description | None:
        try:
            return self.describe(uri)
        except NotFoundError:
            return None

    def describe(self, uri: str) -> Description:
        return self._trees.described(npy.described(self._repository, self._trees.content_uri(uri, directory=True)))

    def forget(self, uri: str) -> Forgotten:
        return self._keeper().forget(self._trees.content_uri(uri, directory=True))

    def history(self) -> Iterator[HistoryItem]:
        return self._keeper().history()

    def stats(self) -> StoreStats:
        return self._repository.stats()

    def merge_segments(self) -> SegmentStats:
        """Merge the tables of all packs into one sorted segment, so that a host without an index opens the store at once.

        One that is four times as large as all that is new stays beside it. It is done in parts without being asked, too. Raises
        StoreError, also while another process or thread of this host does it.
        """
        return self._repository.merge_segments()

    def segment_stats(self) -> SegmentStats:
        """What segments hold: the sorted merges of packs' tables."""
        return self._repository.segment_stats()

    def rebuild_index(self) -> int:
        """Make the host-local index anew from the packs' tables. Returns the number of chunk records."""
        return self._repository.rebuild_index()

    # --- what changes -----------------------------------------------------------------------

    @property
    def _open_sequences(self) -> Sequences:
        """Those of the last tier, which all share."""
        if self.closed:
            raise StoreClosedError(f"the store at {self.path} was closed; open it again")
        if isinstance(self._upstream, Store):
            return self._upstream._open_sequences
        if self._upstream is not None and isinstance(source := self._repository.behind.upstreams[0], StoreUpstream):
            volume = source.repository().volume
            if self._sequences.volume is not volume:
                self._sequences = Sequences(volume)
        return self._sequences


def _reopen(path: str, settings: Settings, upstream: Path | Store | None, store_in: str, behind: Any) -> Store:
    return Store.open(path, create=False, settings=settings, upstream=upstream, store_in=store_in, behind=behind)
