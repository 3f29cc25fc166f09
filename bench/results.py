"""What every comparison gave, as one JSON file: written part by part, read with each field checked.

Tables and plots are made from it alone, so that they can be made again without measuring.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import Figures, Series
from bench.running import write_json

FORMAT, VERSION = "kacas benchmarks", 1


class ResultsError(ValueError):
    """The file is not what it should be; the message says where."""


@dataclass(frozen=True)
class PartResult:
    """One part: how long it took, when and on what it was measured, and table → system → figure → series.

    plan: sizes and counts, by name; of the sizes of several arrays, `sizes NAME`.
    """

    seconds: float
    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    plan: dict[str, float]
    notes: dict[str, str]
    figures: dict[str, Figures]

    def as_json(self) -> dict[str, object]:
        return {
            "seconds": self.seconds,
            "date": self.date,
            "machine": self.machine,
            "versions": self.versions,
            "plan": self.plan,
            "notes": self.notes,
            "figures": {
                table: {system: {what: one.as_json() for what, one in found.items()} for system, found in by.items()}
                for table, by in self.figures.items()
            },
        }


@dataclass
class Results:
    """All parts that were measured, and why others were not. quick: sizes at which figures say little."""

    quick: bool
    parts: dict[str, PartResult] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def figures(self, part: str, table: str) -> Figures | None:
        """A table of a part; None if it was not measured."""
        return self.parts[part].figures.get(table) if part in self.parts else None

    def write(self, path: Path) -> None:
        write_json(
            path,
            {
                "format": FORMAT,
                "version": VERSION,
                "quick": self.quick,
                "parts": {name: part.as_json() for name, part in self.parts.items()},
                "missing": self.missing,
            },
        )


def read_results(path: Path) -> Results:
    """What `Results.write` wrote.

    Raises ResultsError if a field is missing, of another type or of another version.
    """
    report = _mapping(_parsed(path), str(path))
    if report.get("format") != FORMAT or report.get("version") != VERSION:
        found = f"{report.get('format')!r}, version {report.get('version')!r}"
        raise ResultsError(f"{path} is not {FORMAT!r}, version {VERSION}, but {found}: measure again with this bench")
    if not isinstance(report.get("quick"), bool):
        raise ResultsError(f"{path}: quick is not true or false")
    return Results(
        quick=report["quick"],
        parts={name: _part(one, f"parts.{name}") for name, one in _mapping(report.get("parts"), "parts").items()},
        missing=_texts(report.get("missing"), "missing"),
    )


def read_part(path: Path, seconds: float) -> PartResult:
    """The JSON file of one benchmark, which ran for `seconds`. Raises ResultsError."""
    report = _mapping(_parsed(path), str(path))
    plan, notes = _flat(_mapping(report.get("plan", {}), "plan"))
    return _part({**report, "seconds": seconds, "plan": plan, "notes": notes}, path.name)


def _parsed(path: Path) -> object:
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as exc:
        raise ResultsError(f"{path} cannot be read as JSON: {exc}") from exc
    return found


def _flat(plan: dict[str, Any]) -> tuple[dict[str, object], dict[str, object]]:
    """A benchmark's plan as numbers and as texts; lists only repeat what the figures tell."""
    numbers: dict[str, object] = {}
    texts: dict[str, object] = {}
    for name, value in plan.items():
        if isinstance(value, dict):
            numbers |= {f"{name} {key}": one for key, one in value.items()}
        elif isinstance(value, str):
            texts[name] = value
        elif not isinstance(value, list):
            numbers[name] = value
    return numbers, texts


def _part(value: object, where: str) -> PartResult:
    part = _mapping(value, where)
    return PartResult(
        seconds=_number(part.get("seconds"), f"{where}.seconds"),
        date=_text(part.get("date"), f"{where}.date"),
        machine=_texts(part.get("machine"), f"{where}.machine"),
        versions=_texts(part.get("versions"), f"{where}.versions"),
        plan={
            name: _number(one, f"{where}.plan.{name}")
            for name, one in _mapping(part.get("plan"), f"{where}.plan").items()
        },
        notes=_texts(part.get("notes"), f"{where}.notes"),
        figures={
            table: {
                system: {
                    what: _series(one, f"{where}.figures.{table}.{system}.{what}")
                    for what, one in _mapping(figures, f"{where}.figures.{table}.{system}").items()
                }
                for system, figures in _mapping(systems, f"{where}.figures.{table}").items()
            }
            for table, systems in _mapping(part.get("figures"), f"{where}.figures").items()
        },
    )


def _series(value: object, where: str) -> Series:
    found = _mapping(value, where)
    values = found.get("values")
    if not isinstance(values, list) or not values:
        raise ResultsError(f"{where}.values is not a list of numbers")
    series = Series(tuple(_number(one, f"{where}.values") for one in values))
    if found != series.as_json():
        raise ResultsError(f"{where}: median, min and max are not those of the values")
    return series


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ResultsError(f"{where} is not an object")
    return value


def _texts(value: object, where: str) -> dict[str, str]:
    return {name: _text(one, f"{where}.{name}") for name, one in _mapping(value, where).items()}


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ResultsError(f"{where} is not a text")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ResultsError(f"{where} is not a number")
    return value
