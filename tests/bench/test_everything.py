"""The command that runs every comparison: what fails is named, what is done is kept, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.everything import PARTS, Plan, main
from bench.page import BEGIN, END
from bench.results import read_results
from tests.test_house import ROOT

STORED = Path(__file__).with_name("results.json")


@pytest.fixture(autouse=True)
def no_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def places(tmp_path: Path) -> list[str]:
    return ["--quick", "--own-pages", "--dir", str(tmp_path / "work"), "--json", str(tmp_path / "out" / "results.json")]


@pytest.mark.heavy
def test_a_part_that_fails_is_named_and_the_others_are_kept_and_resumed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fails = tmp_path / "no-dvc"
    fails.write_text("#!/bin/sh\nexit 3\n")
    fails.chmod(0o755)
    assert main(["--only", "documents,appended", "--dvc", str(fails), *places(tmp_path)]) == 1
    results = read_results(tmp_path / "out" / "results.json")
    assert set(results.parts) == {"documents"}
    assert results.parts["documents"].versions["kacas"].startswith("kacas")
    assert "bench.directories ended with status 1" in results.missing["appended"]
    said = capfd.readouterr().err
    assert "appended failed" in said
    assert "status 3" in said  # the part's own error
    assert "kachery-cloud: left out" in said

    documents = results.parts["documents"]
    assert main(["--only", "documents,appended", "--resume", *places(tmp_path)]) == 0
    results = read_results(tmp_path / "out" / "results.json")
    assert results.parts["documents"] == documents
    assert results.parts["appended"].figures["appended"]["kacas"]["new_size"].median > 0
    assert not results.missing
    assert {path.name for path in (tmp_path / "out" / "plots").iterdir()} == {"second_versions.svg"}
    assert "store_json of 1 KiB" in (tmp_path / "out" / "results.md").read_text()
    assert not list((tmp_path / "work").iterdir())


def test_nothing_is_deleted_between_parts_and_an_interrupt_deletes_all(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.everything", "--only", "documents,edited,appended", *places(tmp_path)]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, stderr=said)
    while len(list((tmp_path / "work").glob("run-*/run-*"))) < 2:  # of a part that is done, and of the next
        assert process.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert not list((tmp_path / "work").iterdir())
    assert set(read_results(tmp_path / "out" / "results.json").parts) == {"documents"}
    assert "Go on with --resume" in (tmp_path / "said").read_text()


def test_results_of_a_full_run_are_not_mixed_with_those_of_a_quick_one(tmp_path: Path) -> None:
    out = tmp_path / "out" / "results.json"
    read_results(STORED).write(out)
    kept = out.read_bytes()
    with pytest.raises(SystemExit, match="quick run"):
        main([word for word in places(tmp_path) if word != "--quick"])
    assert out.read_bytes() == kept


def test_tables_and_plots_are_made_again_without_measuring(tmp_path: Path) -> None:
    only = read_results(STORED)
    only.parts = {"slices": only.parts["slices"]}
    only.write(tmp_path / "results.json")
    assert main(["--from", str(tmp_path / "results.json")]) == 0
    assert "along the last axis" in (tmp_path / "results.md").read_text()
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["slices.svg"]


def test_a_page_gets_tables_plots_and_the_results_that_they_are_of(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    only = read_results(STORED)
    only.parts = {"trees": only.parts["trees"]}
    only.write(tmp_path / "trees.json")
    assert main(["--from", str(tmp_path / "trees.json"), "--docs", str(tmp_path)]) == 0
    assert "![" in (tmp_path / "benchmarks.md").read_text()
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"results.json", "small_files.svg"}
    assert read_results(tmp_path / "plots" / "results.json") == only


def test_too_little_disk_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.everything.QUICK_DISK", 1e9)
    with pytest.raises(SystemExit, match="GiB free"):
        main(places(tmp_path))
    assert not list((tmp_path / "work").iterdir())


def test_a_part_that_there_is_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "trees,nothing", *places(tmp_path)])
    assert "there is no nothing" in capsys.readouterr().err


def test_every_part_leaves_its_files_to_the_end_and_is_told_of_its_peers(tmp_path: Path) -> None:
    peers = {"--kachery-python": "/k", "--peers-python": "/p", "--dvc": "/d"}
    plan = Plan(PARTS, False, 2, False, tmp_path, tmp_path / "results.json", peers)
    for part in PARTS:
        command = plan.command(part)
        assert "--leave" in command
        assert os.fspath(tmp_path) in command
        assert all(peers[option] in command for option in part.peers)
    assert sum(part.minutes for part in PARTS) <= 55
