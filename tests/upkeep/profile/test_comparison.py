"""Old and new, figure by figure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kacas.upkeep.profile import Profile
from kacas.upkeep.profile.comparison import compare
from kacas.upkeep.profile.figures import Figure
from kacas.upkeep.profile.tables import comparison_table


def test_a_profile_compared_with_itself_is_the_same_in_every_figure(tiny: Profile) -> None:
    found = compare(tiny, tiny)
    assert found.differences == ()
    assert [change.key for change in found.changes] == [figure.key for figure in tiny.figures()]
    assert {(change.ratio, change.better) for change in found.changes} == {(1.0, "same")}


@pytest.mark.parametrize(
    "better, old, new, answer",
    [("higher", 100, 150, "yes"), ("higher", 150, 100, "no"), ("lower", 100, 150, "no"), ("lower", 150, 100, "yes"),
     ("higher", 100, 110, "same"), ("lower", 100, 0, "yes")],
)  # fmt: skip
def test_what_is_better_depends_on_the_figure(tiny: Profile, better: str, old: float, new: float, answer: str) -> None:
    before, after = (replace(tiny, limits=(Figure("one", "One", value, "B/s", better),)) for value in (old, new))
    (change,) = [change for change in compare(before, after).changes if change.key == "limits.one"]
    assert (change.old, change.new, change.ratio, change.better) == (old, new, new / old, answer)


def test_figures_that_only_one_has_are_shown_without_a_ratio(tiny: Profile) -> None:
    without = replace(tiny, operations=())
    for old, new, missing in ((without, tiny, "old"), (tiny, without, "new")):
        changes = [change for change in compare(old, new).changes if change.key.startswith("operations.")]
        assert len(changes) == len(tiny.operations)
        assert all(getattr(change, missing) is None and change.ratio is None for change in changes)


@pytest.mark.parametrize("old, new", [(0.0, 1.0), (-5.0, 1.0), (5e-324, 1e9), (1.0, -1.0)])
def test_what_no_run_measures_has_no_ratio(tiny: Profile, old: float, new: float) -> None:
    before, after = (replace(tiny, limits=(Figure("one", "One", value, "B/s", "higher"),)) for value in (old, new))
    (change,) = [change for change in compare(before, after).changes if change.key == "limits.one"]
    assert (change.old, change.new, change.ratio, change.better) == (old, new, None, "")


def test_another_machine_place_or_data_is_named(tiny: Profile) -> None:
    other = replace(
        tiny,
        machine=replace(tiny.machine, cpus=64, libraries={}),
        place=replace(tiny.place, durability="relaxed"),
        data=replace(tiny.data, name="mine.npy", kind="array"),
    )
    words = " ".join(compare(tiny, other).differences)
    for part in ("machine: processors: ", ", now 64", "numpy", "place: durability: full, now relaxed", "now mine.npy"):
        assert part in words
    assert "not the same: machine" in comparison_table(compare(tiny, other)).note
