"""kacas bench: its three kinds of output, its errors, and that nothing is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kacas.upkeep.profile.figures import PROFILE_VERSION
from kacas.upkeep.profile.profile_json import parse_profile
from tests.cli.conftest import PROGRAM, Answer, Runner
from tests.cli.test_progress import _on_terminal

TINY = ("--size-mib", "1")


def names(directory: Path) -> set[Path]:
    return set(directory.rglob("*"))


@pytest.fixture
def store(program: Runner) -> None:
    program("init")


@pytest.mark.usefixtures("store")
def test_the_report_is_plain_text_where_no_terminal_is(kacas: Runner, tmp_path: Path) -> None:
    before = names(tmp_path)
    answer = kacas("bench", *TINY)
    assert (answer.code, answer.err) == (0, b"")
    assert names(tmp_path) == before
    assert "\x1b" not in answer.text
    assert "│" not in answer.text
    for title in ("What the machine can do", "What publishing waits for", "Codecs on this data", "What to change",
                  "Storing, loading, slicing", "Where the time goes: storing", "Where the time goes: loading"):  # fmt: skip
        assert title in answer.lines
    assert f"measured in  {tmp_path / 'store'}/.kacas-bench.tmp." in answer.text
    assert answer.lines[-1].endswith("nothing is left of it")


def test_without_a_store_none_is_made(kacas: Runner, tmp_path: Path) -> None:
    answer = kacas("bench", *TINY)
    assert answer.code == 0
    assert "(not there yet)" in answer.text
    assert names(tmp_path) <= {tmp_path / "home"}


def test_on_a_terminal_the_tables_are_drawn_and_progress_is_on_stderr_only(tmp_path: Path) -> None:
    _, shown = _on_terminal(["bench", *TINY], 0, 0, stdout=True)
    text = shown.decode()
    assert "measuring" in text
    assert "Where the time goes: storing" in text
    assert "───" in text
    out, shown = _on_terminal(["bench", *TINY, "--json"], 0, 0)
    assert json.loads(out)["version"] == PROFILE_VERSION
    assert b"measuring" in shown


@pytest.mark.usefixtures("store")
def test_json_is_one_profile_and_compares(kacas: Runner, tmp_path: Path) -> None:
    answer = kacas("bench", *TINY, "--json")
    assert (answer.code, answer.err) == (0, b"")
    old = tmp_path / "old.json"
    old.write_bytes(answer.out)
    profile = parse_profile(answer.out, "stdout")
    answer = kacas("bench", *TINY, "--compare", old)
    assert f"Compared with {profile.created}" in answer.lines
    assert "same machine, settings and data" in answer.lines
    compared = kacas("bench", *TINY, "--compare", old, "--json").object["comparison"]
    assert {change["key"] for change in compared["changes"]} == {figure.key for figure in profile.figures()}
    np.save(tmp_path / "mine.npy", np.arange(1000))
    answer = kacas("bench", *TINY, "--compare", old, "--input", tmp_path / "mine.npy")
    assert "data: kind: generated, now array" in answer.text


def test_the_html_report_is_written_beside_what_is_shown(kacas: Runner, tmp_path: Path) -> None:
    answer = kacas("bench", *TINY, "--html", tmp_path / "report.html")
    assert answer.lines[-1] == f"the report is in {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
def test_what_was_measured_is_shown_also_if_the_html_report_cannot_be_written(kacas: Runner) -> None:
    answer = kacas("bench", *TINY, "--html", "/dev/full", "--json")
    assert answer.code != 0
    assert "/dev/full cannot be written" in answer.error
    assert json.loads(answer.out)["version"] == PROFILE_VERSION


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["--input", "missing"], 8, "missing cannot be read: No such file or directory"),
        (["--compare", "missing"], 8, "missing cannot be read"),
        (["--compare", "notes"], 2, "notes is no profile of kacas bench --json"),
        (["--compare", "newer"], 6, f"version {PROFILE_VERSION + 1}, this kacas reads up to {PROFILE_VERSION}"),
        (["--html", "nowhere/report.html"], 2, "is not a directory"),
        (["--html", "."], 2, "is a directory"),
        (["--html", "./notes", "--input", "notes"], 2, "would overwrite notes"),
        (["--html", "same", "--input", "notes"], 2, "would overwrite notes"),
        (["--input", "/dev/null"], 8, "/dev/null is not a regular file"),
        (["--size-mib", "0"], 2, "--size-mib"),
        (["--quick", "--size-mib", "2"], 2, "either --quick or --size-mib"),
        (["--input", ""], 2, "the path is empty"),
        (["--compare", ""], 2, "the path is empty"),
        (["--html", ""], 2, "the path is empty"),
    ],
)
def test_wrong_use_is_told_before_anything_is_measured(
    kacas: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("{}")
    (tmp_path / "same").symlink_to("notes")
    (tmp_path / "newer").write_text(json.dumps({"version": PROFILE_VERSION + 1}))
    before = names(tmp_path)
    answer = kacas("bench", *arguments)
    assert (answer.code, answer.out) == (code, b"")
    assert words in answer.error
    assert names(tmp_path) == before


def running(size_mib: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*PROGRAM, "bench", "--size-mib", str(size_mib)], stdout=-1, stderr=-1)


def wait_for(child: subprocess.Popen[bytes], holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


MADE, DISK, LATENCIES, STORE, PACKS, STAGES = (
    ".kacas-bench.*", ".kacas-bench.*/disk", ".kacas-bench.*/latencies", ".kacas-bench.*/store",
    ".kacas-bench.*/store/packs/*.pack", ".kacas-bench.*/stages/packs",
)  # fmt: skip


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "number, code, moment, size_mib",
    [
        (signal.SIGINT, 130, MADE, 128),
        (signal.SIGINT, 130, DISK, 128),
        (signal.SIGINT, 130, LATENCIES, 128),
        (signal.SIGINT, 130, STORE, 16),
        (signal.SIGINT, 130, PACKS, 16),
        (signal.SIGINT, 130, STAGES, 16),
        (signal.SIGTERM, 143, PACKS, 16),
        (signal.SIGHUP, 129, DISK, 128),
    ],
)
def test_whenever_it_is_interrupted_nothing_is_left(
    tmp_path: Path, number: signal.Signals, code: int, moment: str, size_mib: int
) -> None:
    before = names(tmp_path)
    child = running(size_mib)
    wait_for(child, lambda: any((tmp_path / "store").glob(moment)))
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (code, b"", b"kacas: interrupted; the store is clean\n")
    assert names(tmp_path) == before


@pytest.mark.usefixtures("store")
def test_what_a_killed_run_left_is_swept_by_the_next(kacas: Runner, tmp_path: Path) -> None:
    before = names(tmp_path)
    child = running(16)
    wait_for(child, lambda: any((tmp_path / "store").glob(PACKS)))
    child.kill()
    child.communicate()
    left = names(tmp_path) - before
    assert left
    assert all(".kacas-bench.tmp." in str(path) for path in left)
    assert kacas("verify").code == 0
    assert kacas("bench", *TINY).code == 0
    assert names(tmp_path) - before <= {path for path in names(tmp_path) if "bench" not in str(path)}


@pytest.mark.usefixtures("store")
def test_two_runs_at_once_do_not_disturb_one_another(program: Runner, tmp_path: Path) -> None:
    before = names(tmp_path)
    child = subprocess.Popen([*PROGRAM, "bench", "--quick", "--json"], stdout=-1, stderr=-1)
    answer: Answer = program("bench", *TINY, "--json")
    out, err = child.communicate(timeout=120)
    assert (answer.code, child.returncode, answer.err, err) == (0, 0, b"", b"")
    assert json.loads(out)["version"] == answer.object["version"]
    assert names(tmp_path) == before


def test_nobody_reading_the_report_is_no_error(tmp_path: Path) -> None:
    known = dict(os.environ) | {"KACAS": " ".join(PROGRAM)}
    script = "$KACAS bench --size-mib 1 | true; echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", script], env=known, capture_output=True, timeout=60, check=False)
    assert done.stdout.strip() in {b"0", b"141"}
    assert done.stderr == b""
