"""Leases in a bucket: somebody relies on packs that are there. Collectors wait for those who were there before them.

leases/<id>          the fence: created once, by its holder; who deletes it ends the lease, and nobody makes it again
leases/<id>.beat     replaced while its holder lives; it says nothing, but that it changes

A holder that was stopped for too long finds its fence gone, however late it wakes, since a beat does not bring it back.
"""

from __future__ import annotations

import secrets
import threading
from types import TracebackType
from typing import NamedTuple

from kacas.errors import LeaseLostError
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobNotFoundError, RemoteRefusedError, RemoteUnavailableError
from kacas_remote.layout import LEASES

BEAT_S = 60.0
_BEAT = ".beat"
_TOKEN_SIZE = 32  # hex digits


class Lease:
    """Held from `take` to `release`; a context manager that was taken already. Not across a fork.

    The order that keeps what is pushed: take it, then list condemned/, then packs/, and rely only on packs that are there and
    not condemned; publish what names them; then `check`, and only after that say that it is done. If the check fails,
    begin again with a new lease: what arrived is there, unless a collector took it.
    """

    def __init__(self, blobs: BlobStore, key: str, token: str, beat_s: float) -> None:
        """Use `take`."""
        self._blobs = blobs
        self.key = key
        self._token = token
        self._beat_s = beat_s
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat_on, name="kacas-lease", daemon=True)
        self._count = 0

    @classmethod
    def take(cls, blobs: BlobStore, name: str = "", *, beat_s: float = BEAT_S) -> Lease | None:
        """name: for what only one may do; None if somebody holds it. beat_s: seconds between beats, 0 for none by itself."""
        token = secrets.token_hex(_TOKEN_SIZE // 2)
        lease = cls(blobs, f"{LEASES}{name or token}", token, beat_s)
        if not blobs.put_if_absent(lease.key, token.encode("ascii")):
            return None
        if beat_s:
            lease._beats.start()
        return lease

    def beat(self) -> None:
        """Show that the holder lives."""
        self._count += 1
        self._blobs.put(self.key + _BEAT, f"{self._token} {self._count}".encode("ascii"))

    def _beat_on(self) -> None:
        while not self._ended.wait(self._beat_s):
            try:
                self.beat()
            except (RemoteUnavailableError, RemoteRefusedError):
                continue  # who cannot beat for long loses the lease, and `check` says so

    def is_held(self) -> bool:
        """Whether nobody ended it."""
        try:
            return self._blobs.get(self.key, _TOKEN_SIZE) == self._token.encode("ascii")
        except BlobNotFoundError:
            return False

    def check(self) -> None:
        """Raises LeaseLostError if somebody took the holder for dead: what it relied on may be gone."""
        if not self.is_held():
            raise LeaseLostError(
                f"{self._blobs.name}: the lease {self.key} was ended by a collector, which saw no sign of life for long; "
                "run it again, what arrived is not sent twice"
            )

    def release(self) -> None:
        """Safe to call twice."""
        self._ended.set()
        if self._beats.ident is not None:
            self._beats.join()
        self._blobs.delete([self.key, self.key + _BEAT])

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class LeaseState(NamedTuple):
    """What is seen of one lease: it lives while this changes."""

    fence: tuple[int, float, str]
    beat: tuple[int, float, str] | None


def list_leases(blobs: BlobStore) -> dict[str, LeaseState]:
    """Every lease that is held, by its key. A beat whose fence is gone is none."""
    seen = {info.key: (info.size, info.modified_s, info.e_tag) for info in blobs.list(LEASES)}
    return {key: LeaseState(state, seen.get(key + _BEAT)) for key, state in seen.items() if not key.endswith(_BEAT)}


def left_beats(blobs: BlobStore) -> list[str]:
    """Keys of beats whose lease was ended."""
    keys = {info.key for info in blobs.list(LEASES)}
    return sorted(key for key in keys if key.endswith(_BEAT) and key.removesuffix(_BEAT) not in keys)


def end_lease(blobs: BlobStore, key: str) -> None:
    """Of a holder that is dead. The fence goes first: whoever wakes knows."""
    blobs.delete([key])
    blobs.delete([key + _BEAT])
