"""Turns: of all who want a content from behind the store one fetches it, the others wait until it is here."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from kacas.disk.leases import Lease, Leases
from kacas.disk.volume import Volume
from kacas.errors import (
    AccessDeniedError,
    KacasError,
    LeaseLostError,
    LeaseUnusableError,
    NoSpaceError,
    ReadOnlyStoreError,
)

Report = Callable[[str, int, int | None], None]


class Turns:
    """Of one store. Thread-safe; not across a fork."""

    def __init__(self, volume: Volume, report: Report, published: Callable[[], None]) -> None:
        """report: of progress. published: is called after something was fetched."""
        self._volume = volume
        self._report = report
        self._published = published
        self._leases = Leases(volume)
        self._warned: set[type[KacasError]] = set()
        self.given_up = 0  # that this process left to another, having lost its lease
        self.unkept: KacasError | None = None  # why what was wanted last could not be kept here

    def once(self, sha1: bytes, is_here: Callable[[], bool], fetch: Callable[[Lease], None], size: int) -> None:
        """Let one process fetch it, this one perhaps, and wait until it is here. Where this store cannot be written, it is not."""

        def waiting(holder: str) -> None:
            self._report(f"waiting for {holder}, which fetches", 0, size)

        self.unkept = None
        try:
            while not self._had_turn(sha1, is_here, fetch, waiting):
                self.given_up += 1
        except (ReadOnlyStoreError, AccessDeniedError) as exc:
            self.unkept = exc  # then it is read through
        except LeaseUnusableError as exc:
            self.unkept = exc
            if self._volume.is_writable:  # else nobody expects that anything is kept
                self.warn_once(exc)
        except NoSpaceError as exc:
            self.unkept = exc
            self.warn_once(exc)

    def _had_turn(
        self,
        sha1: bytes,
        is_here: Callable[[], bool],
        fetch: Callable[[Lease], None],
        waiting: Callable[[str], None],
    ) -> bool:
        """False if the lease was lost meanwhile."""
        try:
            with self._leases.turn(f"fetch-{sha1.hex()}", is_here, waiting) as lease:
                if lease is not None:
                    fetch(lease)
        except LeaseLostError:
            return False
        if lease is not None:
            self._published()  # what is due then is not waited for by those who want the content
        return True

    def warn_once(self, exc: KacasError) -> None:
        if type(exc) not in self._warned:
            self._warned.add(type(exc))
            text = f"{exc}. What is read comes from the upstream, and is not kept; `kacas doctor` tells more"
            warnings.warn(text, RuntimeWarning, stacklevel=5)
