"""The tables and targets of the benchmark of directories, with peers and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.directories import Plan, main, said
from bench.keeper_report import fastest, markdown, targets
from bench.measure import Figures, Series
from bench.workloads import MIB

TREES = {"idle_s": 0.1, "store_s": 1.0, "total_s": 1.1, "restore_s": 1.0, "again_s": 0.2, "disk_size": 1e6}
VERSIONS = {"first_s": 3.0, "again_ms": 5.0, "second_s": 1.0, "total_s": 1.0, "new_size": 9e6}


def figures(one: dict[str, float], **systems: float) -> Figures:
    """The figures `one`, times a factor for each system, of three equal rounds."""
    return {
        system: {what: Series((value * factor,) * 3) for what, value in one.items()}
        for system, factor in systems.items()
    }


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        files=40,
        folders=2,
        size=MIB,
        rounds=3,
        parts=frozenset({"trees", "edited", "appended"}),
        tiny_files=1000,
        workdir=tmp_path / "work",
        run=tmp_path / "work" / "run",
        kachery_python=None,
        dvc=None,
    )


def test_the_fastest_backup_is_compared_and_cp_is_not_one() -> None:
    trees = figures(TREES, kacas=1, cp=0.1, restic=4, borg=2.5, casync=3)
    assert fastest(trees, "store_s") == "borg"
    first, second, *_ = targets({"trees": trees, "edited": figures(VERSIONS, kacas=1, restic=4)}, {})
    assert first.what.endswith(": borg")
    assert (first.value, first.holds) == (0.4, True)
    assert (second.value, second.holds) == (0.4, True)


def test_each_target_fails_beyond_its_limit_and_only_then() -> None:
    memory = {"store": 512 * MIB, "restore": 512 * MIB}
    edited = figures(VERSIONS, kacas=1, restic=2.5)
    good = targets({"trees": figures(TREES, kacas=1, casync=2), "edited": edited}, memory)
    assert [target.holds for target in good] == [True] * 8
    bad = targets(
        {"trees": figures(TREES, kacas=1.6, casync=1.9), "edited": figures(VERSIONS, kacas=2.1, restic=5)},
        {call: size + MIB for call, size in memory.items()},
    )
    assert [target.holds for target in bad] == [False] * 8


def test_a_peer_that_is_not_there_is_not_measured_and_not_an_error(plan: Plan) -> None:
    measured = {"trees": figures(TREES, kacas=1, cp=1), "edited": figures(VERSIONS, kacas=1, cp=1)}
    del measured["trees"]["cp"]["again_s"]
    promised = targets(measured, {})
    assert [target.holds for target in promised] == [None, None, True, True, None, True]
    measured["tiny files"] = {"kacas": {"store_s": Series((60.0,)), "restore_s": Series((30.0,))}}
    page = markdown(measured, said(plan), promised)
    assert "| store it unchanged, s      | 0.2 (0.2..0.2) | -              |" in page
    assert "not measured" in page
    assert "1,000 files of 100 bytes, once: store 60 s, restore 30 s." in page


def test_a_command_that_is_not_installed_is_left_out(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(plan.workdir))
    assert plan.systems == ["kacas"]


def test_it_measures_kacas_where_no_peer_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    output = tmp_path / "directories.json"
    main(["--size", "2", "--files", "20", "--rounds", "1", "--dir", str(tmp_path / "work"), "--json", str(output)])
    measured = json.loads(output.read_text())["figures"]
    assert set(measured) == {"trees", "edited", "appended"}
    assert all(set(figures) == {"kacas"} for figures in measured.values())
    assert all(measured[part]["kacas"]["new_size"]["median"] > 0 for part in ("edited", "appended"))
    said = capsys.readouterr().err
    assert all(f"{name}: left out" in said for name in ("cp", "restic", "borg", "casync", "DVC", "kachery-cloud"))
    assert not list((tmp_path / "work").glob("run-*"))
