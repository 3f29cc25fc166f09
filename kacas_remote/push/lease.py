"""Leases of pushes: as long as one is there and renewed, a collector deletes nothing that the push may count on.

leases/<id> is a blob that its holder puts again and again. Its age is told by the service's clock: see BlobInfo. Whoever has
not renewed it for LEASE_S has lost it: it writes no recipe any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import RemoteUnavailableError
from kacas_remote.layout import LEASES

LEASE_S = 900.0  # a laptop that changes networks is away for so long
RENEW_S = 60.0


class PushLease:
    """Held for the block. Thread-safe; a forked child holds none."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.key = f"{LEASES}{secrets.token_hex(16)}"
        self._pid = os.getpid()
        self._renewed: float | None = None
        self._failure: Exception | None = None
        self._lost = False
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> PushLease:
        self._renew()
        threading.Thread(target=self._renew_often, name="kacas-lease", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Never raises: what is left is dead after LEASE_S."""
        self._ended.set()
        if os.getpid() == self._pid:
            with self._lock, contextlib.suppress(OSError):  # what went wrong before is what is told
                self._blobs.delete([self.key])

    def check(self) -> None:
        """Raises RemoteUnavailableError if a collector may have taken us for dead."""
        self._look()
        if self._lost:
            raise RemoteUnavailableError(
                f"{self._blobs.name} could not be reached for {LEASE_S / 60:.0f} minutes, so the lease of this push ended; "
                "push again: what arrived is not sent again"
            ) from self._failure

    def _look(self) -> None:
        if os.getpid() != self._pid or (self._renewed is not None and _now() - self._renewed > LEASE_S):
            self._lost = True

    def _renew(self) -> None:
        begun = _now()  # before it is asked: by the service's clock the lease is younger
        told = {"host": socket.gethostname()[:64], "pid": self._pid, "renewed_every_s": RENEW_S}
        with self._lock:
            if not self._ended.is_set():
                self._blobs.put(self.key, json.dumps(told).encode())
        self._look()
        self._renewed = begun

    def _renew_often(self) -> None:
        while not self._ended.wait(RENEW_S) and os.getpid() == self._pid:
            try:
                self._renew()
            except OSError as exc:
                self._failure = exc  # told by `check`, if it lasts


def _now() -> float:
    """Seconds that also pass while the computer sleeps, where the system counts them."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
