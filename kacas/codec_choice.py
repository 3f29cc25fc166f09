"""Which recipe an array is encoded by: each is tried on samples of it, and the best by a rule is kept.

The rule: a recipe costs the time that it takes to encode a byte, and what the encoded bytes are worth. Time is that of the
processor, counted in that of SHA-1 over the same samples, so that a slow or busy machine chooses as a fast one does:

    fast     a byte on the disk is worth 16 times the time of hashing one, and the time of decoding counts four times
    auto     40 times
    small    2,000 times: hardly anything but the size counts

The cheapest recipe wins; raw takes no time, and one byte for each. With `auto`, what is the best at 8 times is used beside it: for
so many of the chunks that storing all takes about one and a half times as long as hashing them, and for a sixth of them at least if
there are two threads or more. So two processors get what they can do in that time, and where there are more, the denser recipe is
for nothing. Where it is told that data will be read often, the time of decoding counts as well, once for each reading.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from statistics import median_low
from types import MappingProxyType
from typing import NamedTuple

from kacas.errors import InvalidSettingError, MissingPackageError
from kacas.model import pco_frame
from kacas.model.blosc_frame import Shuffle
from kacas.model.codec import Codec, Decoder
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.digest import new_sha1
from kacas.model.encoder import KEEP_RAW_ABOVE, RAW, ZSTD, Denser, Encoded, Encoder, Recipe
from kacas.model.row_delta import Difference, RowDelta

_QUICK = 8.0
GOALS: Mapping[str, float] = MappingProxyType({"fast": 16.0, "auto": 40.0, "small": 2000.0})
_READINGS_OF_FAST = 4
_SHUFFLED = tuple(f"{shuffle}-{compressor}" for shuffle, compressor in product(("bytes", "bits"), ("lz4", "zstd")))
EXPLICIT = ("raw", "zstd", *_SHUFFLED, *(f"delta-{name}" for name in _SHUFFLED), "pcodec")

_SAMPLES = 4
_LEAST_SAMPLE, _MOST_SAMPLED = 32 * 1024, 1024 * 1024  # bytes
_SHARE_SAMPLED = 512  # trying all on one part in so many takes about 2 % of the processor's time for encoding
_SAMPLED_ALONE = 64 * 1024  # a sample has this many bytes before there is a second one
_MOST_ITEM_SIZE = 255  # that Blosc can shuffle
_DELTA_ITEM_SIZES = (1, 2, 4, 8)
_LZ4_LEVEL = 5
_ZSTD_SMALL = 9
_BLOSC_SMALL = 5  # Blosc's 5 is 9 of zstd, and its 9 is 22, which takes ten times as long for a few per cent
_PCO_LEVEL = 8
_WITHOUT_CLOCK = "bits-lz4"  # never far from the best


class Items(NamedTuple):
    """What an array consists of. kind: as NumPy has it; size: bytes of an item; row_sizes: bytes from an item to its
    neighbour, by axis, falling."""

    kind: str
    size: int
    row_sizes: tuple[int, ...]

    def parts(self) -> Items:
        """As the numbers that they are made of."""
        if self.kind == "c":
            return self._replace(kind="f", size=self.size // 2)
        return self._replace(kind="i", size=4) if self.kind == "U" else self

    def deltas(self) -> list[RowDelta]:
        """By each axis whose neighbours are well within a chunk, the first one first."""
        if self.size not in _DELTA_ITEM_SIZES or self.kind not in "iufmMb":
            return []
        # Not by 0, as rows of no items have, nor by parts of an item, as items without bytes seem to: it could not be decoded.
        whole = (size for size in self.row_sizes if size and size % self.size == 0)
        near = dict.fromkeys(size for size in whole if size <= CHUNK_TARGET // 4)
        return [RowDelta(Difference.SUBTRACT, self.size, size) for size in near]

    def recipes(self, delta: RowDelta | None, *, small: bool = False) -> dict[str, Recipe]:
        """Those that are made for such items, by name."""
        found = {"raw": RAW, "zstd": ZSTD._replace(level=_ZSTD_SMALL) if small else ZSTD}
        if not 1 < self.size <= _MOST_ITEM_SIZE and self.kind not in "iub":
            return found
        for name in _SHUFFLED:
            shuffle, compressor = name.split("-")
            level = _LZ4_LEVEL if compressor == "lz4" else _BLOSC_SMALL if small else 1
            recipe = Recipe(Codec.BLOSC, compressor, level, self.size, Shuffle[shuffle.upper()])
            found[name] = recipe
            if delta is not None:
                found[f"delta-{name}"] = recipe._replace(codec=Codec.DELTA, delta=delta)
        number = f"<{'i' if self.kind in 'mM' else self.kind}{self.size}"
        if pco_frame.is_number(number):
            found["pcodec"] = Recipe(Codec.PCO, level=_PCO_LEVEL, item_size=self.size, number=number)
        return found


def sample_places(size: int) -> list[tuple[int, int]]:
    """Where an array of `size` bytes is looked at: (start, bytes) of samples, spread over it; none if it is small."""
    if size < 2 * _LEAST_SAMPLE:
        return []
    total = min(max(size // _SHARE_SAMPLED, _LEAST_SAMPLE), _MOST_SAMPLED)
    count = min(_SAMPLES, max(1, total // _SAMPLED_ALONE))
    each = total // count
    return [((size - each) * (2 * i + 1) // (2 * count), each) for i in range(count)]


def check_codec(codec: str) -> None:
    """Raises InvalidSettingError for what is neither a goal nor a codec, MissingPackageError for one not installed."""
    if codec not in (*GOALS, *EXPLICIT):  # by equality: a list has no hash
        names = ", ".join((*GOALS, *EXPLICIT))
        raise InvalidSettingError(f"the codec {codec!r} is unknown; there are {names}")
    if codec == "pcodec" and not pco_frame.is_installed():
        raise MissingPackageError(
            f"the codec 'pcodec' needs the package {pco_frame.PACKAGE}: pip install {pco_frame.PACKAGE}, or name another",
            package=pco_frame.PACKAGE,
        )


def choose(
    codec: str, samples: Sequence[memoryview], kind: str, item_size: int, row_sizes: Sequence[int], readings: int = 0
) -> Recipe:
    """The recipe for an array. codec: a goal, or the name of a codec; samples: whole items from places far apart.
    readings: how often the time of decoding counts.

    A named codec that is not made for such items becomes zstd. Raises as check_codec.
    """
    check_codec(codec)
    items = Items(kind, item_size, tuple(row_sizes)).parts()
    if codec in EXPLICIT:
        delta = _best_delta(items, samples) if codec.startswith("delta") else None
        return items.recipes(delta).get(codec, ZSTD)
    if not samples:
        return ZSTD
    delta = _best_delta(items, samples)
    tried = [*items.recipes(delta).values()]
    if codec == "small":
        tried += items.recipes(delta, small=True).values()  # beside them: sometimes the higher level gives more bytes
    if codec != "small" or not pco_frame.is_installed():
        tried = [recipe for recipe in tried if recipe.codec != Codec.PCO]
    if codec == "fast":
        readings = max(readings, _READINGS_OF_FAST)
    found = _tried([*dict.fromkeys(tried)], samples, readings)
    if found is None:
        return items.recipes(delta).get(_WITHOUT_CLOCK, ZSTD)
    if min(one.size for one in found) > KEEP_RAW_ABOVE:
        # Noise, where it was looked at; other data may lie between. These tell noise from it at next to no cost.
        return next((one.recipe for one in found if one.recipe.compressor == "lz4"), ZSTD)
    best, quick = _cheapest(found, GOALS[codec]), _cheapest(found, _QUICK)
    if codec == "auto" and not readings and quick.cost < best.cost and quick.recipe is not RAW:
        return quick.recipe._replace(denser=Denser(best.recipe, best.cost, quick.cost))
    return best.recipe


def _best_delta(items: Items, samples: Sequence[memoryview]) -> RowDelta | None:
    """Along the axis whose neighbours are most alike."""
    deltas = items.deltas()
    if len(deltas) < 2:
        return deltas[0] if deltas else None
    encoders = {delta: Encoder(items.recipes(delta)["delta-bits-lz4"]) for delta in deltas}
    return min(deltas, key=lambda delta: sum(len(encoders[delta].encode(sample).payload) for sample in samples))


class _Tried(NamedTuple):
    """cost: the time for a byte, in that of SHA-1. size: encoded bytes for a byte."""

    recipe: Recipe
    cost: float
    size: float


def _tried(recipes: Sequence[Recipe], samples: Sequence[memoryview], readings: int) -> list[_Tried] | None:
    """None where the processor's clock ticks too slowly to tell: in some virtual machines every 10 ms.

    All are timed on one sample after the other, each beside SHA-1, so that a processor that slows down slows down both. Of
    what the samples say the lower median counts: a first time that is slow does not, nor one sample that is noise and gets
    done with at once.
    """
    encoders = {recipe: Encoder(recipe) for recipe in recipes if recipe is not RAW}
    costs: dict[Recipe, list[float]] = {recipe: [] for recipe in encoders}
    sizes = dict.fromkeys(encoders, 0)
    decoding = _Decoding(max(map(len, samples)))
    rounds = [*samples, *samples] if len(samples) == 1 else samples
    for sample in rounds:
        unit = _seconds(lambda: new_sha1().update(sample))  # noqa: B023 - called at once, as below
        if unit == 0:
            return None
        for recipe, encoder in encoders.items():
            begun = time.thread_time()
            encoded = encoder.encode(sample)
            seconds = time.thread_time() - begun
            if readings:
                seconds += readings * _seconds(lambda: decoding.decode(encoded, len(sample)))  # noqa: B023
            costs[recipe].append(seconds / unit)
            sizes[recipe] += len(encoded.payload)
    total = sum(map(len, rounds))
    return [_Tried(RAW, 0.0, 1.0), *(_Tried(one, median_low(costs[one]), sizes[one] / total) for one in encoders)]


def _cheapest(found: Sequence[_Tried], weight: float) -> _Tried:
    return min(found, key=lambda one: one.cost + weight * one.size)


class _Decoding:
    """Decodes samples, one after the other, into the same room."""

    def __init__(self, size: int) -> None:
        self._decoder, self._room = Decoder(), memoryview(bytearray(size))

    def decode(self, encoded: Encoded, size: int) -> None:
        codec, parameters, payload = encoded
        self._decoder.decode_into(codec, parameters, memoryview(payload), self._room[:size])


def _seconds(work: Callable[[], None]) -> float:
    """What it takes of the processor, as others may use that meanwhile."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
