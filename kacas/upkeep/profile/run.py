"""One profile from beginning to end, in a scratch store of its own; nothing of it is left, whatever happens."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kacas.disk.durable import translate
from kacas.disk.index_environment import IndexUnusableError
from kacas.disk.memory import available_memory
from kacas.disk.scratch import Scratch
from kacas.errors import InvalidSettingError, KacasError, WriteError
from kacas.model.codec import MIB
from kacas.settings import DEFAULT_MEMORY, Settings
from kacas.upkeep.profile import surroundings
from kacas.upkeep.profile.advice import Findings, advise
from kacas.upkeep.profile.codecs import codec_figures
from kacas.upkeep.profile.figures import PROFILE_VERSION, CodecFigures, Figure, Pipeline, Profile
from kacas.upkeep.profile.latencies import file_system_latencies
from kacas.upkeep.profile.limits import DISK_SIZE, INDEX_ROWS, disk_limits, index_limits, processor_limits
from kacas.upkeep.profile.operations import Trials, Trip, median_trip
from kacas.upkeep.profile.sample import Sample, check_source, generated, sample_of
from kacas.upkeep.profile.stages import Stages
from kacas.upkeep.profile.stopwatch import Progress, Stopwatch

SAMPLE_SIZE = 128 * MIB
_MOST_SAMPLE = 256 * MIB
_QUICK_BELOW = 32 * MIB
_LEAST_SAMPLE = 4 * MIB
_LIMIT_S = 40.0  # no step begins later
_DISK_S = 2.0  # a sample is no larger than the disk can write in this time
_COPIES = 4  # of the sample on the disk: itself, its stages or what is stored of it, restored; and one to spare
_REST = 48 * MIB
_SHARE_OF_MEMORY = 6  # the sample, what it is encoded to, what it is loaded into, and room


def profile(
    store: str | os.PathLike[str],
    *,
    settings: Settings | None = None,
    source: str | os.PathLike[str] | None = None,
    size: int = SAMPLE_SIZE,
    progress: Progress | None = None,
) -> Profile:
    """Profile this machine, the place of the store at `store`, and data: a file or directory, or a generated recording.

    The store need not exist, is not opened, and gets nothing: all is done in a hidden directory in it, or in the nearest
    directory above, and in one beside its index; both go at the end. size: bytes of data at most, up to 256 MiB; the disk
    takes up to four times that for a moment. progress: called with what is done next.
    Raises NoSpaceError, ReadOnlyStoreError, StoreError, UnreadableSourceError, InvalidSettingError.
    """
    if not 0 < size <= _MOST_SAMPLE:
        raise InvalidSettingError(f"a sample has from 1 byte to {_MOST_SAMPLE >> 20} MiB, not {size} bytes")
    return _Run(Path(store).absolute(), settings or Settings.from_environment(), size, progress).of(
        None if source is None else Path(source).absolute()
    )


@contextmanager
def _typed_errors(directory: Path, cache: Path) -> Iterator[None]:
    """What the system refuses in the scratch directories, as a StoreError."""
    try:
        yield
    except KacasError:
        raise
    except IndexUnusableError as exc:
        raise WriteError(
            f"an index cannot be measured in {cache}: {exc}; free space there, or set KACAS_CACHE_DIR to a local disk",
            path=str(cache),
        ) from exc
    except OSError as exc:
        raise translate(exc, exc.filename or directory, "measuring in") from exc


class _Run:
    def __init__(self, store: Path, settings: Settings, size: int, progress: Progress | None) -> None:
        self._store = store
        self._settings = settings
        self._size = min(size, max(_LEAST_SAMPLE, (available_memory() or size * _SHARE_OF_MEMORY) // _SHARE_OF_MEMORY))
        self._watch = Stopwatch(_LIMIT_S, progress)
        self._notes: list[str] = []
        if self._size < size:
            self._notes.append(f"the sample is {self._size >> 20} MiB instead of {size >> 20}: little memory is free")
        self._quick = size < _QUICK_BELOW
        self._limits: list[Figure] = []
        self._latencies: list[Figure] = []
        self._codecs: list[CodecFigures] = []
        self._operations: list[Figure] = []
        self._pipelines: list[Pipeline] = []

    def of(self, source: Path | None) -> Profile:
        if source is not None:
            check_source(source)
        parent, durability = surroundings.scratch_parent(self._store)
        cache_parent, note = surroundings.cache_parent(self._settings)
        self._notes += [note] if note else []
        with ExitStack() as stack:
            stack.enter_context(_typed_errors(parent, cache_parent))
            scratch = stack.enter_context(Scratch(parent, max(_COPIES * self._size, self._disk_size) + _REST))
            cache = stack.enter_context(Scratch(cache_parent, self._size + _REST))
            place = surroundings.place_of(self._store, durability, scratch, cache, self._settings)
            self._measure_machine(scratch, cache)
            self._watch.begin("preparing the data")
            size = self._bounded(place.network)
            sample = generated(size) if source is None else sample_of(source, size, scratch)
            self._notes += sample.notes
            found = Findings(sample.has_recipes, sample.data.sample_size, place.durability)
            self._measure_other_places(found, scratch, cache)
            trials = Trials(sample, scratch, cache, self._settings, place.durability, quick=self._quick)
            if sample.data.sample_size:
                self._measure_data(sample, trials, found, scratch, cache)
            else:
                self._notes.append(f"{sample.data.name} has no bytes: only the machine was measured")
            self._measure_small(trials, found)
        return Profile(
            PROFILE_VERSION,
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            round(self._watch.elapsed_s, 3),
            surroundings.this_machine(),
            place,
            sample.data,
            tuple(self._limits),
            tuple(self._latencies),
            tuple(self._codecs),
            tuple(self._operations),
            tuple(self._pipelines),
            tuple(advise(found)),
            tuple(dict.fromkeys([*self._notes, *self._watch.notes])),
        )

    @property
    def _disk_size(self) -> int:
        """A small sample is a quick look at the disk, too."""
        return min(DISK_SIZE, max(_LEAST_SAMPLE, self._size))

    def _measure_machine(self, scratch: Path, cache: Path) -> None:
        self._watch.begin("SHA-1, BLAKE3, memory")
        self._limits += processor_limits()
        self._watch.begin("the store's disk")
        figures, notes = disk_limits(scratch, self._disk_size)
        self._limits += figures
        self._notes += notes
        self._watch.begin("fsync, link, rename")
        self._latencies, notes = file_system_latencies(scratch / "latencies", quick=self._quick)
        self._notes += notes
        self._watch.begin("the index")
        (cache / "index-here").mkdir()
        self._limits += index_limits(cache / "index-here", self._index_rows)

    @property
    def _index_rows(self) -> int:
        return INDEX_ROWS // 10 if self._quick else INDEX_ROWS

    def _limit(self, key: str) -> float | None:
        return next((figure.value for figure in self._limits if figure.key == key), None)

    def _bounded(self, network: bool) -> int:
        """The sample's size, that a slow disk is not kept busy for minutes."""
        rate = self._limit("disk_write_sync") or 0.0
        fitting = max(_LEAST_SAMPLE, int(rate * _DISK_S) // MIB * MIB)
        if fitting < self._size:
            self._notes.append(f"the sample is {fitting >> 20} MiB instead of {self._size >> 20}: the disk is slow")
        return min(self._size, fitting)

    def _measure_other_places(self, found: Findings, scratch: Path, cache: Path) -> None:
        """Another disk for the index, and the disk of the cache, where they are not the store's."""
        found.index = {str(self._settings.cache_directory): self._limit("index_get") or 0.0}
        for other in surroundings.other_places(cache):
            if self._watch.allows(f"an index in {other}") and os.access(other, os.W_OK):
                with Scratch(other, _REST) as directory:
                    figures = {figure.key: figure.value for figure in index_limits(directory, self._index_rows)}
                    found.index[str(other)] = figures["index_get"]
        cold = self._limit("disk_read_cold")
        if cold and os.stat(scratch).st_dev != os.stat(cache).st_dev and self._watch.allows("the cache's disk"):
            figures = {figure.key: figure.value for figure in disk_limits(cache, self._disk_size // 4)[0]}
            if "disk_read_cold" in figures:
                found.cold = (cold, figures["disk_read_cold"])
                title = "reading the cache's disk cold"
                self._limits.append(Figure("cache_read_cold", title, figures["disk_read_cold"], "B/s", "higher"))

    def _measure_data(self, sample: Sample, trials: Trials, found: Findings, scratch: Path, cache: Path) -> None:
        chunks = sample.chunks()
        self._watch.begin("codecs")
        self._codecs = codec_figures(sample, chunks)
        self._watch.begin("storing and loading")
        first = trials.trip()  # it makes what all use, and touches the memory
        need_s = first.store_s + first.load_s

        def allowed(way: str) -> bool:
            return way == "auto" or self._watch.allows(f"storing and loading with {way}", 5 * need_s)

        found.trips = trips = trials.trips(self._ways(sample, found), 1 if need_s > 1 or self._quick else 3, allowed)
        self._add_trips(trips, sample.data.sample_size)
        self._watch.begin("slices")
        if self._watch.allows("slices", 5 * need_s):
            found.reading = trials.reading()
            self._add_reading(found)
        self._watch.begin("stages")
        if self._watch.allows("stages", 5 * need_s):
            (scratch / "stages").mkdir()
            before = trials.trip()
            stages = Stages(sample, chunks, self._settings.threads, scratch / "stages", cache / "stages")
            try:
                storing = stages.of_storing(durable=found.durability == "full")
                loading = stages.of_loading(trials.out)
            finally:
                stages.close()
            shutil.rmtree(scratch / "stages")  # the trip that follows needs the room
            # Trips just before and after the stages: a machine that others use is not the same a few seconds later.
            whole = median_trip([before, trials.trip()])
            self._pipelines = [
                Pipeline("store", "storing", tuple(storing), whole.store_s, whole.store_cpu_s),
                Pipeline("load", "loading", tuple(loading), whole.load_s, whole.load_cpu_s),
            ]
            self._notes += [
                f"{one.title} took longer than its stages one after the other: the data is small, or other work ran too"
                for one in self._pipelines
                if one.overlap < 1
            ]

    def _ways(self, sample: Sample, found: Findings) -> dict[str, dict[str, Any]]:
        ways: dict[str, dict[str, Any]] = {"auto": {}}
        if found.has_recipes:
            ways |= {"fast": {"codec": "fast"}, "small": {"codec": "small"}}
        other = "relaxed" if found.durability == "full" else "full"
        ways[other] = {"durability": other}
        found.threads, found.memory = min(8, surroundings.cpus()), DEFAULT_MEMORY
        if self._settings.threads < found.threads:
            ways["threads"] = {"threads": found.threads}
        if self._settings.memory < found.memory:
            ways["memory"] = {"memory": found.memory}
        return ways

    def _add_trips(self, trips: dict[str, Trip], size: int) -> None:
        names = {
            "relaxed": "durability relaxed",
            "full": "durability full",
            "threads": "more threads",
            "memory": "more memory",
        }
        for key, trip in trips.items():
            name = names.get(key, f"codec {key}" if "fast" in trips else "as it is")
            self._operations += [
                Figure(f"store.{key}", f"store, {name}", size / trip.store_s, "B/s", "higher"),
                Figure(f"load.{key}", f"load, {name}", size / trip.load_s, "B/s", "higher"),
            ]
            if key in ("auto", "fast", "small"):
                ratio = size / max(1, trip.stored_size)
                self._operations.append(
                    Figure(f"ratio.{key}", f"raw bytes for a stored one, {name}", ratio, "x", "higher")
                )

    def _add_reading(self, found: Findings) -> None:
        reading = found.reading
        rows: Sequence[tuple[str, str, float | None]] = (
            ("slice", "a slice of 64 KiB, each in another chunk", reading.rows_s),
            ("column", "one index of the last axis, rows stored", reading.column_s),
            ("tile_column", "the same, stored as tiles", reading.tile_column_s),
            ("mapped", "load again from the local cache, mapped", reading.mapped_s),
        )
        self._operations += [Figure(key, title, value, "s", "lower") for key, title, value in rows if value]

    def _measure_small(self, trials: Trials, found: Findings) -> None:
        self._watch.begin("small things")
        if not self._watch.allows("small things"):
            return
        found.singly = trials.small_puts()
        found.together, load = trials.small_puts_together()
        rates = [("small_singly", "texts of 1 KiB stored one by one", found.singly)]
        if found.durability == "full":
            found.singly_relaxed = trials.small_puts("relaxed")
            rates.append(("small_relaxed", "the same, durability relaxed", found.singly_relaxed))
        rates += [
            ("small_together", "the same in one batch", found.together),
            ("small_load", "loaded one by one", load),
        ]
        self._operations += [Figure(key, title, value, "/s", "higher") for key, title, value in rates]
