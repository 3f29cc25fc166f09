"""The rule of merging: what is small, which ids merged packs have, and what their mark says."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.model.digest import DIGEST_SIZE
from kacas.model.entry import MAX_CANCELS, Action, Entry, decode_entry, entries_of, live
from kacas.model.merging import (
    NOBODY,
    RULE,
    MergeRule,
    merged_entry,
    merged_pack_id,
    plain_pack_id,
    sources_of,
    tier_of,
)
from kacas.model.pack_format import FOOTER_SIZE, HEADER_SIZE, Footer, PayloadHeader, Table, decode_table, encode_table


def entry(i: int, **fields: object) -> Entry:
    made = Entry(os.urandom(16), b"%020d" % i, bytes([i]) * 32, 5, 1000 + i, 0, b"me", b"label")
    return made._replace(**fields)  # type: ignore[arg-type]


def table_of(sizes: list[int], entries: list[Entry]) -> tuple[Table, int]:
    """A table of payloads of these sizes, and the size of its pack."""
    headers, at = [], HEADER_SIZE
    for size in sizes:
        headers.append((at, PayloadHeader(0, 1, size, size, random.Random(at).randbytes(32), b"p" * (size % 3))))
        at += headers[-1][1].total_size
    data = encode_table([h.record(at) for at, h in headers], [e.encode() for e in entries])
    size = at + len(data) + FOOTER_SIZE
    return decode_table(data, Footer(b"p" * 16, at, len(data), len(sizes), len(entries), size, b"")), size


@given(st.lists(st.integers(0, 10_000), max_size=6), st.integers(0, 4))
def test_small_goes_by_the_size_of_the_pack(sizes: list[int], entry_count: int) -> None:
    table, size = table_of(sizes, [entry(i) for i in range(entry_count)])
    assert MergeRule(max_size=size + 1).is_small(table)
    assert not MergeRule(max_size=size).is_small(table)


def test_small_goes_by_the_number_of_rows_too() -> None:
    table, _ = table_of([10] * 6, [entry(i) for i in range(4)])
    assert MergeRule(max_rows=10).is_small(table)
    assert not MergeRule(max_rows=9).is_small(table)


def test_a_rule_that_merges_one_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        MergeRule(fan_in=1)


def test_the_work_of_one_put_is_bounded() -> None:
    assert RULE.fan_in * RULE.max_size <= 64 << 20
    assert RULE.fan_in * RULE.max_rows <= 1 << 12


def test_ids_in_descending_order_name_what_was_merged_before_what_it_was_merged_from() -> None:
    plain = [random.Random(i).randbytes(16) for i in range(1000)]
    merged = [merged_pack_id(tier, os.urandom(14)) for tier in (1, 1, 2, 3)]
    order = sorted([*plain, *merged], reverse=True)
    assert order[:4] == [merged[3], merged[2], *sorted(merged[:2], reverse=True)]
    assert [tier_of(pack_id) for pack_id in merged] == [1, 1, 2, 3]
    assert {tier_of(pack_id) for pack_id in plain} == {0}
    assert tier_of(merged_pack_id(99, bytes(14))) == 15
    with pytest.raises(ValueError, match="14 random bytes"):
        merged_pack_id(1, bytes(13))


@given(st.binary(min_size=14, max_size=14), st.integers(0, 0xFFFF))
def test_no_random_id_looks_like_a_merged_packs(rest: bytes, front: int) -> None:
    for first in (front, 0xFFF0 | front):
        random_id = first.to_bytes(2, "big") + rest
        made = plain_pack_id(random_id)
        assert tier_of(made) == 0
        assert made[1:] == random_id[1:]
        assert made == random_id or tier_of(random_id)


def test_the_mark_names_the_sources_and_those_of_sources() -> None:
    one, two = [os.urandom(16) for _ in range(3)], [os.urandom(16) for _ in range(2)]
    marks = [merged_entry(os.urandom(16), 5, sources) for sources in (one, two)]
    table, _ = table_of([], [entry(1), marks[0], entry(2, action=Action.FORGET, root=bytes(32)), marks[1]])
    assert sources_of(table) == {*one, *two}
    assert sources_of(table_of([], [entry(1)])[0]) == set()
    assert decode_entry(marks[0].encode())[0] == marks[0]
    with pytest.raises(ValueError, match="too many packs"):
        merged_entry(os.urandom(16), 5, [bytes(16)] * (MAX_CANCELS + 1))


def test_the_mark_is_no_claim() -> None:
    kept = entry(1)
    mark = merged_entry(os.urandom(16), 5, [kept.entry_id])
    assert (mark.sha1, mark.root, mark.owner) == (NOBODY, bytes(DIGEST_SIZE), b"")
    data = mark.encode() + kept.encode()
    assert entries_of(data, NOBODY) == []
    assert entries_of(data, kept.sha1) == [kept]
    assert live([mark, kept]) == [kept], "a pack's id is no entry's"
    unlike = kept._replace(sha1=NOBODY, action=Action.FORGET, cancels=(b"x" * 16,))
    assert sources_of(table_of([], [unlike])[0]) == set(), "only a mark marks"
