"""Waiting for leases: until all that were there have ended, or their holders are dead.

Dead is whose lease was watched unchanged, by one's own monotonic clock, for longer than a holder believes in it without a beat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.leases import LeaseState, end_lease, list_leases

DEAD_AFTER_S = 1200.0  # a push gives itself up 900 s after its last beat
LOOK_EVERY_S = 10.0


@dataclass(frozen=True)
class Clock:
    """now_s: monotonic seconds. sleep: takes seconds. Both are given: tests have clocks of their own."""

    now_s: Callable[[], float]
    sleep: Callable[[float], None]


class LeaseWatch:
    """Watches the leases that `keys` names."""

    def __init__(self, blobs: BlobStore, keys: set[str], clock: Clock, dead_after_s: float = DEAD_AFTER_S) -> None:
        self._blobs = blobs
        self._clock = clock
        self._dead_after_s = dead_after_s
        self._seen: dict[str, tuple[LeaseState, float]] = {}
        self.left = set(keys)

    def look(self) -> bool:
        """Whether all have ended; ends those of the dead."""
        now_s = self._clock.now_s()  # before it is listed: what is seen is not older than this
        there = list_leases(self._blobs)
        self.left &= set(there)
        for key in sorted(self.left):
            state, since_s = self._seen.get(key, (None, now_s))
            if state != there[key]:
                self._seen[key] = there[key], now_s
            elif now_s - since_s > self._dead_after_s:
                end_lease(self._blobs, key)
                self.left.discard(key)
        return not self.left

    def wait(self, limit_s: float | None, tell: Callable[[int], None]) -> bool:
        """Whether all ended within `limit_s`. tell: called with the number of those that are left."""
        begun_s = self._clock.now_s()
        while not self.look():
            if limit_s is not None and self._clock.now_s() - begun_s >= limit_s:
                return False
            tell(len(self.left))
            self._clock.sleep(LOOK_EVERY_S)
        return True
