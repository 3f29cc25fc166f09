"""The index and merged packs: what they cover is not there twice, and counts again when they are gone."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from kacas.disk.index import Index
from kacas.model.entry import Entry
from kacas.model.merging import MergeRule, merged_entry, merged_pack_id
from kacas.model.pack_format import FOOTER_SIZE, Footer, PayloadHeader, Table, decode_table, encode_table

RULE = MergeRule(fan_in=3)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index")
    yield opened
    opened.close()


def digest(i: int) -> bytes:
    return random.Random(i).randbytes(32)


def pack_id(i: int, tier: int = 0) -> bytes:
    noise = random.Random(f"pack {i}")
    return merged_pack_id(tier, noise.randbytes(14)) if tier else noise.randbytes(16)


def entry(i: int) -> Entry:
    noise = random.Random(f"entry {i}")
    return Entry(noise.randbytes(16), noise.randbytes(20), digest(i), 100, 1000 + i, 1, b"me", b"")


def pack(numbers: list[int], covers: list[bytes] | None = None) -> Table:
    """A table with a payload and an entry of each number."""
    headers = [(64 + 200 * i, PayloadHeader(0, 0, 100, 100, digest(i))) for i in numbers]
    entries = [entry(i) for i in numbers] + ([merged_entry(os.urandom(16), 1, covers)] if covers else [])
    data = encode_table([h.record(at) for at, h in headers], [e.encode() for e in entries])
    end = 1 << 40
    footer = Footer(b"p" * 16, end, len(data), len(headers), len(entries), end + len(data) + FOOTER_SIZE, b"")
    return decode_table(data, footer)


SINGLES = [pack_id(i) for i in range(6)]
ONE, TWO, TOP = pack_id(10, 1), pack_id(11, 1), pack_id(12, 2)


def singles(*numbers: int) -> list[tuple[bytes, Table]]:
    return [(SINGLES[i], pack([i])) for i in numbers]


def places(index: Index, i: int) -> list[bytes]:
    return [location.pack_id for location in index.locate([digest(i)]).get(digest(i), [])]


def rows(index: Index, name: str) -> int:
    shared = index._shared
    with shared.environment.begin() as txn:
        stat = txn.stat(shared.tables[name])
        assert isinstance(stat, dict)
        return int(stat["entries"])


def test_a_merged_pack_takes_the_place_of_its_sources(index: Index) -> None:
    index.add(singles(0, 1, 2, 3), RULE)
    index.add([(ONE, pack([0, 1, 2], SINGLES[:3]))], RULE)
    assert index.pack_ids() == {ONE, SINGLES[3]}
    assert index.covered_ids() == set(SINGLES[:3])
    assert index.unknown([*SINGLES, ONE, TWO]) == {*SINGLES[4:], TWO}
    for i in range(3):
        assert places(index, i) == [ONE]
        assert index.entries(entry(i).sha1) == [(entry(i), ONE)]
    assert index.log(b"me")[0] == [entry(i) for i in (3, 2, 1, 0)]
    assert (rows(index, "chunks"), rows(index, "entries"), rows(index, "log")) == (4, 4, 4), "nothing is left behind"


def test_what_is_covered_is_not_taken_in(index: Index) -> None:
    index.add([(ONE, pack([0, 1, 2], SINGLES[:3])), *singles(0, 1)], RULE)
    index.add(singles(2, 3), RULE)
    assert index.pack_ids() == {ONE, SINGLES[3]}
    assert places(index, 2) == [ONE]


def test_sources_count_again_when_the_merged_pack_is_gone(index: Index) -> None:
    index.add(singles(0, 1, 2), RULE)
    index.add([(ONE, pack([0, 1, 2], SINGLES[:3]))], RULE)
    index.remove([ONE])
    assert index.covered_ids() == index.pack_ids() == set()
    assert index.unknown(SINGLES[:3]) == set(SINGLES[:3])
    index.add(singles(0, 1, 2), RULE)
    assert places(index, 1) == [SINGLES[1]]
    assert index.entries(entry(1).sha1) == [(entry(1), SINGLES[1])]
    assert index.piled_up(3) == SINGLES[:3]


def test_a_pack_that_two_cover_is_covered_until_both_are_gone(index: Index) -> None:
    """As when two hosts merged the same packs at once."""
    index.add([(ONE, pack([0, 1, 2], SINGLES[:3])), (TWO, pack([1, 2, 3], SINGLES[1:4]))], RULE)
    assert sorted(places(index, 1)) == sorted([ONE, TWO])
    assert [e for e, _ in index.entries(entry(1).sha1)] == [entry(1)], "one entry, wherever it is"
    assert len(index.log(b"me")[0]) == 4
    for gone, left in ((ONE, TWO), (TWO, ONE)):
        index.remove([gone])
        assert places(index, 1) == [left]
        assert index.entries(entry(1).sha1) == [(entry(1), left)]
        assert len(index.log(b"me")[0]) == 3
        assert SINGLES[1] in index.covered_ids()
        index.add([(gone, pack([0, 1, 2], SINGLES[:3]) if gone == ONE else pack([1, 2, 3], SINGLES[1:4]))], RULE)
    index.remove([ONE, TWO])
    assert index.covered_ids() == set()


def test_merged_packs_are_covered_by_the_next_tier(index: Index) -> None:
    index.add(singles(0, 1, 2, 3), RULE)
    index.add([(ONE, pack([0, 1], SINGLES[:2]))], RULE)
    index.add([(TWO, pack([2, 3], SINGLES[2:4]))], RULE)
    index.add([(TOP, pack([0, 1, 2, 3], [ONE, TWO, *SINGLES[:4]]))], RULE)
    assert index.pack_ids() == {TOP}
    assert index.covered_ids() == {ONE, TWO, *SINGLES[:4]}
    assert [places(index, i) for i in range(4)] == [[TOP]] * 4
    assert (rows(index, "chunks"), rows(index, "entries"), rows(index, "covered")) == (4, 4, 6)


def test_a_source_that_is_collected_is_forgotten(index: Index) -> None:
    index.add([(ONE, pack([0, 1, 2], SINGLES[:3]))], RULE)
    index.remove(SINGLES[:2])
    assert index.covered_ids() == {SINGLES[2]}
    assert index.pack_ids() == {ONE}


def test_small_packs_pile_up_by_tier_the_oldest_first(index: Index) -> None:
    index.add(singles(4), RULE)
    index.add(singles(3), RULE)
    index.add([(ONE, pack([7])), (TWO, pack([8]))], RULE)
    assert index.piled_up(3) == []
    assert index.piled_up(2) == [SINGLES[4], SINGLES[3]]
    index.add(singles(0), RULE)
    assert index.piled_up(3) == [SINGLES[4], SINGLES[3], SINGLES[0]]
    index.set_aside({SINGLES[3], os.urandom(16)})
    assert index.piled_up(3) == []
    assert index.piled_up(2) == [SINGLES[4], SINGLES[0]]
    index.remove([SINGLES[0]])
    assert index.piled_up(2) == [ONE, TWO]


def test_what_is_not_small_does_not_pile_up(index: Index) -> None:
    index.add([(SINGLES[0], pack([0, 1, 2])), *singles(3, 4)], MergeRule(max_rows=3))
    assert index.piled_up(2) == SINGLES[3:5]
    assert index.piled_up(3) == []


def test_a_pack_that_says_it_covers_itself_is_there_all_the_same(index: Index) -> None:
    index.add([(ONE, pack([0], [ONE, SINGLES[1]]))], RULE)
    assert index.pack_ids() == {ONE}
    assert places(index, 0) == [ONE]


def test_a_damaged_row_of_what_is_covered_is_no_cover(tmp_path: Path) -> None:
    index = Index(tmp_path / "index")
    index.add([(ONE, pack([0, 1], SINGLES[:2]))], RULE)
    shared = index._shared
    with shared.environment.begin(write=True, db=shared.tables["covered"]) as txn:
        txn.delete(SINGLES[0])
        txn.put(SINGLES[0], b"\0\0\7\7")
    assert isinstance(shared.environment, lmdb.Environment)
    assert index.covered_ids() == {SINGLES[1]}
    assert index.unknown(SINGLES[:2]) == {SINGLES[0]}
    index.close()
