"""Every failure is one line and an exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from kacas.cli import output
from kacas.cli.running import run
from tests.cli.conftest import Runner


@pytest.mark.parametrize(
    "arguments",
    [
        ["stroe"],
        ["load"],
        ["load", "a", "b"],
        ["cat", "--no-such-option", "x"],
        ["log", "-n", "x"],
        ["--store"],
        ["index"],
    ],
    ids=" ".join,
)
def test_wrong_usage_gives_2_and_one_line_that_points_to_the_help(kacas: Runner, arguments: list[str]) -> None:
    answer = kacas(*arguments)
    assert (answer.code, answer.out) == (2, b"")
    assert answer.error.endswith("--help")


def test_a_mistyped_command_gets_a_suggestion(kacas: Runner) -> None:
    assert "'stroe'" in kacas("stroe").error


@pytest.mark.parametrize("place", ["before", "behind"])
def test_debug_adds_the_traceback(kacas: Runner, place: str) -> None:
    arguments = ["--debug", "stats"] if place == "before" else ["stats", "--debug"]
    answer = kacas(*arguments)
    assert answer.code == 9
    assert b"Traceback (most recent call last)" in answer.err
    assert b"StoreNotFoundError" in answer.err
    assert answer.err.splitlines()[-1].startswith(b"kacas: error: there is no kacas store")
    assert b"Traceback" not in kacas("stats").err


@pytest.mark.parametrize(
    "failure, code, says",
    [
        (OSError(errno.EIO, "Input/output error", "/data/x"), 1, "/data/x: Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "Permission denied"),
        (MemoryError(), 7, "there is not enough memory"),
        (RuntimeError("can't start new thread"), 7, "no thread can be started"),
        (ZeroDivisionError("by zero"), 1, "this is a bug in kacas: ZeroDivisionError: by zero"),
        (ValueError("two\nlines \x1b[2J"), 1, "ValueError: two lines \\x1b[2J"),
        (click.ClickException("the output cannot be written"), 1, "the output cannot be written"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_foreign_errors_are_told_in_plain_words(
    capfd: pytest.CaptureFixture[str], failure: Exception, code: int, says: str
) -> None:
    @click.command()
    def failing() -> None:
        raise failure

    assert run(failing, []) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("kacas: error: ")
    assert says in err


@pytest.mark.parametrize(
    "failure, code, says",
    [
        (KeyboardInterrupt(), 130, "kacas: interrupted; the store is clean\n"),
        (KeyboardInterrupt(15), 143, "kacas: interrupted; the store is clean\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
    ids=["SIGINT", "SIGTERM", "SIGPIPE"],
)
def test_an_end_from_outside_is_not_called_an_error(
    capfd: pytest.CaptureFixture[str], failure: BaseException, code: int, says: str
) -> None:
    @click.command()
    def ending() -> None:
        raise failure

    assert run(ending, []) == code
    assert capfd.readouterr() == ("", says)


def test_a_store_that_is_a_file_gives_9(kacas: Runner, notes: Path) -> None:
    answer = kacas("--store", notes, "store", notes)
    assert answer.code == 2  # already by its form: --store takes a directory
    assert "is a file" in answer.error


def test_a_damaged_store_setting_gives_9(kacas: Runner, tmp_path: Path) -> None:
    kacas("init")
    (tmp_path / "store" / "kacas.toml").chmod(0o644)
    (tmp_path / "store" / "kacas.toml").write_text("[store]\nformat = 1\n")
    answer = kacas("stats")
    assert answer.code == 9
    assert "kacas.toml is damaged" in answer.error


def test_a_store_of_a_newer_kacas_gives_6(kacas: Runner, tmp_path: Path) -> None:
    kacas("init")
    settings = tmp_path / "store" / "kacas.toml"
    settings.chmod(0o644)
    settings.write_text(settings.read_text().replace("format = 1", "format = 2"))
    answer = kacas("stats")
    assert answer.code == 6
    assert "upgrade kacas" in answer.error


def test_a_store_that_is_cut_in_an_unknown_way_gives_6_when_it_is_written(
    kacas: Runner, notes: Path, tmp_path: Path
) -> None:
    uri = kacas("store", notes).text.strip()
    settings = tmp_path / "store" / "kacas.toml"
    settings.chmod(0o644)
    settings.write_text(settings.read_text().replace("fastcdc2020", "fastcdc2099"))
    answer = kacas("store", notes)
    assert answer.code == 6
    assert "Upgrade kacas" in answer.error
    assert kacas("cat", uri).out == notes.read_bytes()


@pytest.mark.parametrize(
    "size, shown",
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 63, "8.0 EiB"),
        (1 << 75, "32768.0 EiB"),
    ],
)
def test_sizes_are_shown_in_binary_units(size: int, shown: str) -> None:
    assert output.human_size(size) == shown


@pytest.mark.parametrize(
    "text, shown",
    [
        ("Größe 数据 ×2", "Größe 数据 ×2"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\u202eabc", r"\u202eabc"),
        (os.fsdecode(b"\xff\x80.bin"), r"\xff\x80.bin"),
        ("\ud800", r"\ud800"),
    ],
)
def test_text_from_elsewhere_never_speaks_to_the_terminal(text: str, shown: str) -> None:
    assert output.plain(text) == shown


def test_a_store_in_the_home_of_nobody_gives_2(kacas: Runner) -> None:
    answer = kacas("--store", "~nobody-of-this-name/store", "stats")
    assert (answer.code, answer.error) == (
        2,
        "--store '~nobody-of-this-name/store' is not a path that can be used: Could not determine home directory.",
    )


def test_a_working_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && exec {sys.executable} -m kacas.cli.main --store relative stats"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("kacas: error: the working directory is not there any more")
