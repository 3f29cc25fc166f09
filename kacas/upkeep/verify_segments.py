"""Verify, the segments: every byte of them read, and what they say compared with the tables that they were made from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kacas.disk.lookup import Lookup
from kacas.disk.pack_reader import OpenPacks
from kacas.disk.segment_reader import Segment, SegmentUnusableError
from kacas.disk.segments import list_segments
from kacas.disk.tables import Tables
from kacas.disk.volume import Volume
from kacas.errors import NewerFormatError
from kacas.model.entry import Action
from kacas.model.merging import sources_of
from kacas.model.pack_format import Records, Table
from kacas.model.segment_format import SEGMENT_RECORD, prefixes

_PARTS = 6  # bits: a segment is read in so many parts, to bound the memory
_MERGED = int(Action.MERGED)
_FACTORS = (np.random.Generator(np.random.PCG64(20261126)).integers(1 << 62, size=9) * 2 + 1).astype(np.uint64)


def check_segments(volume: Volume, lookup: Lookup) -> Iterator[tuple[str, str]]:
    """What is wrong with the segments: the kind and a message. "damaged" and "newer" ones are done without and cost nothing
    but time; "contradicting" ones are whole, but say something else than the tables of their packs."""
    tables = Tables(volume, OpenPacks(volume))
    for segment_id in sorted(list_segments(volume)):
        try:
            segment = Segment(volume.segment_path(segment_id), segment_id, volume.store_id)
            contradicted = _contradicted(segment, tables, volume.list_packs())
        except FileNotFoundError:
            continue  # collected meanwhile
        except NewerFormatError as exc:
            yield "newer", str(exc)
        except SegmentUnusableError as exc:
            if any(one.id == segment_id for one in lookup.segments.current.segments):
                lookup.do_without(exc)
            yield "damaged", str(exc)
        else:
            if contradicted:
                yield (
                    "contradicting",
                    f"segment {segment.name} does not say what {contradicted} says; move it out of segments/",
                )


def _contradicted(segment: Segment, tables: Tables, listed: set[bytes]) -> str:
    """The name of a pack whose table says something else; "" if there is none. Raises SegmentUnusableError."""
    sums = np.zeros(len(segment.packs), np.uint64)
    entry_sums = [0] * len(segment.packs)
    for part in range(1 << _PARTS):
        first, stop = part << (64 - _PARTS), (part + 1) << (64 - _PARTS)
        records = segment.records_between(first, stop)
        keys = prefixes(records)
        inside = (keys >= np.uint64(first)) & (keys <= np.uint64(stop - 1))
        if (records["pack"] >= len(segment.packs)).any() or (keys[1:] < keys[:-1]).any():
            raise segment.unusable("its records are not what a segment may hold")
        np.add.at(sums, records["pack"][inside], _mixed(records[inside]))
        for sha1, number, encoded in segment.entries_between(first, stop):
            if number >= len(segment.packs):
                raise segment.unusable("its entries are not what a segment may hold")
            if first <= int.from_bytes(sha1[:8], "big") < stop:
                entry_sums[number] += int.from_bytes(encoded[-8:], "little")
    for _ in segment.log_rows():
        pass  # every block is checked as it is read
    for number, pack_id in enumerate(segment.packs):
        table = tables.read_whole(pack_id) if pack_id in listed else None
        if table is None:
            continue
        covered = set(segment.covers.get(pack_id, ()))
        said = int(_mixed(table.records.view(SEGMENT_RECORD)).sum(dtype=np.uint64)), _entry_sum(table)
        if said != (int(sums[number]), entry_sums[number]) or not covered <= sources_of(table):
            return f"pack {pack_id.hex()}.pack"
    return ""


def _mixed(records: Records) -> NDArray[np.uint64]:
    """A number for each record, whatever its pack is called: sums of them tell sets of records apart."""
    rows = records.copy()
    rows["pack"] = 0
    words = rows.view(np.uint64).reshape(-1, SEGMENT_RECORD.itemsize // 8)
    mixed: NDArray[np.uint64] = (words * _FACTORS[: words.shape[1]]).sum(axis=1, dtype=np.uint64)
    for factor in _FACTORS[-2:]:  # a sum of sums would not see that two records swapped a word
        mixed = (mixed ^ (mixed >> np.uint64(32))) * factor
    return mixed


def _entry_sum(table: Table) -> int:
    return sum(int.from_bytes(encoded[-8:], "little") for _, _, action, encoded in table.rows() if action != _MERGED)
