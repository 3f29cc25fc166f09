"""The progress bar: for people who wait, and nobody else."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from kacas.cli.progress import Bar
from tests.cli.conftest import PROGRAM, Runner

BLOCK = os.urandom(4 << 20)


def _on_terminal(arguments: list[str], blocks: int, pause_s: float, *, stdout: bool = False) -> tuple[bytes, bytes]:
    """Run with stderr (and stdout) on a terminal, standard input fed slowly. Returns (stdout, the terminal's text)."""
    master, slave = pty.openpty()
    known = dict(os.environ) | {"TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen(
        [*PROGRAM, *arguments], stdin=-1, stdout=slave if stdout else -1, stderr=slave, env=known, bufsize=0
    )
    os.close(slave)
    assert child.stdin is not None
    shown = b""
    for _ in range(blocks):
        child.stdin.write(BLOCK)
        shown += _drain(master, pause_s)
    child.stdin.close()
    out = b"" if child.stdout is None else child.stdout.read()
    if child.stdout is not None:
        child.stdout.close()
    shown += _drain(master, 60)
    assert child.wait(60) == 0
    os.close(master)
    return out, shown


def _drain(master: int, wait_s: float) -> bytes:
    """What the terminal gets within the time; ends early when the other side is closed."""
    shown, deadline = b"", time.monotonic() + wait_s
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([master], [], [], left)
        if not ready:
            break
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux: EIO when the last writer has gone
            break
        if not part:
            break
        shown += part
    return shown


@pytest.fixture(autouse=True)
def _made(program: Runner) -> None:
    program("init")


def test_long_work_on_a_terminal_shows_a_bar_and_takes_it_away() -> None:
    out, shown = _on_terminal(["store", "-"], blocks=8, pause_s=0.25)
    assert out.startswith(b"sha1://")
    assert "storing" in shown.decode()
    assert "MiB" in shown.decode()
    assert shown.endswith(b"\x1b[2K")  # its line is cleared
    assert b"\x1b[?25h" in shown  # and the cursor is back


def test_short_work_shows_nothing() -> None:
    out, shown = _on_terminal(["store", "-"], blocks=0, pause_s=0)
    assert out.startswith(b"sha1://")
    assert shown == b""


def test_the_bar_waits_half_a_second() -> None:
    bar = Bar()
    bar.visible = True
    begun = time.monotonic()
    with bar:
        bar("storing", 1, 10)
        early, waited_s = bar.shown, time.monotonic() - begun
        time.sleep(0.6)
        bar("storing", 2, 10)
        assert bar.shown
    assert not bar.shown
    assert not early or waited_s > 0.5


def test_several_files_are_one_piece_of_work() -> None:
    bar = Bar()
    bar.visible = True
    bar.expect(100)
    with bar:
        time.sleep(0.6)
        bar.begin("first")
        bar("storing", 30, 40)
        bar.finished(40)
        bar.begin("the second with a name that is far too long to be shown")
        bar("storing", 10, 60)
        assert bar.description.startswith("storing …")
        assert bar.description.endswith("too long to be shown")
        assert (bar.done, bar.total) == (50, 100)


def test_the_uri_stands_alone_when_the_bar_is_gone() -> None:
    _, shown = _on_terminal(["store", "-"], blocks=8, pause_s=0.25, stdout=True)
    assert b"storing" in shown
    last = shown.replace(b"\r", b"").rpartition(b"\x1b[2K")[2]
    assert last.startswith(b"sha1://")
    assert last.count(b"\n") == 1


def test_cat_to_a_terminal_mixes_no_bar_into_the_content(program: Runner, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("plain text\n")
    uri = program("store", tmp_path / "text").text.strip()
    _, shown = _on_terminal(["cat", uri], blocks=0, pause_s=0, stdout=True)
    assert shown == b"plain text\r\n"
