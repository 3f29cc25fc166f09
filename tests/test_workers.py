"""Workers: whoever helps has ended when the call returns, whatever happens."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import _thread, resource, sys, threading, time
from kacas.workers import Workers

workers, begun, ended = Workers(4, "test"), threading.Event(), []

def work():
    if threading.current_thread() is threading.main_thread():
        assert begun.wait(10)
        return
    begun.set()
    time.sleep(0.1)
    if sys.argv[1] == "ctrl-c" and not ended:
        _thread.interrupt_main()
    time.sleep(0.2)
    ended.append(True)
    if sys.argv[1] == "error":
        raise ValueError("of a helper")

if sys.argv[1] == "no-thread":  # there is room for the stack of one thread more
    threading.stack_size(512 << 20)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (800 << 20),) * 2)
try:
    workers.share(work)
    print("returned", bool(ended))
except BaseException as exc:
    print(type(exc).__name__, bool(ended))
"""


@pytest.mark.parametrize(
    "case, answer",
    [("plain", "returned"), ("no-thread", "returned"), ("ctrl-c", "KeyboardInterrupt"), ("error", "ValueError")],
)
def test_all_helpers_have_ended_when_the_call_returns(case: str, answer: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, case], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == f"{answer} True\n", done.stderr
