"""Real stores in the scratch directory: what storing, loading and slicing take there, with one setting or another."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kacas.model.cuts import CHUNK_TARGET
from kacas.model.npy_header import is_fortran
from kacas.settings import Settings
from kacas.store import Store
from kacas.upkeep.profile.sample import Sample

_LEAST_ROWS_READ = 64 * 1024  # bytes of a slice
_SLICES_S, _MOST_SLICES = 0.5, 400
_QUICK = 8  # times less is done for a quick look
_SMALL_SIZE, _SINGLY_S, _MOST_SINGLY, _TOGETHER = 1024, 0.7, 300, 2000
_MANY_ROUNDS_S = 4.0  # a trip that takes longer is made once
_TILE = 256 * 1024


@dataclass(frozen=True)
class Trip:
    """Storing and loading the sample once, or the medians of several times. stored_size: of the packs."""

    store_s: float
    store_cpu_s: float
    load_s: float
    load_cpu_s: float
    stored_size: int


@dataclass(frozen=True)
class Reading:
    """Parts of the stored array or file. rows: 64 KiB slices, seconds each. columns, tiles: along the last axis.

    mapped: to map the cached file and copy all of it. None: it is no array, or one that is too small for it.
    """

    rows_s: float | None = None
    column_s: float | None = None
    tile_column_s: float | None = None
    tiles: tuple[int | None, ...] = ()
    mapped_s: float | None = None


class Trials:
    """Stores that are made, used and removed below `directory`, their indexes and caches in `cache`."""

    def __init__(
        self, sample: Sample, directory: Path, cache: Path, settings: Settings, durability: str, *, quick: bool
    ) -> None:
        """settings: the user's. quick: a look, with less exact figures."""
        self._sample = sample
        self._directory = directory
        self._cache = cache
        self._settings = replace(settings, cache_directory=cache)
        self._durability = durability
        self._part = _QUICK if quick else 1
        self.out = memoryview(bytearray(len(sample.raw)))  # loaded into: fresh pages would cost more than loading

    @contextmanager
    def _store(self, durability: str | None = None, **changed: Any) -> Iterator[Store]:
        directory = self._directory / "store"
        settings = replace(self._settings, **changed)
        try:
            with Store.open(directory, settings=settings, durability=durability or self._durability) as store:
                yield store
                cache = store.repository.cache
            shutil.rmtree(cache)
        finally:
            shutil.rmtree(
                directory, ignore_errors=True
            )  # else what was found wrong is told, and the scratch goes anyway

    def _put(self, store: Store, codec: str) -> str:
        if self._sample.array is not None:
            return store.store_npy(self._sample.array, codec=codec)
        assert self._sample.path is not None
        if self._sample.path.is_dir():
            return store.store_dir(self._sample.path)
        return store.store_file(self._sample.path, rehash=True, codec=codec)

    def _get(self, store: Store, uri: str) -> None:
        if self._sample.path is not None and self._sample.path.is_dir():
            restored = self._directory / "restored"
            store.load_dir(uri, restored)
            return
        if self._sample.array is not None:
            store.load_npy(uri, out=self._shaped(self._sample.array))
            return
        with store.open_file(uri) as file:
            file.readinto(self.out)

    def _shaped(self, array: NDArray[Any]) -> NDArray[Any]:
        """The room as such an array."""
        out = np.frombuffer(self.out, array.dtype)
        return out.reshape(array.shape[::-1]).T if is_fortran(array) else out.reshape(array.shape)

    def trip(self, codec: str = "auto", *, durability: str | None = None, **changed: int) -> Trip:
        """Store and load once. changed: settings that are other than the user's: threads, memory."""
        with self._store(durability, **changed) as store:
            uri, store_s, store_cpu_s = _spent(lambda: self._put(store, codec))
            _, load_s, load_cpu_s = _spent(lambda: self._get(store, uri))
            stored_size = sum(path.stat().st_size for path in (store.path / "packs").iterdir())
        shutil.rmtree(self._directory / "restored", ignore_errors=True)
        return Trip(store_s, store_cpu_s, load_s, load_cpu_s, stored_size)

    def trips(
        self, ways: dict[str, dict[str, Any]], rounds: int, allowed: Callable[[str], bool] = lambda name: True
    ) -> dict[str, Trip]:
        """Each way some times, in turn, so that what disturbs the machine disturbs all; medians.

        ways: name → arguments. allowed: whether there is time for a way, by its name.
        """
        found: dict[str, list[Trip]] = {}
        for number in range(rounds):
            for name, arguments in ways.items():
                known = found.get(name, [])
                slow = sum(one.store_s + one.load_s for one in known) > _MANY_ROUNDS_S / 2
                if allowed(name) if number == 0 else known and not slow:
                    found.setdefault(name, []).append(self.trip(**arguments))
        return {name: median_trip(trips) for name, trips in found.items()}

    def reading(self) -> Reading:
        """Slices of what is stored: each row slice in a chunk that was not read before."""
        array = self._sample.array
        if array is None:
            return self._reading_file()
        if array.ndim == 0 or array.nbytes == 0:
            return Reading()
        with self._store() as store:
            uri = store.store_npy(array)
            lazy = store.open_npy(uri)
            lead = array.shape[0] if not is_fortran(array) else array.shape[-1]
            row = array.nbytes // lead
            rows = max(1, _LEAST_ROWS_READ // max(row, 1))
            step = max(rows, -(-CHUNK_TARGET // max(row, 1)))
            starts = np.random.default_rng(0).permutation(max(1, lead // step)) * step

            def one(start: int) -> None:
                if is_fortran(array):
                    lazy[..., start : start + rows]
                else:
                    lazy[start : start + rows]

            rows_s = _each(one, starts.tolist(), _SLICES_S / self._part)
            store.load_npy(uri, mmap=True)  # the first time writes the file
            mapped_s = _spent(lambda: np.copyto(self._shaped(array), store.load_npy(uri, mmap=True)))[1]
            column_s = tile_column_s = None
            tiles = tiles_for(array.shape, array.itemsize) if array.ndim > 1 and not is_fortran(array) else ()
            if tiles:
                column_s = _spent(lambda: lazy[..., array.shape[-1] // 2])[1]
        if tiles:
            with self._store() as store:
                tiled = store.open_npy(store.store_npy(array, chunks=tiles))
                tile_column_s = _spent(lambda: tiled[..., array.shape[-1] // 2])[1]
        return Reading(rows_s, column_s, tile_column_s, tiles, mapped_s)

    def _reading_file(self) -> Reading:
        path = self._sample.path
        if path is None or path.is_dir() or not self._sample.raw:
            return Reading()
        with self._store() as store:
            uri = store.store_file(path, rehash=True)
            places = np.random.default_rng(0).permutation(max(1, len(self._sample.raw) // (1 << 20))) << 20
            with store.open_file(uri) as file:
                room = memoryview(bytearray(_LEAST_ROWS_READ))

                def one(start: int) -> None:
                    file.seek(start)
                    file.readinto(room)

                return Reading(rows_s=_each(one, places.tolist(), _SLICES_S / self._part))

    def small_puts(self, durability: str | None = None) -> float:
        """Texts of 1 KiB stored one by one, a second."""
        with self._store(durability) as store:
            store.store_text("the first put makes what all use")
            count, begun = 0, time.perf_counter()
            while count < _MOST_SINGLY and (count < 3 or time.perf_counter() - begun < _SINGLY_S / self._part):
                store.store_text(_text(count))
                count += 1
            return count / (time.perf_counter() - begun)

    def small_puts_together(self) -> tuple[float, float]:
        """The same in one batch, and loading them one by one: texts a second."""
        with self._store() as store:
            begun = time.perf_counter()
            with store.batch():
                uris = [store.store_text(_text(number)) for number in range(_TOGETHER // self._part)]
            together = len(uris) / (time.perf_counter() - begun)
            load_s = _each(lambda number: store.load_text(uris[number]), list(range(len(uris))), _SLICES_S / self._part)
            return together, 1 / load_s


def tiles_for(shape: tuple[int, ...], item_size: int) -> tuple[int | None, ...]:
    """Tiles of some 256 KiB, narrow along the last axis, for who reads along the first. () if the array is too small."""
    last = max(1, min(shape[-1], 64 // item_size or 1))
    first = _TILE // (last * item_size)
    rest = 1
    for length in shape[1:-1]:
        rest *= length
    if rest > first or shape[-1] < 2 * last or shape[0] * rest * last * item_size < 2 * _TILE:
        return ()
    return (max(1, min(shape[0], first // rest)), *(None for _ in shape[1:-1]), last)


def _spent(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """(its answer, wall seconds, seconds of the processors)"""
    before, begun = time.process_time(), time.perf_counter()
    answer = work()
    wall_s = time.perf_counter() - begun
    return answer, max(wall_s, 1e-9), time.process_time() - before


def _each(work: Callable[[int], object], places: list[int], most_s: float) -> float:
    """Median seconds of one, at as many places as there is time for."""
    spent: list[float] = []
    ending = time.perf_counter() + most_s
    for place in places[:_MOST_SLICES]:
        spent.append(_spent(lambda: work(place))[1])  # noqa: B023
        if time.perf_counter() > ending:
            break
    return median(spent)


def median_trip(trips: list[Trip]) -> Trip:
    """The median of each figure."""
    return Trip(
        median(one.store_s for one in trips),
        median(one.store_cpu_s for one in trips),
        median(one.load_s for one in trips),
        median(one.load_cpu_s for one in trips),
        int(median(one.stored_size for one in trips)),
    )


def _text(number: int) -> str:
    return f"{number:>{_SMALL_SIZE}}"
