"""The benchmark of the engine: it runs end to end, each part alone, and keeps or deletes what it made, as it is told."""

from __future__ import annotations

import json
from pathlib import Path

from bench.engine import main


def test_it_measures_kacas_where_no_peer_is_installed(tmp_path: Path) -> None:
    output = tmp_path / "engine.json"
    main(["--quick", "--size", "2", "--rounds", "1", "--dir", str(tmp_path / "work"), "--json", str(output)])
    report = json.loads(output.read_text())
    assert set(report["figures"]) == {"recording", "random", "documents"}
    assert set(report["figures"]["recording"]) == {"kacas", "numpy", "sha1"}
    assert set(report["memory"]) == {"store_npy", "load_npy", "load_file", "store_file"}
    assert any(target["holds"] is None for target in report["targets"])
    assert not list((tmp_path / "work").glob("run-*"))


def test_a_part_alone_is_measured_and_its_files_are_left_to_who_asked_for_it(tmp_path: Path) -> None:
    output = tmp_path / "engine.json"
    main([
        "--quick", "--rounds", "1", "--only", "documents", "--leave", "--dir", str(tmp_path / "work"), "--json", str(output),
    ])  # fmt: skip
    assert set(json.loads(output.read_text())["figures"]) == {"documents"}
    assert list((tmp_path / "work").glob("run-*/documents"))
    assert not list((tmp_path / "work").glob("*.npy"))
