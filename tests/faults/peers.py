"""Processes with a store of their own that do what they are told, one step after another."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kacas
from tests.faults.children import Child, fork
from tests.faults.examination import open_store

Step = Callable[[kacas.Store, Any], Any]


class Peer:
    """A child that opened the store. `ask(step, argument)` runs step(its store, argument) there; steps must be
    functions of a module, known before the peer was started."""

    def __init__(self, store: Path, cache: Path) -> None:
        questions, self._questions = os.pipe()
        self._answers, answers = os.pipe()
        mine = (self._questions, self._answers)

        def serve() -> None:
            for fd in mine:
                os.close(fd)
            with open_store(store, cache) as opened:
                while (step_and_argument := _receive(questions))[0] is not None:
                    step, argument = step_and_argument
                    _send(answers, step(opened, argument))

        self._child: Child = fork(serve)
        os.close(questions)
        os.close(answers)

    def ask(self, step: Step, argument: Any = None) -> Any:
        _send(self._questions, (step, argument))
        answer = _receive(self._answers)
        if answer is None:
            self._child.wait().get()
            raise AssertionError("the peer ended")
        return answer[0]

    def end(self) -> None:
        """Close it; what it raised is raised here."""
        # Not by closing the pipe: peers that were started later have it open too.
        _send(self._questions, (None, None))
        os.close(self._questions)
        os.close(self._answers)
        self._child.wait().get()


@contextmanager
def peers(store: Path, *caches: Path) -> Iterator[list[Peer]]:
    """One peer for each cache directory."""
    started = [Peer(store, cache) for cache in caches]
    yield started
    for peer in started:
        peer.end()


def _send(fd: int, value: Any) -> None:
    data = pickle.dumps(value if isinstance(value, tuple) else (value,))
    os.write(fd, struct.pack("<Q", len(data)))
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _receive(fd: int) -> Any:
    front = os.read(fd, 8)
    if not front:
        return None
    data = bytearray()
    (size,) = struct.unpack("<Q", front)
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return pickle.loads(data)
