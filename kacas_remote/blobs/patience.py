"""Patience: how long an upload may take before it is taken for stalled. Pure, but for being remembered.

The client tells nothing of how far an upload is, so its whole time is bounded: by what a slow line needs, and by twice as much
after a try that was too short, as several share a line. A fast one takes that back.
"""

from __future__ import annotations

SLOWEST_BYTES_S = 96 << 10
"""A transfer that is slower is tried again with more time."""
MOST = 4
_MIB = 1 << 20


class Patience:
    """Of one process with one bucket. Threads may meet in it: the worst is that one waits for twice, or half, as long."""

    def __init__(self, silence_s: float, slowest_bytes_s: float = SLOWEST_BYTES_S) -> None:
        """silence_s: what an answer may take when all is sent."""
        self._silence_s, self._slowest_bytes_s = silence_s, slowest_bytes_s
        self._times = 1

    def upload_s(self, size: int) -> float:
        """Seconds for an upload. One value for all sizes between two powers of two: each needs a client of its own."""
        return self._shortest_s(size) * self._times

    def was_too_short(self, upload_s: float, size: int) -> None:
        if upload_s >= self.upload_s(size):  # not one that began when there was less
            self._times = min(MOST, self._times * 2)

    def took(self, seconds: float, size: int) -> None:
        """An upload that ended well."""
        if self._times > 1 and seconds < self._shortest_s(size) / 4:
            self._times = 1

    def _shortest_s(self, size: int) -> float:
        most = 1 << (max(size, _MIB) - 1).bit_length()
        return self._silence_s + most / self._slowest_bytes_s
