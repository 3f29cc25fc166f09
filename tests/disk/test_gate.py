"""The gate that closing and forking wait at: nobody is inside when it is shut, whatever came between."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

from kacas.disk.gate import Gate


def test_nobody_is_inside_when_it_is_shut() -> None:
    gate, inside, seen, stop = Gate(), [0] * 4, [], threading.Event()

    def work(number: int) -> None:
        while not stop.is_set():
            with gate.pass_lock():
                inside[number] = 1
                inside[number] = 0

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        with gate.shut():
            seen.append(sum(inside))
        time.sleep(0)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(seen) == {0}


def test_a_thread_that_ended_is_not_waited_for() -> None:
    gate = Gate()
    thread = threading.Thread(target=gate.pass_lock)
    thread.start()
    thread.join()
    with gate.shut():
        assert len(gate._locks) == 0


def test_after_signals_at_any_moment_it_can_be_shut() -> None:
    """A count would be off after one that came between counting and the block."""
    code = """
import signal, threading
from kacas.disk.gate import Gate
gate, hits = Gate(), 0
signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(2000):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001)
        while True:
            with gate.pass_lock():
                pass
    except KeyboardInterrupt:
        hits += 1
shut = threading.Event()
def shutting():
    with gate.shut():
        shut.set()
threading.Thread(target=shutting, daemon=True).start()
print(hits, shut.wait(10))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "2000 True\n"


def test_a_store_closes_after_ctrl_c_in_the_middle_of_a_look(tmp_path: object) -> None:
    code = """
import sys, kacas
try:
    with kacas.Store.open(sys.argv[1]) as store:
        print("go", flush=True)
        for number in range(10**9):
            store.exists(f"sha1://{number:040x}")
except KeyboardInterrupt:
    print("closed")
"""
    for _ in range(5):
        looking = subprocess.Popen([sys.executable, "-c", code, f"{tmp_path}/store"], stdout=subprocess.PIPE, text=True)
        assert looking.stdout is not None
        assert looking.stdout.readline() == "go\n"
        time.sleep(0.1)
        looking.send_signal(signal.SIGINT)
        assert looking.communicate(timeout=30)[0] == "closed\n"
