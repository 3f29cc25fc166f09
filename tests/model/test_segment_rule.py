"""The rule of segments: few at any time, and each row written anew few times."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from kacas.model.segment_rule import SegmentRule

RULE = SegmentRule(rows=100, packs=10, most=1 << 40)


def grown(additions: list[int], rule: SegmentRule) -> tuple[list[int], int]:
    """Sizes of the segments at last, and how many rows were written in all."""
    segments: list[int] = []
    written = 0
    for rows in additions:
        segments.append(rows)
        written += rows
        while count := rule.to_merge(sorted(segments)):
            rising = sorted(segments)
            segments = [sum(rising[:count]), *rising[count:]]
            written += segments[0]
    return sorted(segments), written


@given(st.lists(st.integers(100, 1000), min_size=1, max_size=300))
def test_segments_stay_few_and_rows_are_rewritten_seldom(additions: list[int]) -> None:
    segments, written = grown(additions, RULE)
    total = sum(additions)
    assert sum(segments) == total
    assert len(segments) <= math.log(total / 100, 3) + 2
    assert written <= total * (math.log(total / 100, 1.5) + 2)
    assert all(size > 2 * sum(segments[:number]) for number, size in enumerate(segments))


def test_what_is_too_large_is_left_to_who_asks_for_it() -> None:
    rule = SegmentRule(most=1000)
    assert rule.to_merge([500, 501]) == 0
    assert rule.to_merge([10, 10, 500, 501]) == 2
    assert rule.to_merge([]) == rule.to_merge([7]) == 0


def test_a_segment_is_due_by_rows_or_by_packs() -> None:
    assert RULE.is_due(100, 0)
    assert RULE.is_due(0, 10)
    assert not RULE.is_due(99, 9)
    assert RULE.is_worth_it(25, 0)
    assert not RULE.is_worth_it(24, 2)
