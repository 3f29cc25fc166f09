"""Which recipe an array is encoded by: a few are tried on samples of it, and the best by a rule is kept.

The rule: a recipe costs the time that it takes to encode a byte, and what the encoded bytes are worth. Time is counted in
that of SHA-1 over the same samples at the same moment, so that a slow or busy machine chooses as a fast one does:

    fast     a byte on the disk is worth three times the time of hashing one
    auto     9 times
    small    2,000 times: hardly anything but the size counts

The cheapest recipe wins; raw takes no time, and one byte for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from kacas.errors import InvalidSettingError
from kacas.model.blosc_frame import Shuffle
from kacas.model.codec import Codec
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.digest import new_sha1
from kacas.model.encoder import RAW, ZSTD, Encoder, Recipe
from kacas.model.row_delta import Difference, RowDelta

GOALS: Mapping[str, float] = MappingProxyType({"fast": 3.0, "auto": 9.0, "small": 2000.0})
_SAMPLES = 4
_LEAST_SAMPLE, _MOST_SAMPLED = 64 * 1024, 1024 * 1024  # bytes
_SHARE_SAMPLED = 256  # trying seven recipes on one part in so many takes some 3 % of the encoding
EXPLICIT = ("raw", "zstd", "bits-lz4", "bytes-zstd", "delta-lz4", "delta-zstd")
_MOST_ITEM_SIZE = 255  # that Blosc can shuffle
_DELTA_ITEM_SIZES = (1, 2, 4, 8)


def recipes(kind: str, item_size: int, row_sizes: Sequence[int], *, small: bool = False) -> dict[str, Recipe]:
    """What can be tried on items of a NumPy kind and size. row_sizes: bytes from an item to its neighbour, by axis, falling."""
    if kind == "c":
        kind, item_size = "f", item_size // 2
    elif kind == "U":
        kind, item_size = "i", 4
    found = {"raw": RAW, "zstd": ZSTD._replace(level=9 if small else 1)}
    if not 1 < item_size <= _MOST_ITEM_SIZE and kind not in "iub":
        return found
    level = 9 if small else 1
    found["bits-lz4"] = Recipe(Codec.BLOSC, "lz4", 5, item_size, Shuffle.BITS)
    found["bytes-zstd"] = Recipe(Codec.BLOSC, "zstd", level, item_size, Shuffle.BYTES)
    if item_size not in _DELTA_ITEM_SIZES or kind not in "iufmMb":
        return found
    difference = Difference.XOR if kind == "f" else Difference.SUBTRACT
    near = [size for size in row_sizes if size <= CHUNK_TARGET // 4]
    for row_size, suffix in zip(dict.fromkeys([*near[:1], *near[-1:]]), ("", "-items"), strict=False):
        delta = RowDelta(difference, item_size, row_size)
        found["delta-lz4" + suffix] = Recipe(Codec.DELTA, "lz4", 5, item_size, Shuffle.BITS, delta)
        found["delta-zstd" + suffix] = Recipe(Codec.DELTA, "zstd", level, item_size, Shuffle.BYTES, delta)
    return found


def sample_places(size: int) -> list[tuple[int, int]]:
    """Where an array of `size` bytes is looked at: (start, bytes) of samples, spread over it; none if it is small."""
    if size < _LEAST_SAMPLE:
        return []
    total = min(max(size // _SHARE_SAMPLED, _LEAST_SAMPLE), _MOST_SAMPLED)
    count = min(_SAMPLES, total // _LEAST_SAMPLE)
    each = total // count
    return [((size - each) * (2 * i + 1) // (2 * count), each) for i in range(count)]


def check_codec(codec: str) -> None:
    """Raises InvalidSettingError for what is neither a goal nor a codec."""
    if codec not in GOALS and codec not in EXPLICIT:
        names = ", ".join((*GOALS, *EXPLICIT))
        raise InvalidSettingError(f"the codec {codec!r} is unknown; there are {names}")


def choose(codec: str, samples: Sequence[memoryview], kind: str, item_size: int, row_sizes: Sequence[int]) -> Recipe:
    """The recipe for an array. codec: a goal, or the name of a codec; samples: whole items from places far apart.

    A named codec that is not made for such items becomes zstd.
    """
    check_codec(codec)
    candidates = recipes(kind, item_size, row_sizes, small=codec == "small")
    weight = GOALS.get(codec)
    if weight is None:
        return candidates.get(codec, ZSTD)
    size = sum(map(len, samples))
    if not size:
        return ZSTD
    unit = _seconds(lambda sample: new_sha1().update(sample), samples)
    best, least = RAW, weight
    for recipe in candidates.values():
        if recipe is RAW:
            continue
        encoder, sizes = Encoder(recipe), []
        seconds = _seconds(lambda sample: sizes.append(len(encoder.encode(sample).payload)), samples)  # noqa: B023
        cost = seconds / unit + weight * (sum(sizes[: len(samples)]) / size)
        if cost < least:
            best, least = recipe, cost
    return best


def _seconds(work: Callable[[memoryview], object], samples: Sequence[memoryview]) -> float:
    """What it takes for a byte, at best: the first time is slower, and others may use the processor meanwhile."""
    best = float("inf")
    for sample in [*samples, *samples] if len(samples) < _SAMPLES else samples:
        begun = time.perf_counter()
        work(sample)
        best = min(best, (time.perf_counter() - begun) / len(sample))
    return best
