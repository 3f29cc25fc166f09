"""Advice follows from figures by rules: here the figures are given, just above and just below what is worth it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kacas.upkeep.profile import advice as rules
from kacas.upkeep.profile.advice import Findings, advise
from kacas.upkeep.profile.operations import Reading, Trip

AUTO = Trip(1.0, 1.0, 1.0, 1.0, 1000)
QUIET = Findings(
    True, 1 << 27, "full", {"auto": AUTO, "fast": AUTO, "small": AUTO, "relaxed": AUTO, "threads": AUTO, "memory": AUTO},
    Reading(1e-3, 1.0, 1.0, (64, 64), 1.0), 1000.0, 1000.0, 1000.0, {"here": 1e5, "/other": 1e5}, (1e9, 1e9), 4, 1 << 28,
)  # fmt: skip


def with_trip(name: str, **changed: float) -> Findings:
    return replace(QUIET, trips=QUIET.trips | {name: replace(AUTO, **changed)})


def test_where_nothing_is_worth_it_there_is_no_advice() -> None:
    assert advise(QUIET) == []


def test_where_nothing_was_measured_there_is_no_advice() -> None:
    assert advise(Findings(True, 1 << 27, "full")) == []


ABOVE, BELOW = 1.01, 0.99


@pytest.mark.parametrize(
    "key, found",
    [
        ("codec.fast", lambda by: with_trip("fast", store_s=1 / (rules.FASTER * by))),
        ("codec.fast", lambda by: with_trip("fast", load_s=1 / (rules.FASTER * by), stored_size=1100)),
        ("codec.small", lambda by: with_trip("small", stored_size=1000 / (rules.SMALLER * by))),
        ("durability", lambda by: with_trip("relaxed", store_s=1 / (rules.FASTER * by))),
        ("batch", lambda by: replace(QUIET, together=1000 * rules.TOGETHER * by)),
        ("tiles", lambda by: replace(QUIET, reading=replace(QUIET.reading, tile_column_s=1 / (rules.TILES * by)))),
        ("local_cache", lambda by: replace(QUIET, reading=replace(QUIET.reading, mapped_s=1 / (rules.MAPPED * by)))),
        ("cache_disk", lambda by: replace(QUIET, cold=(1e9, 1e9 * rules.CACHE_DISK * by))),
        ("index_place", lambda by: replace(QUIET, index={"here": 1e5, "/other": 1e5 * rules.INDEX * by})),
        ("threads", lambda by: with_trip("threads", store_s=1 / (rules.FASTER * by))),
        ("memory", lambda by: with_trip("memory", load_s=1 / (rules.FASTER * by))),
    ],
)
def test_each_rule_speaks_just_above_its_threshold_and_not_below(key: str, found: Any) -> None:
    assert advise(found(BELOW)) == []
    (one,) = advise(found(ABOVE))
    assert one.key == key
    assert one.factor > 1
    assert all((one.do, one.when, one.gain, one.rule))


@pytest.mark.parametrize("changed", [{"load_s": 1.2, "store_s": 0.5}, {"store_s": 0.5, "stored_size": 1200}])
def test_a_faster_codec_that_costs_too_much_is_not_advised(changed: dict[str, float]) -> None:
    assert advise(with_trip("fast", **changed)) == []


def test_a_store_that_is_relaxed_already_is_not_advised_to_be_so() -> None:
    assert advise(replace(with_trip("relaxed", store_s=0.1), durability="relaxed")) == []


def test_codecs_are_advised_where_they_can_be_chosen_only() -> None:
    assert advise(replace(with_trip("small", stored_size=100), has_recipes=False)) == []


def test_a_little_data_says_nothing_of_codecs_and_tiles() -> None:
    loud = with_trip("fast", store_s=0.01)
    assert advise(loud)
    assert advise(replace(loud, sample_size=rules.LEAST_SAMPLE - 1)) == []


def test_what_is_about_the_data_comes_first_the_largest_gain_before_the_others() -> None:
    found = replace(with_trip("relaxed", store_s=0.5), together=1e6, cold=(1e8, 1e9))
    found = replace(found, trips=found.trips | {"small": replace(found.trips["auto"], stored_size=100)})
    advice = [(one.key, one.factor) for one in advise(found)]
    assert [name for name, _ in advice] == ["codec.small", "durability", "batch", "cache_disk"]
    assert advice[0][1] > advice[1][1]
    assert advice[2][1] > advice[3][1] > advice[1][1]


def test_the_gain_is_told_with_the_figures_it_follows_from() -> None:
    (one,) = advise(replace(QUIET, together=20_000.0))
    assert one.gain == "20 × as many: 20,000 texts of 1 KiB a second instead of 1,000"
