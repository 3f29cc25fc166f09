"""Two profiles side by side: every figure old and new, and whether they may be compared at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kacas.upkeep.profile.figures import Figure, Profile


@dataclass(frozen=True)
class Change:
    """A figure in both, or in one: None then. ratio: new / old. better: "yes", "no", or "same" within a fifth; "" if there is
    no ratio: the figure is in one only, or no measured value."""

    key: str
    title: str
    unit: str
    old: float | None
    new: float | None
    ratio: float | None
    better: str


@dataclass(frozen=True)
class Comparison:
    """old_created: when the old one was made. differences: in machine, place and data, in words."""

    old_created: str
    differences: tuple[str, ...]
    changes: tuple[Change, ...]


_SAME = 1.2


def compare(old: Profile, new: Profile) -> Comparison:
    """Figures in the order of the new profile, then those that only the old one has."""
    before, after = ({figure.key: figure for figure in one.figures()} for one in (old, new))
    keys = [*after, *(key for key in before if key not in after)]
    return Comparison(
        old.created, tuple(_differences(old, new)), tuple(_change(before.get(k), after.get(k)) for k in keys)
    )


def _change(old: Figure | None, new: Figure | None) -> Change:
    figure = new or old
    assert figure is not None
    ratio = new.value / old.value if old and new and old.value > 0 and new.value >= 0 else None
    if old is None or new is None or ratio is None or ratio == math.inf:
        return Change(
            figure.key, figure.title, figure.unit, old.value if old else None, new.value if new else None, None, ""
        )
    gain = ratio if new.better == "higher" else 1 / ratio if ratio else float("inf")
    better = "yes" if gain > _SAME else "no" if gain < 1 / _SAME else "same"
    return Change(new.key, new.title, new.unit, old.value, new.value, ratio, better)


def _differences(old: Profile, new: Profile) -> list[str]:
    pairs = [
        ("machine: processor", old.machine.processor, new.machine.processor),
        ("machine: processors", old.machine.cpus, new.machine.cpus),
        ("machine: memory, bytes", old.machine.memory, new.machine.memory),
        ("machine: system", old.machine.system, new.machine.system),
        ("machine: Python", old.machine.python, new.machine.python),
        ("machine: kacas", old.machine.kacas, new.machine.kacas),
        ("place: file system", old.place.file_system, new.place.file_system),
        ("place: durability", old.place.durability, new.place.durability),
        ("place: threads", old.place.threads, new.place.threads),
        ("place: memory, bytes", old.place.memory, new.place.memory),
        ("data: kind", old.data.kind, new.data.kind),
        ("data: name", old.data.name, new.data.name),
        ("data: bytes", old.data.size, new.data.size),
        ("data: bytes of the sample", old.data.sample_size, new.data.sample_size),
        ("data: shape", old.data.shape, new.data.shape),
        ("data: dtype", old.data.dtype, new.data.dtype),
    ]
    libraries = sorted(old.machine.libraries.keys() | new.machine.libraries.keys())
    pairs += [
        (f"machine: {name}", old.machine.libraries.get(name, "none"), new.machine.libraries.get(name, "none"))
        for name in libraries
    ]
    return [f"{what}: {one}, now {other}" for what, one, other in pairs if one != other]
