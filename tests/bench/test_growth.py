"""The benchmark of growth runs, and says what was promised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.growth import main


def test_it_measures_small_stores_and_writes_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sizes", "64,512", "--pack-records", "32", "--rounds", "1", "--dir", str(tmp_path / "work")]
    main([*arguments, "--json", str(tmp_path / "growth.json")])
    text = capsys.readouterr().out
    assert "| cold start: open and find a chunk, s" in text
    assert "| target " in text
    report = json.loads((tmp_path / "growth.json").read_text())
    small, large = report["figures"]["64 records"]["kacas"], report["figures"]["512 records"]["kacas"]
    assert (small["packs"]["median"], large["packs"]["median"]) == (2, 16)
    assert all(one["present_s"]["median"] > 0 and one["rebuild_rate"]["median"] > 0 for one in (small, large))
    assert {"what", "value", "limit", "holds", "at_least"} == report["targets"][0].keys()
    assert list((tmp_path / "work").iterdir()) == []
