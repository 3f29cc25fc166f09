"""kacas load, kacas cat."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, Answer, Runner, flip_byte, packs

MISSING = "sha1://" + 40 * "0"


def test_load_prints_the_path_of_a_copy_with_the_files_name(kacas: Runner, notes_uri: str, tmp_path: Path) -> None:
    answer = kacas("load", notes_uri)
    (line,) = answer.lines
    assert answer.code == 0
    assert Path(line).name == "notes.txt"
    assert Path(line).read_bytes() == b"test-content\n"
    assert Path(line).is_relative_to(tmp_path / "cache")


def test_load_writes_to_a_file_or_into_a_directory(kacas: Runner, notes_uri: str, tmp_path: Path) -> None:
    assert kacas("load", notes_uri, "-o", tmp_path / "copy").text == f"{tmp_path / 'copy'}\n"
    assert (tmp_path / "copy").read_bytes() == b"test-content\n"
    (tmp_path / "folder").mkdir()
    answer = kacas("load", notes_uri, "--dest", f"{tmp_path / 'folder'}/")
    assert answer.text == f"{tmp_path / 'folder' / 'notes.txt'}\n"
    assert (tmp_path / "folder" / "notes.txt").read_bytes() == b"test-content\n"


def test_load_writes_through_a_link_and_leaves_it_in_place(kacas: Runner, notes_uri: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    kacas("load", notes_uri, "-o", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"test-content\n"


@pytest.mark.parametrize("dest", ["-", "", "no/such/place", "no-such-folder/", "pipe"])
def test_load_refuses_a_destination_that_cannot_be_meant(
    kacas: Runner, notes_uri: str, tmp_path: Path, dest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    answer = kacas("load", notes_uri, "-o", dest)
    assert answer.code == 2
    assert "See: kacas load --help" in answer.error
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--start", "5"],
        ["--stop", "5"],
        ["--start", "-5"],
        ["--start", "3", "--stop", "-3"],
        ["--range", "3:-3"],
        ["--range", "-5:"],
        ["--range", ":5"],
        ["--range", ":"],
        ["--range", "7:2"],
        ["--range", "100:200"],
        ["--range", "-999999999999:999999999999"],
    ],
    ids=" ".join,
)
def test_cat_writes_what_a_python_slice_gives(kacas: Runner, notes_uri: str, options: list[str]) -> None:
    values = dict(zip(options[::2], options[1::2], strict=True))
    start, _, stop = values.get("--range", ":").partition(":")
    start, stop = values.get("--start", start), values.get("--stop", stop)
    expected = b"test-content\n"[int(start) if start else None : int(stop) if stop else None]
    answer = kacas("cat", notes_uri, *options)
    assert (answer.code, answer.out, answer.err) == (0, expected, b"")


def test_cat_of_large_content_is_exact_at_every_window(kacas: Runner, tmp_path: Path) -> None:
    data = os.urandom((9 << 20) + 12345)
    (tmp_path / "large").write_bytes(data)
    uri = kacas("store", tmp_path / "large").text.strip()
    assert kacas("cat", uri).out == data
    assert kacas("cat", uri, "--range", "4194303:8388609").out == data[4194303:8388609]
    assert kacas("cat", uri, "--start", "-1").out == data[-1:]


@pytest.mark.parametrize("span", ["5", "a:b", "1:2:3", "", "1.5:2", "--", "0x1:5"])
def test_a_range_that_is_none_is_a_usage_error(kacas: Runner, notes_uri: str, span: str) -> None:
    answer = kacas("cat", notes_uri, f"--range={span}")
    assert (answer.code, answer.out) == (2, b"")
    assert "is not a range such as" in answer.error


def test_range_and_start_exclude_each_other(kacas: Runner, notes_uri: str) -> None:
    assert kacas("cat", notes_uri, "--range", "0:1", "--start", "0").code == 2


def test_an_empty_content_is_written_as_nothing(kacas: Runner) -> None:
    uri = kacas("store", "-").text.strip()
    answer = kacas("cat", uri)
    assert (answer.code, answer.out) == (0, b"")
    assert Path(kacas("load", uri).lines[0]).read_bytes() == b""


@pytest.mark.parametrize("command", ["load", "cat", "info", "find", "forget"])
def test_missing_content_gives_3(kacas: Runner, notes_uri: str, command: str) -> None:
    answer = kacas(command, MISSING)
    assert (answer.code, answer.out) == (3, b"")
    assert MISSING in answer.err.decode()
    assert answer.err.count(b"\n") == 1


@pytest.mark.parametrize("command", ["load", "cat", "info", "find", "forget"])
@pytest.mark.parametrize(
    "near_miss, hint",
    [
        ("b971c6ef19b1d70ae8f0feb989b106c319b36230", "did you mean sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230"),
        ("sha1://b971c6", "40 hex digits, here 6"),
        ("sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230?lable=x", "'lable=x' is not known"),
        ("notes.txt", "it should look like sha1://<40 hex digits>"),
    ],
)
def test_a_bad_uri_gives_2_and_the_nearest_good_form(
    kacas: Runner, notes_uri: str, command: str, near_miss: str, hint: str
) -> None:
    answer = kacas(command, near_miss)
    assert answer.code == 2
    assert hint in answer.error


def _damaged(kacas: Runner, tmp_path: Path) -> tuple[str, Path]:
    """A stored URI whose pack has a flipped byte in its payload."""
    (tmp_path / "data").write_bytes(os.urandom(100_000))
    uri = kacas("store", tmp_path / "data").text.strip()
    (pack,) = packs(tmp_path / "store")
    flip_byte(pack, 50_000)
    return uri, pack


@pytest.mark.parametrize("command", ["load", "cat"])
def test_a_damaged_pack_gives_5_and_its_name_and_no_data(kacas: Runner, tmp_path: Path, command: str) -> None:
    uri, pack = _damaged(kacas, tmp_path)
    answer: Answer = kacas(command, uri)
    assert (answer.code, answer.out) == (5, b"")
    assert pack.stem in answer.error
    assert not list((tmp_path / "cache").rglob("data"))


def test_a_damaged_pack_leaves_the_destination_as_it_was(kacas: Runner, tmp_path: Path) -> None:
    uri, _ = _damaged(kacas, tmp_path)
    (tmp_path / "copy").write_text("old")
    assert kacas("load", uri, "-o", tmp_path / "copy").code == 5
    assert (tmp_path / "copy").read_text() == "old"
    assert not [name for name in os.listdir(tmp_path) if ".tmp." in name]


def test_cat_needs_little_memory_whatever_the_size(kacas: Runner, tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 30)
    uri = kacas("store", tmp_path / "sparse").text.strip()
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run(
        [PROGRAM[0], "-c", script, *PROGRAM, "cat", uri], capture_output=True, timeout=120, check=True
    )
    assert int(done.stdout) < 300 << 10  # KiB; the interpreter and its libraries take 60 MiB of them
