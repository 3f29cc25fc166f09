"""Plots as SVG inside of HTML: rows of bars, ranges and dots. Colours come from the page, every text is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kacas.upkeep.profile.wording import escaped

_WIDTH, _LABELS, _VALUES = 760, 290, 96  # of the plot, of the names to the left and the values to the right
_LEFT, _RIGHT = _LABELS + 10, _WIDTH - _VALUES
_ROW, _BAR, _AXIS = 26, 14, 26

Words = Callable[[float], str]


class Row(NamedTuple):
    """values: one, or several of which each has a mark. text: to the right. kind: a class of the page's style.

    start: where its bar begins.
    """

    label: str
    values: tuple[float, ...]
    text: str
    kind: str = "plain"
    start: float = 0.0


def bars(rows: Sequence[Row], what: str) -> str:
    """A bar for each row. what: for who cannot see it."""
    most = max((row.start + row.values[0] for row in rows), default=0.0) or 1.0
    parts = []
    for number, row in enumerate(rows):
        width, left = ((_RIGHT - _LEFT) * max(0.0, value) / most for value in (row.values[0], row.start))
        top = number * _ROW + (_ROW - _BAR) / 2
        parts.append(_words(number, row))
        parts.append(
            f'<rect class="{row.kind}" x="{_LEFT + left:.1f}" y="{top:.1f}" width="{max(width, 1):.1f}" height="{_BAR}" rx="2"/>'
        )
    return _drawn(parts, len(rows) * _ROW, what)


def dots(rows: Sequence[Row], words: Words, marks: Sequence[str], what: str) -> str:
    """On a logarithmic axis, a dot for each value of a row, joined. marks: the class of each. words: for the axis."""
    values = [value for row in rows for value in row.values if value > 0]
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    first, last = _decade(low), math.ceil(math.log10(high) - 1e-9)
    if last <= first:
        last = first + 1
    scale = (_RIGHT - _LEFT - 10) / (last - first)

    def x(value: float) -> float:
        return _LEFT + scale * (math.log10(max(value, 10.0**first)) - first)

    height = len(rows) * _ROW
    parts = []
    for power in range(first, last + 1):
        at = x(10.0**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}"/>')
        parts.append(f'<text class="axis" x="{at:.1f}" y="{height + 16}">{escaped(words(10.0**power))}</text>')
    for number, row in enumerate(rows):
        middle = number * _ROW + _ROW / 2
        parts.append(_words(number, row))
        shown = [value for value in row.values if value > 0]
        if len(shown) > 1:
            parts.append(
                f'<line class="join" x1="{x(min(shown)):.1f}" x2="{x(max(shown)):.1f}" y1="{middle}" y2="{middle}"/>'
            )
        for value, mark in zip(row.values, marks, strict=False):
            if value > 0:
                parts.append(f'<circle class="{mark}" cx="{x(value):.1f}" cy="{middle}" r="5"/>')
    return _drawn(parts, height + _AXIS, what)


def _decade(value: float) -> int:
    return math.floor(math.log10(value) + 1e-9)


def _words(number: int, row: Row) -> str:
    base = number * _ROW + _ROW / 2 + 4.5
    return (
        f'<text class="label" x="{_LABELS}" y="{base}">{escaped(row.label)}</text>'
        f'<text class="value" x="{_WIDTH}" y="{base}">{escaped(row.text)}</text>'
    )


def _drawn(parts: Sequence[str], height: float, what: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escaped(what)}">{"".join(parts)}</svg>'
