"""Which ranges to ask for, so that near ones come in one answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

GAP = 256 << 10
"""Bytes that are read in vain rather than asked for apart: about what comes in the time of one round trip."""
MOST = 16 << 20
"""Bytes of an answer beyond which nothing is joined to it: apart they come in parallel."""


class Joined(NamedTuple):
    """members: which of the ranges asked for lie in it."""

    start: int
    stop: int
    members: list[int]


def joined_ranges(ranges: Sequence[tuple[int, int]], *, gap: int = GAP, most: int = MOST) -> list[Joined]:
    """Ranges in rising order that cover all that are not empty. Raises ValueError for one that is none."""
    for start, stop in ranges:
        if not 0 <= start <= stop:
            raise ValueError(f"{start}:{stop} is no range of bytes")
    joined: list[Joined] = []
    for number in sorted((n for n, (start, stop) in enumerate(ranges) if start < stop), key=lambda n: ranges[n]):
        start, stop = ranges[number]
        last = joined[-1] if joined else None
        if last and start <= last.stop + gap and (stop <= last.stop or stop - last.start <= most):
            last.members.append(number)
            joined[-1] = last._replace(stop=max(last.stop, stop))
        else:
            joined.append(Joined(start, stop, [number]))
    return joined


def handed_out(
    ranges: Sequence[tuple[int, int]], joined: Sequence[Joined], answers: Sequence[memoryview]
) -> list[memoryview]:
    """What was asked for, of the answers to `joined`, which are shorter where the blob ends."""
    out = [memoryview(b"")] * len(ranges)
    for part, answer in zip(joined, answers, strict=True):
        for number in part.members:
            start, stop = ranges[number]
            out[number] = answer[start - part.start : stop - part.start]
    return out
