"""The command as a program among programs: signals, pipes, descriptors, locales."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, Runner, packs

MIB = 1 << 20


def _shell(script: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """A shell script in which $KACAS is the command."""
    known = dict(os.environ) | {"KACAS": " ".join(PROGRAM)} | more
    return subprocess.run(["bash", "-c", script], env=known, capture_output=True, timeout=60, check=False)


def test_the_installed_script_runs() -> None:
    script = Path(sysconfig.get_path("scripts")) / "kacas"
    if not script.exists():
        pytest.skip("kacas is not installed")
    done = subprocess.run([script, "version"], capture_output=True, timeout=60, check=True)
    assert done.stdout.startswith(b"kacas ")


def test_a_round_trip_through_pipes(program: Runner) -> None:
    program("init")
    data = os.urandom(3 * MIB)
    stored = program("store", "-", stdin=data)
    assert (stored.code, stored.err) == (0, b"")
    assert program("cat", stored.text.strip()).out == data


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda value: str(value),
)
def test_a_store_that_is_interrupted_leaves_no_pack_and_no_temporary(
    program: Runner, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    program("init")
    folder = tmp_path / "store" / "packs"
    child = subprocess.Popen([*PROGRAM, "store", "-"], stdin=-1, stdout=-1, stderr=-1)
    assert child.stdin is not None
    child.stdin.write(os.urandom(48 * MIB))
    child.stdin.flush()
    _wait_until(lambda: any(path.stat().st_size > 16 * MIB for path in folder.iterdir()))
    child.send_signal(number)
    time.sleep(0.02)
    child.send_signal(number)  # the impatient second one
    # Standard input stays open until the child has ended: it was interrupted, it did not reach the end.
    returned = child.wait(timeout=60)
    out, err = child.communicate()
    assert (returned, out, err) == (code, b"", b"kacas: interrupted; the store is clean\n")
    assert list(folder.iterdir()) == []
    assert program("verify", "--json").object["clean"] is True


def test_an_interrupted_load_leaves_the_destination_as_it_was(program: Runner, tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2 << 30)
    uri = program("store", tmp_path / "large").text.strip()
    (tmp_path / "out").mkdir()
    child = subprocess.Popen([*PROGRAM, "load", uri, "-o", tmp_path / "out" / "copy"], stdout=-1, stderr=-1)
    _wait_until(lambda: bool(os.listdir(tmp_path / "out")))
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, b"")
    assert os.listdir(tmp_path / "out") == []


def _wait_until(holds: object) -> None:
    assert callable(holds)
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reader_that_goes_away_ends_cat_quietly(program: Runner, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(8 * MIB))
    uri = program("store", tmp_path / "large").text.strip()
    done = _shell(f"set -o pipefail; $KACAS cat '{uri}' | head -c 10 | wc -c; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.split() == [b"10", b"141"]
    assert done.stderr == b""


@pytest.mark.parametrize("command", ["log", "stats", "--help", "version --json", "completion zsh"])
def test_nobody_reading_a_listing_is_no_error(program: Runner, command: str) -> None:
    program("init")
    done = _shell(f"$KACAS {command} | true; echo ${{PIPESTATUS[0]}}")
    assert done.stdout.strip() in {b"0", b"141"}  # whichever was first
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["stats", "--help", "stats --json", "completion fish"])
def test_a_full_disk_behind_stdout_is_told(program: Runner, command: str) -> None:
    program("init")
    done = _shell(f"$KACAS {command} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(program: Runner, notes: Path, tmp_path: Path, closed: str) -> None:
    """A pack that got descriptor 1 would have the URI printed into it."""
    done = _shell(f"$KACAS store '{notes}' {closed}")
    assert done.returncode == 0
    assert len(packs(tmp_path / "store")) == 1
    assert program("verify").code == 0
    assert program("log", "--json").object["label"] == "notes.txt"


def test_a_locale_without_the_letters_hides_no_result(program: Runner, notes: Path) -> None:
    program("store", notes, "--label", "Größe")
    done = _shell("$KACAS log", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert rb"Gr\xf6\xdfe" in done.stdout


def test_engine_warnings_are_lines_of_ours(program: Runner, notes: Path, tmp_path: Path) -> None:
    uri = program("store", notes).text.strip()
    for place in (tmp_path / "cache").glob("*/index"):
        shutil.rmtree(place)
        place.write_text("a file where the index should be")
    answer = program("cat", uri)
    assert (answer.code, answer.out) == (0, b"test-content\n")
    assert b".py:" not in answer.err  # no file names of the program's own
    assert answer.err == b"" or answer.err.startswith(b"kacas: warning: ")


def test_scripts_see_no_progress(program: Runner, tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 30)
    program("init")
    answer = program("store", tmp_path / "large")
    assert answer.code == 0
    assert answer.err == b""
    assert answer.text.startswith("sha1://2a492f15396a6768bcbca016993f4b4c8b0b5307?")


def test_python_m_runs_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "kacas.cli.main", "nonsense"], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"kacas: error: ")


def test_a_crash_leaves_no_core_that_keys_could_be_read_from() -> None:
    ended = "import atexit, resource, sys; atexit.register(lambda: print(resource.getrlimit(resource.RLIMIT_CORE)[0]))"
    script = f"{ended}; sys.argv = ['kacas', 'version']; from kacas.cli.main import main; main()"
    done = _shell(f'ulimit -S -c $(ulimit -H -c); exec "{sys.executable}" -c "{script}"')
    assert done.stdout.splitlines()[-1] == b"0", done
