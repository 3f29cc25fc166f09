"""Ahead: how far, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from kacas.ahead import Ahead


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 12))
def test_results_come_in_order_and_no_more_is_taken_ahead_than_was_said(threads: int, waiting: int, count: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(count):
            taken.append(number)
            yield number

    with Ahead(threads, "test-ahead", waiting=waiting) as ahead:
        for used, result in enumerate(ahead.map(lambda number: number * number, items())):
            assert result == used * used
            assert len(taken) == min(count, used + threads + waiting)
    assert len(taken) == count
