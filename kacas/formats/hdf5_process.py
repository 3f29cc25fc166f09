"""The process that reads where the datasets of HDF5 files lie: started for the first file, kept for the next ones.

A file that makes libhdf5 crash, loop or take memory without end costs that process, and is cut by content.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

import numpy as np

from kacas.model.codec import MIB
from kacas.model.hdf5_cuts import Spans

_PROGRAM = "kacas.formats.hdf5_extents"
_SECRET = re.compile("KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
_PATIENCE_S = 310.0  # for one file; the process ends itself earlier
_MOST_HEAD = 64 * 1024  # bytes
_MOST_SPANS = 1 << 20
_ROW = 5 * 8  # bytes of a span


class Located(NamedTuple):
    """spans: how the file is cut. largest: of its largest dataset without filters, see `Extents.largest`; may be empty."""

    spans: Spans
    largest: dict[str, Any]


class Hdf5Process:
    """Thread-safe: one file at a time."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def forget(self) -> None:
        """In a forked child: the process is the parent's."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.returncode = 0  # else its collection would warn that somebody should wait for it
        self._begin()

    def locate(self, fd: int) -> Located | None:
        """What is to be known of an open file; None if it cannot be had, for whatever reason."""
        with self._lock:
            try:
                kept = self._connection is not None
                found = self._ask(fd)
                if found is None and kept and self.end() == 0:
                    # It was idle and had ended, or was about to; one that a file ended has another exit code.
                    found = self._ask(fd)
            except BaseException:  # Ctrl-C: this answer would be taken for that to the next question
                self.end()
                raise
            if found is None:
                self.end()
            return found

    def _ask(self, fd: int) -> Located | None:
        try:
            connection = self._connection or self._start()
            socket.send_fds(connection, [b"?"], [fd])
            return _received(connection)
        except (OSError, ValueError, TypeError, KeyError):  # a damaged answer is none
            return None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self._connection = ours
            # h5py is to be the one that this process would import. Locks would refuse files that others have open.
            # It reads what strangers made: what could be stolen there is not handed to it.
            environment = {name: value for name, value in os.environ.items() if not _SECRET.search(name)} | {
                "PYTHONPATH": os.pathsep.join(sys.path),
                "HDF5_USE_FILE_LOCKING": "FALSE",
                "HDF5_PLUGIN_PRELOAD": "::",  # no filter is needed, so none is looked for
                "OPENBLAS_NUM_THREADS": "1",
            }
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _PROGRAM],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        return ours

    def end(self) -> int | None:
        """Let it go; its exit code, negative if a signal ended it."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is None:
            return None
        try:
            return process.wait(0.5)  # it ends when it has no connection, unless it is at work
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _received(connection: socket.socket) -> Located | None:
    """None if the process ended."""
    deadline = time.monotonic() + _PATIENCE_S
    received = bytearray()

    def receive(most: int) -> bool:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        part = connection.recv(most)
        received.extend(part)
        return bool(part)

    while (end := received.find(b"\n")) < 0:
        if len(received) > _MOST_HEAD or not receive(_MOST_HEAD):
            return None
    head = json.loads(received[:end])
    size = int(head["spans"]) * _ROW
    if not 0 <= size <= _MOST_SPANS * _ROW:
        return None
    del received[: end + 1]
    while len(received) < size:
        if not receive(min(MIB, size - len(received))):
            return None
    return Located(np.frombuffer(received, np.int64).reshape(-1, 5), dict(head["largest"]))


hdf5_process = Hdf5Process()
atexit.register(hdf5_process.end)
os.register_at_fork(after_in_child=hdf5_process.forget)
