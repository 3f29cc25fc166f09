"""LMDB must be idle when it is closed and when the process forks: else the interpreter crashes or a child hangs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

_LOADERS = """
import os, sys, threading, kacas
store = kacas.Store.open(sys.argv[1])
uris = [store.store_bytes(bytes([i]) * 3000) for i in range(20)]
stop = threading.Event()
wrong = []
def load():
    while not stop.is_set():
        for i, uri in enumerate(uris):
            try:
                if store.load_bytes(uri) != bytes([i]) * 3000:
                    wrong.append(uri)
            except kacas.StoreClosedError:
                return
threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads:
    thread.start()
"""


def _run(place: Path, program: str) -> None:
    code = textwrap.dedent(_LOADERS) + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert done.stdout == b"fine\n"


def test_a_store_is_closed_while_threads_load_from_it(tmp_path: Path) -> None:
    _run(
        tmp_path / "store",
        """
        import time
        time.sleep(0.3)
        store.close()
        for thread in threads:
            thread.join()
        assert not wrong
        print("fine")
        """,
    )


def test_the_index_is_rebuilt_while_threads_load(tmp_path: Path) -> None:
    _run(
        tmp_path / "store",
        """
        for _ in range(20):
            store.rebuild_index()
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        print("fine")
        """,
    )


def test_a_child_forked_while_threads_load_can_load_and_store(tmp_path: Path) -> None:
    _run(
        tmp_path / "store",
        """
        for n in range(20):
            child = os.fork()
            if child == 0:
                good = store.load_bytes(uris[3]) == b"\\x03" * 3000
                good = good and store.load_text(store.store_text(f"child {n}")) == f"child {n}"
                os._exit(0 if good else 1)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        print("fine")
        """,
    )
