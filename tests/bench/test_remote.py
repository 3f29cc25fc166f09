"""The benchmark of remotes: what it measures is what it says. Its sizes are tiny; its server is real."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.measure import Series
from bench.remote import Plan, main
from bench.remote_report import markdown, tables, targets
from bench.results import read_part


def plan_of(tmp_path: Path) -> Plan:
    return Plan(1 << 30, 16 << 30, 20_000, 2, frozenset(), tmp_path, tmp_path, None, frozenset())


def one(**values: float) -> dict[str, Series]:
    return {name: Series((value,)) for name, value in values.items()}


def test_promises_are_of_kacas_beside_its_neighbour_of_the_same_place() -> None:
    measured = {
        "arrays, loopback": {
            "kacas": one(push_s=1.2, push_memory=100 << 20, again_s=0.01, changed_s=0.2, pull_s=2.0),
            "bare obstore": one(push_s=1.0, changed_s=0.1, pull_s=1.0),
        },
        "slices, 50 ms": {"kacas": one(cold_requests=4, cold_bytes=2e5, nearby_requests=2)},
        "trees, loopback": {
            "kacas": one(push_tree_s=1, fetch_tree_s=0.4, pull_tree_s=1),
            "one object": one(push_tree_s=20, pull_tree_s=5),
        },
    }
    found = {target.what: target.holds for target in targets(measured)}
    assert found == {
        "push new beside obstore, loopback": True,
        "push again beside the first, loopback": True,
        "1 % changed beside the first, loopback": False,
        "pull beside a raw download, loopback": False,
        "push small files beside one object each, loopback": True,
        "pull small files into the store beside one object each, loopback": True,
        "pull and restore small files beside one object each, loopback": False,
        "requests of a cold slice": True,
        "moved for a cold slice": True,
        "requests of the next": False,
        "memory, whatever it does": True,
    }
    assert "| bare obstore |" in markdown(measured, targets(measured))
    assert len(tables(measured)) == 6


def test_a_full_run_fits_where_it_is_said_to(tmp_path: Path) -> None:
    assert plan_of(tmp_path).disk_needed <= 20 << 30


@pytest.mark.heavy
def test_a_quick_run_gives_every_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--dir", str(tmp_path / "work"), "--json", str(tmp_path / "remote.json")])
    part = read_part(tmp_path / "remote.json", 1.0)
    assert len(part.figures) == 6
    far = part.figures["slices, 50 ms"]["kacas"]
    assert far["cold_requests"].median <= 5
    assert far["cold_s"].median >= 0.05
    assert far["cold_memory"].median < 256 << 20
    assert "Many small files" in capsys.readouterr().out
    assert not list((tmp_path / "work").glob("run-*"))
