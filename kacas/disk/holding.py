"""Tables that are taken in by the hundred thousand go into a segment at once, and not into the index first.

An index of ten million records takes in as many more at a quarter of the speed; a segment takes them at any size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kacas.disk.alone import alone, free_size
from kacas.disk.segment_writer import TableRun, write_segment
from kacas.disk.volume import Volume
from kacas.errors import StoreError
from kacas.model.pack_format import Table
from kacas.model.segment_format import SegmentFormatError

LOCK_NAME = "segments.lock"
LEFT_FREE = 256 << 20  # bytes of the disk that no segment takes: it saves time, they may be needed to store


def hold(volume: Volume, cache: Path, tables: Sequence[tuple[bytes, Table]]) -> bool:
    """Make a segment of these tables, if that can be done now. Else the index has to take them."""
    size = sum(table.records.nbytes + 2 * len(table.entries_data) for _, table in tables)
    try:
        if not os.access(volume.path, os.W_OK) or free_size(volume.path) < size + LEFT_FREE:
            return False
        with alone(cache / LOCK_NAME) as is_alone:
            if is_alone:
                write_segment(volume, [TableRun(tables)], volume.list_packs())
            return is_alone
    except (StoreError, SegmentFormatError, OSError):
        return False
