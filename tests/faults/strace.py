"""Runs Python programs under strace: to inject a fault at the n-th system call, or to count what is called."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import children

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = "tests.faults.programs"


def environment(**more: str) -> dict[str, str]:
    """For a program that is to be counted: one encoder, no .pyc files, no settings but those in `more`."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("KACAS_")}
    return keep | {"PYTHONDONTWRITEBYTECODE": "1", "KACAS_THREADS": "1"} | more


def command(program: str, *arguments: str | Path) -> list[str]:
    """The command line of a program in tests/faults/programs/."""
    return [sys.executable, "-m", f"{PROGRAMS}.{program}", *map(str, arguments)]


def run(
    program: str,
    *arguments: str | Path,
    options: list[str] | None = None,
    timeout_s: float = 120,
    check: bool = True,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Run a program, under strace with these options if any. check: it must end with 0, else its stderr is shown."""
    line = command(program, *arguments)
    if options is not None:
        # Not for signals: with --seccomp-bpf strace 6.1 injects them at the first call only, and says nothing.
        assert not any("signal=" in option for option in options)
        line = [*_strace(), "--seccomp-bpf", *options, *line]
    done = subprocess.run(
        line,
        cwd=ROOT,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"{program} ended with {done.returncode}: {done.stderr[-3000:]}"
    return done


def _strace() -> list[str]:
    # Missing strace is a failure, not a skip: without it nothing here would be tested.
    assert shutil.which("strace"), "strace is not installed: apt-get install strace"
    return ["strace", "-f", "-qq", "-s", "256"]


_PR_SET_PTRACER, _ANYBODY = 0x59616D61, -1


@dataclass(frozen=True)
class Traced:
    """A child under strace."""

    child: children.Child
    _tracer: subprocess.Popen[str]

    def wait(self, timeout_s: float = 60) -> children.Outcome:
        outcome = self.child.wait(timeout_s)
        self._tracer.communicate(timeout=30)
        return outcome


def attach(function: Callable[[], Any], options: list[str]) -> children.Outcome:
    """Run the function in a forked child under strace: without the calls of a Python that starts."""
    return start(function, options).wait()


def start(function: Callable[[], Any], options: list[str]) -> Traced:
    """As `attach`, without waiting for its end."""
    waiting, go = os.pipe()

    def begin() -> Any:
        os.close(go)
        # Where only parents may trace: strace is a sister.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
        assert os.read(waiting, 1), "strace could not attach"
        return function()

    child = children.fork(begin)
    os.close(waiting)
    try:
        tracer = subprocess.Popen([*_strace(), *options, "-p", str(child.pid)], stderr=subprocess.PIPE, text=True)
        while "TracerPid:\t0\n" in Path(f"/proc/{child.pid}/status").read_text():
            if tracer.poll() is not None:
                raise AssertionError(f"strace could not attach: {tracer.communicate()[1]}")
            time.sleep(0.001)
        os.write(go, b"x")
    finally:
        os.close(go)
    return Traced(child, tracer)


def inject(calls: str, fault: str, log: Path | str = "/dev/null") -> list[str]:
    """strace options: the fault, e.g. "signal=SIGKILL:when=3", for each of the comma-separated calls."""
    # "?" lets strace accept calls that this architecture does not have.
    names = ",".join(f"?{name}" for name in calls.split(","))
    return ["-o", str(log), "-e", f"trace={names}", "-e", f"inject={names}:{fault}"]


@dataclass(frozen=True)
class Call:
    """One finished system call. paths: of its descriptors and string arguments, in order."""

    name: str
    arguments: str
    result: int

    @property
    def paths(self) -> list[str]:
        found = re.finditer(r'\d+<([^<>]*)>|"((?:[^"\\]|\\.)*)"', self.arguments)
        return [match[1] or match[2] or "" for match in found]


_LINE = re.compile(r"^\d+\s+(\w+)\((.*)\)\s+= (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+)\s+(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+)\s+<\.\.\. (\w+) resumed>(.*)$")
MARK_CALLS = "?readlink,?readlinkat"  # what `mark` in a program does
_MARK = re.compile(r'"/mark/([\w-]+)"')


def sections(log: Path) -> dict[str, list[Call]]:
    """The calls of a log written with -y, by the marks that the program set: what followed each."""
    found: dict[str, list[Call]] = {}
    here: list[Call] = []
    waiting: dict[str, str] = {}
    for raw in log.read_text("utf-8", "replace").splitlines():
        line = raw
        if match := _UNFINISHED.match(line):
            waiting[match[1]] = match[3]
            continue
        if match := _RESUMED.match(line):
            line = f"{match[1]} {match[2]}({waiting.pop(match[1], '')}{match[3]}"
        match = _LINE.match(line)
        if match is None:
            continue
        name, arguments, result = match[1], match[2], int(match[3])
        if name.startswith("readlink"):
            if mark := _MARK.search(arguments):
                here = found.setdefault(mark[1], [])
            continue
        here.append(Call(name, arguments, result))
    return found
