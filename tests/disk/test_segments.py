"""Segments say exactly what the tables say that they were merged from, however they were merged."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.disk import segment_writer
from kacas.disk.index_entries import end_of_log, log_key
from kacas.disk.segment_reader import Segment
from kacas.disk.segment_writer import SegmentSource, TableRun, write_segment
from kacas.disk.segments import SegmentSet
from kacas.disk.volume import Volume, open_volume
from kacas.model.entry import Action, Entry
from kacas.model.location import Location
from kacas.model.merging import merged_entry
from kacas.model.pack_format import FOOTER_SIZE, Footer, PayloadHeader, Table, decode_table, encode_table

DIGESTS, SHA1S, OWNERS = 60, 20, (b"me", b"you")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return open_volume(tmp_path_factory.mktemp("volume") / "store", create=True, durability="relaxed")


@pytest.fixture
def tiny_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_writer, "_RANGE_RECORDS", 16)
    monkeypatch.setattr(segment_writer, "_RANGE_ENTRIES", 4)


def digest(i: int) -> bytes:
    return random.Random(i).randbytes(32)


def pack_id(i: int) -> bytes:
    return random.Random(f"pack {i}").randbytes(16)


def location(i: int, pack: int, at: int) -> Location:
    return Location(pack_id(pack), 64 + 1000 * at, 100 + i, 200 + i, i % 5, i % 3, i % 2)


def entry(i: int) -> Entry:
    rng = random.Random(f"entry {i}")
    sha1 = random.Random(f"sha1 {i % SHA1S}").randbytes(20)
    action = (Action.KEEP, Action.KEEP, Action.MEMBER, Action.FORGET)[i % 4]
    cancels = (rng.randbytes(16),) if action == Action.FORGET else ()
    return Entry(
        rng.randbytes(16), sha1, digest(i), i, 10 * (i % 7), 1, OWNERS[i % 2], b"label", action, cancels=cancels
    )


def table(pack: int, digests: list[int], entries: list[int], covers: list[int]) -> Table:
    records = [
        PayloadHeader(place.kind, place.codec, place.payload_size, place.raw_size, digest(i), b"p" * (i % 5)).record(
            place.offset
        )
        for at, i in enumerate(digests)
        for place in [location(i, pack, at)]
    ]
    encoded = [entry(i).encode() for i in entries]
    if covers:
        encoded.append(merged_entry(pack_id(pack)[::-1], 0, [pack_id(i) for i in covers]).encode())
    data = encode_table(records, encoded)
    end = 1 << 40
    footer = Footer(pack_id(pack), end, len(data), len(records), len(encoded), end + len(data) + FOOTER_SIZE, b"")
    return decode_table(data, footer)


Packs = dict[int, tuple[list[int], list[int], list[int]]]
packs_of_a_store = st.dictionaries(
    st.integers(0, 9),
    st.tuples(
        st.lists(st.integers(0, DIGESTS), max_size=40),
        st.lists(st.integers(0, 79), unique=True, max_size=30),
        st.lists(st.integers(20, 29), unique=True, max_size=3),
    ),
    min_size=1,
)


def check(segments: SegmentSet, packs: Packs, listed: set[int]) -> None:
    """They say what a look through all tables says."""
    there = {pack: told for pack, told in packs.items() if pack in listed}
    for i in range(DIGESTS + 2):
        expected = {
            location(i, pack, at)
            for pack, (digests, _, _) in there.items()
            for at, one in enumerate(digests)
            if one == i
        }
        found = segments.locate([digest(i)], set()).get(digest(i), [])
        assert bool(found) == bool(expected)
        assert expected.issuperset(found)
        bad = {(digest(i), place.pack_id, place.offset) for place in found}
        more = segments.locate([digest(i)], bad).get(digest(i), [])
        assert {place._replace(damaged=False) for place in more} >= set(found)
        nowhere = {(digest(i), place.pack_id, place.offset) for place in expected}
        everywhere = segments.locate([digest(i)], nowhere).get(digest(i), [])
        assert {place._replace(damaged=False) for place in everywhere} == expected
    everything = [digest(i) for i in range(DIGESTS + 2)]
    assert segments.locate(everything, set()).keys() == {digest(i) for told in there.values() for i in told[0]}
    entries = {(entry(i).encode(), pack_id(pack)) for pack, (_, told, _) in there.items() for i in told}
    sha1s = {random.Random(f"sha1 {i}").randbytes(20) for i in range(SHA1S)} | {bytes(20)}
    assert {one for told in segments.entries(sha1s).values() for one in told} == entries
    for owner in OWNERS:
        mine = {log_key(e): e for i in range(80) if (e := entry(i)).owner == owner and e.action == Action.KEEP}
        mine = {key: e for key, e in mine.items() if any(encoded == e.encode() for encoded, _ in entries)}
        for count in (3, 100):
            for before in (end_of_log(owner), *list(mine)[:2]):
                page = {log_key(e) for e in segments.log(owner, before, count)}
                newest = sorted((key for key in mine if key < before), reverse=True)[:count]
                assert page.issuperset(newest)
                assert page <= {key for key in mine if key < before}
    assert segments.covered() == {pack_id(i) for _, _, covers in there.values() for i in covers}


@settings(max_examples=40)
@given(
    packs=packs_of_a_store,
    splits=st.lists(st.integers(0, 2), min_size=10, max_size=10),
    gone=st.sets(st.integers(0, 9)),
)
@pytest.mark.usefixtures("tiny_ranges")
def test_segments_and_what_they_are_merged_into_say_what_the_tables_say(
    volume: Volume, packs: Packs, splits: list[int], gone: set[int]
) -> None:
    everything = {pack_id(i) for i in range(30)}
    tables = [(pack, (pack_id(pack), table(pack, *told))) for pack, told in packs.items()]
    runs = [[one for pack, one in tables if splits[pack] in (part, 2)] for part in (0, 1)]  # some are in both
    ids = [write_segment(volume, [TableRun(run)], everything) for run in runs]
    segments = tuple(Segment(volume.segment_path(one), one, volume.store_id) for one in ids)
    check(SegmentSet(segments, everything), packs, set(packs))
    left = {i for i in range(30) if i not in gone}
    check(SegmentSet(segments, {pack_id(i) for i in left}), packs, left)
    listed = {pack_id(i) for i in left}
    merged = write_segment(volume, [SegmentSource(segment) for segment in segments], listed, ids)
    whole = Segment(volume.segment_path(merged), merged, volume.store_id)
    assert set(whole.replaced) == set(ids)
    assert set(whole.packs) == {pack_id(i) for i in packs} & listed
    assert whole.footer.record_count == sum(len(told[0]) for pack, told in packs.items() if pack in left)
    assert whole.footer.entry_count == sum(len(told[1]) for pack, told in packs.items() if pack in left)
    check(SegmentSet((whole,), listed), packs, left)


def test_what_is_covered_is_put_together_once_however_often_packs_come_and_go(volume: Volume) -> None:
    everything = {pack_id(i) for i in range(30)}
    run = TableRun([(pack_id(pack), table(pack, [1], [1], [20 + pack, 22])) for pack in range(2)])
    made = write_segment(volume, [run], everything)
    segment = Segment(volume.segment_path(made), made, volume.store_id)
    assert {merged: set(ids) for merged, ids in segment.covers.items()} == {
        pack_id(0): {pack_id(20), pack_id(22)},
        pack_id(1): {pack_id(21), pack_id(22)},
    }
    segments = SegmentSet((segment,), everything)
    assert segments.spared() is segments.spared()
    assert segment.covered(set()) is segment.covered({pack_id(9)})
    assert segment.covered({pack_id(0)}) == {pack_id(21), pack_id(22)}
    assert SegmentSet((segment,), everything - {pack_id(0)}).covered() == {pack_id(21), pack_id(22)}
    assert segments.covered({pack_id(0), pack_id(1)}) == set()
