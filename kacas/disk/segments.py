"""The segments of a store that serve: those that are whole, as far as is known, and not merged into a larger one.

A segment was made from tables that were whole, of packs that never change. So where it is whole itself, what it says of
the packs that it holds, and that it says nothing, is as good as their tables. What is damaged is done without.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterable, Set
from functools import cached_property
from itertools import islice, takewhile

from kacas.disk.index_entries import owner_hash
from kacas.disk.index_marks import Place
from kacas.disk.segment_reader import Segment, SegmentUnreadableError, SegmentUnusableError
from kacas.disk.volume import SEGMENT_NAME, Volume
from kacas.errors import NewerFormatError
from kacas.model.digest import ID_SIZE, SHA1_SIZE
from kacas.model.entry import Entry, EntryError, decode_entry
from kacas.model.location import Location

_ASIDE_S = 30  # a segment that the system fails to read twice


class SegmentSet:
    """Some open segments, as one. Never changes.

    held: packs whose tables they have, and which were there. gone: those which were not, of which nothing is said.
    sheds: of the index, asked before it was looked which packs and segments there are.
    """

    def __init__(self, segments: tuple[Segment, ...], listed: Set[bytes], sheds: int = 0) -> None:
        self.segments = segments
        self.sheds = sheds
        packs = frozenset[bytes]().union(*(segment.packs for segment in segments))
        self.gone = packs - listed
        self.held = packs - self.gone if self.gone else packs

    def spared(self, problems: Set[bytes] = frozenset()) -> frozenset[bytes]:
        """Packs whose tables need not be read: held ones, and what a merged one of these covers that is not among the problems."""
        return self.held.union(self.covered(problems)) if problems else self._spared

    @cached_property
    def _spared(self) -> frozenset[bytes]:
        return self.held.union(self.covered())

    def covered(self, problems: Set[bytes] = frozenset()) -> frozenset[bytes]:
        """Packs of which all is in a merged one that is held, there, and not among the problems."""
        bad = self.gone.union(problems)
        return frozenset[bytes]().union(*(segment.covered(bad) for segment in self.segments))

    def locate(self, digests: Iterable[bytes], bad: Set[Place]) -> dict[bytes, list[Location]]:
        """Where payloads may be; a digest is looked for until a place is found that is not bad. Raises SegmentUnusableError."""
        found: dict[bytes, list[Location]] = {}
        lacking = set(digests)
        for segment in self.segments:
            if not lacking:
                break
            for digest, places in segment.locate(lacking).items():
                for place in places:
                    if place.pack_id not in self.gone:
                        damaged = bool(bad) and (digest, place.pack_id, place.offset) in bad
                        found.setdefault(digest, []).append(place._replace(damaged=True) if damaged else place)
                        if not damaged:
                            lacking.discard(digest)
        return found

    def entries(self, sha1s: Iterable[bytes]) -> dict[bytes, list[tuple[bytes, bytes]]]:
        """Every entry, encoded, in every pack that is held and there, with the pack. Raises SegmentUnusableError."""
        found: dict[bytes, list[tuple[bytes, bytes]]] = {}
        wanted = list(sha1s)
        for segment in self.segments:
            for sha1, entries in segment.entries(wanted).items():
                if there := [one for one in entries if one[1] not in self.gone]:
                    found.setdefault(sha1, []).extend(there)
        return found

    def log(self, owner: bytes, before: bytes, count: int) -> list[Entry]:
        """So many of the owner's keep entries whose log keys are less than `before`. Raises SegmentUnusableError."""
        page: list[Entry] = []
        for segment in self.segments:
            found, start = 0, before
            # Entries of packs that are gone are not counted: else a page of them would look like the end.
            while found < count and (rows := self._log_rows(segment, owner, start, count)):
                entries = self._log_entries(segment, owner, rows)
                page += entries
                found, start = found + len(entries), rows[-1]
        return page

    @staticmethod
    def _log_rows(segment: Segment, owner: bytes, before: bytes, count: int) -> list[bytes]:
        prefix = owner_hash(owner)
        return list(takewhile(lambda row: row.startswith(prefix), islice(segment.log_before(before), count)))

    def _log_entries(self, segment: Segment, owner: bytes, rows: list[bytes]) -> list[Entry]:
        ids = {row[-SHA1_SIZE - ID_SIZE : -SHA1_SIZE] for row in rows}
        told = segment.entries({row[-SHA1_SIZE:] for row in rows})
        there = {encoded for entries in told.values() for encoded, pack_id in entries if pack_id not in self.gone}
        known = (decoded(encoded) for encoded in there)
        return [entry for entry in known if entry and entry.entry_id in ids and entry.owner == owner]


def decoded(encoded: bytes) -> Entry | None:
    """None if it is none, which the checksum of its bucket should have told."""
    try:
        return decode_entry(encoded)[0]
    except EntryError:
        return None


class Segments:
    """Which segments of a volume serve now: `current`. Thread-safe, safe after fork."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._aside: dict[bytes, float] = {}  # until when they are done without, on the monotonic clock, as the next
        self._failed: dict[bytes, float] = {}  # when the system last failed to read them
        self._anew: set[bytes] = set()  # to be opened again
        self.current = SegmentSet((), frozenset())

    def refresh(self, listed: Set[bytes], sheds: int) -> SegmentSet:
        """Look which there are. listed: the packs that are there now. sheds: of the index, before they were listed.

        What is found damaged is named in a warning, once.
        """
        opened = {segment.id: segment for segment in self.current.segments if segment.id not in self._anew}
        self._anew.clear()
        serving: list[Segment] = []
        replaced: set[bytes] = set()
        for segment_id in sorted(list_segments(self._volume), reverse=True):  # large ones before what they replace
            if segment_id in replaced or self._is_aside(segment_id):
                continue
            segment = opened.get(segment_id) or self._open(segment_id)
            if segment is not None:
                serving.append(segment)
                replaced.update(segment.replaced)
        current = SegmentSet(tuple(one for one in serving if one.id not in replaced), listed, sheds)
        self.current = current
        return current

    def _open(self, segment_id: bytes) -> Segment | None:
        while True:
            try:
                return Segment(self._volume.segment_path(segment_id), segment_id, self._volume.store_id)
            except FileNotFoundError:
                return None  # collected meanwhile
            except (SegmentUnusableError, NewerFormatError) as exc:
                if not self._is_tried_again(segment_id, exc):
                    self._set_aside(segment_id, exc)
                    return None

    def drop(self, exc: SegmentUnusableError) -> None:
        """Do without the segment that the exception names, or open it once more; a `refresh` then looks what there is."""
        if self._is_aside(exc.segment):
            return
        if self._is_tried_again(exc.segment, exc):
            self._anew.add(exc.segment)
        else:
            self._set_aside(exc.segment, exc)

    def _is_aside(self, segment_id: bytes) -> bool:
        return time.monotonic() < self._aside.get(segment_id, 0)

    def _is_tried_again(self, segment_id: bytes, exc: Exception) -> bool:
        """Once, if the system failed: descriptors were short, a network file system lost its handle."""
        now = time.monotonic()
        before = self._failed.get(segment_id, -math.inf)
        self._failed[segment_id] = now
        return isinstance(exc, SegmentUnreadableError) and now - before > _ASIDE_S

    def _set_aside(self, segment_id: bytes, exc: Exception) -> None:
        lasts = not isinstance(exc, SegmentUnreadableError)
        self._aside[segment_id] = math.inf if lasts else time.monotonic() + _ASIDE_S
        warnings.warn(str(exc), RuntimeWarning, stacklevel=2)


def list_segments(volume: Volume) -> set[bytes]:
    """Ids of the segments that are there now."""
    try:
        # By the listing above it: an NFS client that once looked for it in vain does so for a minute.
        names = os.listdir(volume.segments) if volume.segments.name in os.listdir(volume.path) else []
    except OSError:
        return set()  # what cannot be listed is done without
    found = (SEGMENT_NAME.fullmatch(name) for name in names)
    return {bytes.fromhex(match[1]) for match in found if match}
