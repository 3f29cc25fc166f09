"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kacas.upkeep.profile.figures import Figure

_NOTHING_DONE = 100e9
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def three_digits(value: float) -> str:
    """
    >>> [three_digits(value) for value in (0.0123, 1.234, 56.78, 1234.5, 1e-9)]
    ['0.0123', '1.23', '56.8', '1,234', '0']
    """
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.6f}".rstrip("0").rstrip(".")


def _in_units(value: float, units: Sequence[tuple[float, str]]) -> str:
    """In the largest unit of which there is one, as it is rounded; else in the smallest."""
    step, unit = next((one for one in units if value >= 0.9995 * one[0]), units[-1])
    return f"{three_digits(value / step)} {unit}"


def size(value: float) -> str:
    """
    >>> size(1_870_000_000), size(12)
    ('1.87 GB', '12 B')
    """
    return _in_units(value, _SIZES)


def rate(value: float) -> str:
    """Bytes per second. Above 100 GB/s nothing was done with the bytes.

    >>> rate(75e6), rate(256e9)
    ('75 MB/s', '> 100 GB/s')
    """
    return f"{size(value)}/s" if value <= _NOTHING_DONE else f"> {size(_NOTHING_DONE)}/s"


def seconds(value: float) -> str:
    """
    >>> seconds(0.00024), seconds(1.5)
    ('240 µs', '1.5 s')
    """
    return _in_units(value, _TIMES)


def times(value: float) -> str:
    """
    >>> times(2.0456)
    '2.05 ×'
    """
    return f"{three_digits(value)} ×"


def shown(figure: Figure) -> str:
    """Value and unit."""
    return in_unit(figure.value, figure.unit)


def in_unit(value: float, unit: str) -> str:
    """A value as `Figure.unit` says."""
    if unit == "B/s":
        return rate(value)
    if unit == "s":
        return seconds(value)
    if unit == "B":
        return size(value)
    return times(value) if unit == "x" else f"{three_digits(value)} {unit}"


def escaped(text: str) -> str:
    """Text for a page: it shows, and does nothing; what has no shape of its own is told by its number.

    >>> escaped("a<b\\u202e")
    'a&lt;b\\\\u202e'
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return escape(text)
