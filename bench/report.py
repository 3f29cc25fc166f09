"""Figures as Markdown tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.measure import Figures, Series, figure


@dataclass(frozen=True)
class Target:
    """A figure that was promised. value is None where the peer was not there to compare with."""

    what: str
    value: float | None
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def holds(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> tuple[str, str, str, str]:
        limit = f"{'≥' if self.at_least else '≤'} {figure(self.limit)}{self.unit}"
        if self.value is None:
            return self.what, "not measured", limit, "-"
        return self.what, f"{figure(self.value)}{self.unit}", limit, "yes" if self.holds else "**no**"

    def as_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "value": self.value,
            "limit": self.limit,
            "at_least": self.at_least,
            "holds": self.holds,
        }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns padded so that it also reads as plain text."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def by_system(systems: Sequence[str], rows: Sequence[tuple[str, dict[str, Series | None]]]) -> str:
    """One row per figure, one column per system; `-` where a system has no such figure."""
    return table(
        ["", *systems],
        [[what, *(str(one[name]) if one.get(name) else "-" for name in systems)] for what, one in rows],
    )


def by_figure(systems: Sequence[str], columns: Sequence[tuple[str, dict[str, Series | None]]]) -> str:
    """The same turned over: one row per system, one column per figure."""
    return table(
        ["", *(what for what, _ in columns)],
        [[name, *(str(one[name]) if one.get(name) else "-" for _, one in columns)] for name in systems],
    )


def scaled(figures: Figures, what: str, unit: float = 1) -> dict[str, Series | None]:
    """One figure of all systems in a unit of the table; None where a system has no such figure."""
    return {
        system: Series(tuple(value / unit for value in one[what].values)) if what in one else None
        for system, one in figures.items()
    }
