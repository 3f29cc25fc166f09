"""How large the parts of a large upload are, and how many are on their way at once. Pure."""

from __future__ import annotations

MOST_IN_PARTS = 5 << 40
"""Bytes of a blob at S3 and its like."""
_MIB = 1 << 20
_LEAST = 8 * _MIB
_OF_UNKNOWN = 32 * _MIB
_PARTS = 9_000  # a service takes 10,000; what was said of the size may be a little short
_IN_FLIGHT = 32 * _MIB
_FEWEST, _MOST = 2, 4


def part_size(size: int) -> int:
    """Bytes, whole MiB. size: of the blob; 0 if nobody knows it."""
    if not size:
        return _OF_UNKNOWN
    return max(_LEAST, -(-size // (_PARTS * _MIB)) * _MIB)


def parts_at_once(size: int) -> int:
    """So that they, and the one that is being filled, take 96 MiB at most, up to 280 GiB, and then as little as can be."""
    return max(_FEWEST, min(_MOST, _IN_FLIGHT // part_size(size)))
