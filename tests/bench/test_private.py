"""The benchmark of private remotes: what it measures is what it says. Its sizes are tiny; its server is real."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.measure import Series
from bench.private import disk_needed, main
from bench.private_report import markdown, tables, targets
from bench.results import read_part
from tests.bench.test_remote import one, plan_of


def test_promises_are_of_the_private_remote_beside_the_plain_one() -> None:
    measured = {
        "arrays": {
            "kacas": one(push_s=1.0, pull_s=1.0, push_memory=900 << 20),
            "private": one(push_s=1.5, again_s=0.02, pull_s=1.7, push_memory=100 << 20),
        },
        "slices": {
            "kacas": one(cold_requests=9, cold_bytes=9e9, nearby_requests=9),
            "private": one(cold_requests=5, cold_bytes=2e5, nearby_requests=1),
        },
        "trees": {"kacas": one(push_tree_s=1, pull_tree_s=1), "private": one(push_tree_s=1, pull_tree_s=1.6)},
        "uris": {"content": one(encrypted=5000, decrypted=900), "labelled": one(encrypted=1200, decrypted=4000)},
    }
    found = {target.what: target.holds for target in targets(measured)}
    assert found == {
        "push an array, private beside plain": True,
        "pull an array, private beside plain": False,
        "push small files, private beside plain": True,
        "pull small files, private beside plain": True,
        "push again beside the first, private": True,
        "requests of a cold slice, private": True,
        "moved for a cold slice, private": True,
        "requests of the next, private": True,
        "URIs encrypted a second, the slowest kind": True,
        "URIs decrypted a second, the slowest kind": False,
        "memory, whatever it does, private": True,
    }
    assert "| private |" in markdown(measured, targets(measured))
    assert len(tables(measured)) == 8


def test_a_ratio_is_that_of_neighbours_in_time() -> None:
    arrays = {
        "kacas": {"push_s": Series((1.0, 2.0, 4.0)), "pull_s": Series((1.0,))},
        "private": {"push_s": Series((1.5, 3.0, 6.0)), "pull_s": Series((1.0,)), "again_s": Series((0.0, 0.0, 0.0))},
    }
    assert targets({"arrays": arrays})[0].value == 1.5


def test_a_full_run_fits_where_it_is_said_to(tmp_path: Path) -> None:
    assert disk_needed(plan_of(tmp_path)) <= 20 << 30


@pytest.mark.heavy
def test_a_quick_run_gives_every_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--dir", str(tmp_path / "work"), "--json", str(tmp_path / "private.json")])
    part = read_part(tmp_path / "private.json", 1.0)
    assert set(part.figures) == {"arrays", "slices", "trees", "uris"}
    assert part.figures["slices"]["private"]["cold_requests"].median <= 5
    assert part.figures["arrays"]["private"]["push_memory"].median < 256 << 20
    assert "URIs a second" in capsys.readouterr().out
    assert not list((tmp_path / "work").glob("run-*"))
