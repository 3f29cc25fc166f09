"""A process that holds one system and one array, and times single calls: `python -m bench.worker SYSTEM`.

It reads one JSON request a line on stdin and answers with one JSON line on stdout. Each system runs in
a process of its own, so that none inherits another's heap, threads or imports.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import disk_size, leave_page_cache, settle, sync_tree
from bench.systems import SYSTEMS, Array
from bench.workloads import json_documents

ROOT = Path(__file__).resolve().parent.parent


class Worker:
    """A system in another process, which runs the module `program`.

    `call("store", ...)` is `Requests.store(...)` there.
    """

    def __init__(self, system: str, *, python: str, environment: dict[str, str], program: str = "bench.worker") -> None:
        self.system = system
        self._process = subprocess.Popen(
            [python, "-m", program, system],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        self.pid = self._process.pid
        try:
            self.version = str(self.call("version")["version"])
        except BaseException:
            self.close()
            raise

    def call(self, request: str, **arguments: object) -> dict[str, Any]:
        """Raises RuntimeError if the worker ended; its own error is on stderr."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"request": request, **arguments}) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {self.system} ended at {request!r}; see its error above")
        result: dict[str, Any] = json.loads(answer)
        return result

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Requests:
    """What a worker does when asked. Seconds cover the system's own call and nothing else."""

    def __init__(self, system: str) -> None:
        self._system: Any = SYSTEMS[system]()
        self._array: Array = np.empty((0, 0), dtype=np.int16)
        self._directory = Path()

    def version(self) -> dict[str, object]:
        return {"version": self._system.version}

    def array(self, path: str) -> dict[str, object]:
        """Take the array into memory: it is the caller's, and no part of any figure."""
        self._array = np.load(path)
        return {"size": self._array.nbytes}

    def open(self, directory: str) -> dict[str, object]:
        self._directory = Path(directory)
        self._system.open(self._directory)
        settle()
        return {}

    def store(self) -> dict[str, object]:
        start = time.perf_counter()
        key = self._system.store(self._array)
        return {"seconds": time.perf_counter() - start, "key": key}

    def sync(self) -> dict[str, object]:
        start = time.perf_counter()
        sync_tree(self._directory)
        return {"seconds": time.perf_counter() - start, "disk": disk_size(self._directory)}

    def load(self, key: str) -> dict[str, object]:
        start = time.perf_counter()
        loaded = self._system.load(key)
        seconds = time.perf_counter() - start
        if not np.array_equal(loaded, self._array):
            raise AssertionError(f"{key} was loaded with other values than were stored")
        return {"seconds": seconds}

    def load_only(self, key: str) -> dict[str, object]:
        """Load and compare nothing: comparing takes memory of its own."""
        return {"size": self._system.load(key).nbytes}

    def documents(self, count: int, size: int, seed: int, batch: bool) -> dict[str, object]:
        documents = json_documents(count, size, seed)
        store = self._system.store_documents_in_a_batch if batch else self._system.store_documents
        start = time.perf_counter()
        store(documents)
        return {"seconds": time.perf_counter() - start}

    def store_file(self, path: str) -> dict[str, object]:
        return {"key": self._system.store_file(Path(path))}

    def load_file(self, key: str) -> dict[str, object]:
        return {"size": Path(self._system.load_file(key)).stat().st_size}

    def leave(self) -> dict[str, object]:
        leave_page_cache(self._directory)
        return {}


def serve(requests: object) -> None:
    """Answer until stdin ends: {"request": "store", ...} is `requests.store(...)`. An interrupt ends it, too."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    with contextlib.suppress(KeyboardInterrupt):  # who measures is interrupted as well, and tells of it once for all
        for line in sys.stdin:
            arguments = json.loads(line)
            answer = getattr(requests, arguments.pop("request"))(**arguments)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(Requests(sys.argv[1]))
