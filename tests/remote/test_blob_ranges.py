"""Ranges of blobs: whatever is asked for comes as it is there, in few requests that begin and end where blocks do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas_remote import blob_ranges
from kacas_remote.blob_ranges import BlobRanges, Place, cuts_of
from kacas_remote.blobs.memory import MemoryBlobs

MIB = 1 << 20
DATA = np.random.default_rng(5).bytes(40_000)
spans = st.lists(st.tuples(st.integers(0, 45_000), st.integers(0, 9_000)), max_size=12)


@settings(deadline=None)
@given(spans=spans)
def test_each_place_gets_its_bytes_however_runs_are_cut(spans: list[tuple[int, int]]) -> None:
    blobs = MemoryBlobs()
    blobs.put("packs/one", DATA)
    places = [Place("packs/one", start, start + size) for start, size in spans] + [Place("packs/none", 0, 7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blob_ranges, "_BLOCK", 1000)
        found = BlobRanges(blobs).read(places)
    assert {place: bytes(data) for place, data in found.items()} == {
        place: DATA[place.start : place.stop] for place in places if place.key == "packs/one"
    }


def test_a_long_run_is_cut_at_blocks_and_a_short_one_never() -> None:
    assert cuts_of(64, 24 * MIB) == [(64, 8 * MIB), (8 * MIB, 16 * MIB), (16 * MIB, 24 * MIB)]
    assert cuts_of(7 * MIB, 9 * MIB) == [(7 * MIB, 9 * MIB)]
