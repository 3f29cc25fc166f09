"""Making segments when they are due: in a thread, by one process of a host, so that no put waits for it.

Segments are only ever added. Whenever this ends, the store is right, and the index too.
"""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

from kacas.disk.alone import alone, free_size
from kacas.disk.holding import LEFT_FREE, LOCK_NAME
from kacas.disk.lookup import Lookup
from kacas.disk.pack_reader import OpenPacks
from kacas.disk.segment_reader import Segment, SegmentUnreadableError, SegmentUnusableError
from kacas.disk.segment_writer import SegmentSource, TableRun, write_segment
from kacas.disk.segments import SegmentSet
from kacas.disk.tables import Tables
from kacas.disk.volume import Volume
from kacas.errors import KacasError, NoSpaceError, ReadOnlyStoreError, WriteError
from kacas.model.pack_format import Table
from kacas.model.segment_format import SegmentFormatError
from kacas.model.segment_rule import SEGMENT_RULE, SegmentRule

# That are taken from tables at once, in half a second: 150 MiB of chunk records, or 100 MiB of entries. An entry counts as four.
_RUN_ROWS = 1 << 19
_PATIENCE_S = 1.0
_ABANDONED_NAME = "segments.abandoned"
_PAUSE_S = 600  # after a failure


class _AbandonedError(Exception):
    """Whoever waits for the end has waited long enough."""


class SegmentMaker:
    """Makes the segments of one store. Thread-safe, safe after fork."""

    def __init__(self, volume: Volume, lookup: Lookup) -> None:
        self.rule = SEGMENT_RULE
        self.patience_s = _PATIENCE_S
        self._volume = volume
        self._lookup = lookup
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._not_before = 0.0  # on the monotonic clock, as the next
        self._until = math.inf  # when the thread gives up
        self._warned = False

    def make_if_due(self) -> None:
        """Begin to make segments, unless that is not due, or goes on already. It never fails the caller; it may warn."""
        if self._pid != os.getpid():
            self._thread, self._pid = None, os.getpid()  # the parent's thread did not come along
        if self._thread is not None and self._thread.is_alive():
            return
        if time.monotonic() < self._not_before or not self._is_due():
            return
        if not os.access(self._volume.path, os.W_OK):
            return  # readers do without
        self._not_before = time.monotonic() + 1  # not again for each put if another process is at it
        self._until = math.inf
        thread = threading.Thread(target=self._make_quietly, name="kacas-segments")
        try:
            thread.start()
        except RuntimeError:
            return  # there may be no more threads now, or the interpreter ends: another put, or process, makes them
        self._thread = thread  # only now: a thread that was not started cannot be waited for

    def _is_due(self) -> bool:
        return self.rule.is_due(*self._lookup.load()) or self._to_merge(self._lookup.segments.current) > 1

    def _to_merge(self, segments: SegmentSet) -> int:
        costs = sorted(map(_cost, segments.segments))
        count = self.rule.to_merge(costs)
        return self.rule.brief().to_merge(costs) if count > 1 and self._was_abandoned() else count

    def _was_abandoned(self) -> bool:
        """Whether a process of this host could not end a merge lately: each would begin it again."""
        try:
            return abs(time.time() - os.stat(self._lookup.cache / _ABANDONED_NAME).st_mtime) < _PAUSE_S
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Wait until what goes on has ended, or was abandoned: after a second it is, where that can be done at once."""
        if self._thread is not None and self._pid == os.getpid():
            self._until = min(self._until, time.monotonic() + self.patience_s)
            self._thread.join()

    def _go_on(self) -> None:
        """For the thread, between parts of its work. Raises _AbandonedError."""
        now = time.monotonic()
        if not threading.main_thread().is_alive():  # the end of the program waits for this thread
            self._until = min(self._until, now + self.patience_s)
        if now >= self._until:
            raise _AbandonedError

    def _make_quietly(self) -> None:
        try:
            self._make(everything=False, go_on=self._go_on)
        except _AbandonedError:
            return  # what was published by then counts, the next one goes on from there
        except ReadOnlyStoreError:
            self._not_before = time.monotonic() + _PAUSE_S
        except (KacasError, SegmentFormatError, OSError) as exc:
            self._not_before = time.monotonic() + _PAUSE_S
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"no segment could be made of the packs' tables ({exc}); all that was stored is there, and it is tried "
                    "again later",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def make_all(self) -> None:
        """Hold all packs that are not about to be merged in one segment, or in few.

        Raises StoreError, also if another process of this host is making segments: it is not waited for.
        """
        self.close()
        try:
            if not self._make(everything=True, go_on=_always):
                raise WriteError(
                    "no segment was made: another process or thread of this host makes some of this store; try again when it has "
                    "ended. The store is as it was",
                    path=str(self._volume.segments),
                )
        except (SegmentFormatError, OSError) as exc:
            if isinstance(exc, KacasError):
                raise
            raise WriteError(
                f"no segment could be made ({exc}); the store is as it was", path=str(self._volume.segments)
            ) from exc

    def _make(self, *, everything: bool, go_on: Callable[[], None]) -> bool:
        """False if another process of this host is at it."""
        with alone(self._lookup.cache / LOCK_NAME) as is_alone:
            if not is_alone:
                return False
            self._lookup.refresh()
            for run in self._runs(self._lookup.in_no_segment(), go_on):
                if everything or self.rule.is_worth_it(sum(len(t.records) + t.entry_count for _, t in run), len(run)):
                    self._hold(run, go_on)
            self._lookup.look_for_segments()
            self._lookup.shed()  # now: merging may be abandoned
            while (damaged := self._merge(self._lookup.segments.current, everything, go_on)) is not None:
                self._rewrite(damaged, go_on)
        self._lookup.shed()
        return True

    def _hold(self, run: list[tuple[bytes, Table]], go_on: Callable[[], None], replaced: Sequence[bytes] = ()) -> None:
        self._check_space(sum(t.records.nbytes + 2 * len(t.entries_data) for _, t in run))
        write_segment(self._volume, [TableRun(run)], self._volume.list_packs(), replaced, go_on)

    def _runs(self, pack_ids: set[bytes], go_on: Callable[[], None]) -> Iterator[list[tuple[bytes, Table]]]:
        """Tables of these packs, but of those that a merged one of them covers, and that are about to be merged."""
        tables = Tables(self._volume, OpenPacks(self._volume))  # those that others use are not closed for this
        run: list[tuple[bytes, Table]] = []
        rows = 0
        covered: set[bytes] = set()
        for pack_id in sorted(pack_ids, reverse=True):  # merged packs before what they cover
            go_on()
            table = tables.read_whole(pack_id) if pack_id not in covered else None
            if table is None:
                continue
            covered |= tables.sources(pack_id)
            if self._lookup.rule.is_small(table):
                continue
            run.append((pack_id, table))
            rows += len(table.records) + 4 * table.entry_count
            if rows >= _RUN_ROWS:
                yield run
                run, rows = [], 0
        if run:
            yield run

    def _rewrite(self, exc: SegmentUnusableError, go_on: Callable[[], None]) -> None:
        """Hold the packs of a damaged segment anew, from their tables: else each process would begin to merge it."""
        for segment in self._lookup.segments.current.segments:
            if segment.id == exc.segment and not isinstance(exc, SegmentUnreadableError):
                runs = self._runs(set(segment.packs), go_on)
                run = next(runs, [])
                while following := next(runs, []):
                    self._hold(run, go_on)
                    run = following
                # With the last one only: until all is held, the damaged one serves what it can.
                self._hold(run, go_on, sorted((segment.id, *segment.replaced)))
        self._lookup.do_without(exc)

    def _merge(self, segments: SegmentSet, everything: bool, go_on: Callable[[], None]) -> SegmentUnusableError | None:
        """Until no more are due. Returns the error of one that was found damaged."""
        while True:
            rising = sorted(segments.segments, key=_cost)
            count = self.rule.thorough().to_merge(list(map(_cost, rising))) if everything else self._to_merge(segments)
            if count < 2:
                return None
            chosen = rising[:count]
            self._check_space(sum(segment.size for segment in chosen))
            replaced = {other for segment in chosen for other in (segment.id, *segment.replaced)}
            listed = self._volume.list_packs()
            try:
                made = write_segment(
                    self._volume, [SegmentSource(segment) for segment in chosen], listed, sorted(replaced), go_on
                )
            except SegmentFormatError:
                # What fits into no one segment, as a million entries of one SHA-1, stays in several.
                (self._lookup.cache / _ABANDONED_NAME).touch()
                return None
            except _AbandonedError:
                (self._lookup.cache / _ABANDONED_NAME).touch()
                raise
            except SegmentUnusableError as exc:
                return exc
            segments = self._lookup.look_for_segments()
            if not any(made in (segment.id, *segment.replaced) for segment in segments.segments):
                raise OSError(f"segment {made.hex()}.seg was made, but cannot be read")  # nor would the next one

    def _check_space(self, size: int) -> None:
        free = free_size(self._volume.path)
        if free < size + LEFT_FREE:
            raise NoSpaceError(
                f"no segment can be made: {free} bytes of the disk are free, {size + LEFT_FREE} are wanted; free space, then "
                "try again. The store is intact",
                path=str(self._volume.segments),
            )


def _cost(segment: Segment) -> int:
    return SegmentRule.cost(segment.footer.record_count, segment.footer.entry_count)


def _always() -> None:
    """Nobody is waiting for anything else."""
