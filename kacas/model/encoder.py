"""Encoders: how a chunk becomes a payload, by the recipe that suits the data, or raw where that does not pay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import zstandard

from kacas.model import blosc_frame, pco_frame
from kacas.model.blosc_frame import Shuffle
from kacas.model.codec import Codec
from kacas.model.row_delta import RowDelta, buffers

KEEP_RAW_ABOVE = 0.97  # saving less than 3 % is not worth the decoding
_ALWAYS_RAW_BELOW = 16  # bytes
_TRY_PARTS_ABOVE = 64 * 1024  # bytes of a chunk
_TIMES_SHA1 = 1.5  # a put may take so many times as long as SHA-1 over its bytes
_WITHOUT_ENCODING = 1.9  # what a byte takes beside its encoding: SHA-1, reading, BLAKE3, writing
_LEAST_DENSER = (
    1 / 6
)  # of the chunks, with two threads or more: on a busy machine the costs come out up to twice as high
_PARTS = 4
_PART_SIZE = 2 * 1024  # 10 µs with LZ4, where the whole chunk takes 60 to 110


class Recipe(NamedTuple):
    """What is done to chunks of one content. item_size, shuffle: for Blosc. delta: before it. number: for pcodec.

    denser: what is done to some of the chunks instead, as many as there is time for.
    """

    codec: Codec
    compressor: str = "zstd"
    level: int = 1
    item_size: int = 1
    shuffle: Shuffle = Shuffle.BITS
    delta: RowDelta | None = None
    number: str = ""
    denser: Denser | None = None

    def __str__(self) -> str:
        if self.codec == Codec.RAW:
            return "raw"
        if self.codec == Codec.PCO:
            return f"pcodec {self.level}"
        parts = [f"{self.compressor} {self.level}"]
        if self.codec != Codec.ZSTD:
            parts.insert(0, "bit shuffle" if self.shuffle == Shuffle.BITS else "byte shuffle")
        if self.delta:
            parts.insert(0, "row delta")
        return " + ".join(parts)


class Denser(NamedTuple):
    """A recipe that gives fewer bytes and takes longer. Costs: the time of each for a byte, in that of SHA-1."""

    recipe: Recipe
    cost: float
    quick_cost: float

    def share(self, threads: int) -> float:
        """The part of the chunks that can be encoded so while so many threads keep up with SHA-1 as we want them to."""
        room = threads * _TIMES_SHA1 - _WITHOUT_ENCODING - self.quick_cost
        least = _LEAST_DENSER if threads > 1 else 0.0
        return min(1.0, max(least, room / max(self.cost - self.quick_cost, 1e-9)))


RAW = Recipe(Codec.RAW)
ZSTD = Recipe(Codec.ZSTD)


class Encoded(NamedTuple):
    """A payload. That of RAW is the chunk itself, not a copy."""

    codec: Codec
    parameters: bytes
    payload: bytes | memoryview


class Encoder:
    """Encodes chunks. Not thread-safe: one for each thread."""

    def __init__(self, recipe: Recipe = ZSTD, threads: int = 1) -> None:
        """threads: that work on the content together."""
        self._recipe = recipe
        self._denser = Encoder(recipe.denser.recipe) if recipe.denser else None
        self._denser_share = recipe.denser.share(threads) if recipe.denser else 0.0
        self._denser_due = 0.0
        self._parameters = recipe.delta.encode() if recipe.delta else recipe.number.encode()
        # The content size in the frame is what lets the decoder refuse a bomb before it takes memory.
        level = recipe.level if recipe.codec == Codec.ZSTD else 1
        self._zstd = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
        self._spare = buffers(0)
        self._in_doubt = True

    def encode(self, raw: memoryview) -> Encoded:
        """The payload of a chunk."""
        if self._denser is not None:
            self._denser_due += self._denser_share
            if self._denser_due >= 1:
                self._denser_due -= 1
                return self._denser.encode(raw)
        kept = Encoded(Codec.RAW, b"", raw)
        codec, size = self._recipe.codec, len(raw)
        if codec == Codec.RAW or size < _ALWAYS_RAW_BELOW:
            return kept
        delta = self._recipe.delta
        if size % self._recipe.item_size:
            codec, delta = Codec.ZSTD, None
        elif delta is not None and delta.row_size >= size:
            codec, delta = Codec.BLOSC, None
        # Incompressible data would cost the whole encoding for nothing. Where the chunk before was worth it, so is this one.
        if size > _TRY_PARTS_ABOVE and self._in_doubt and not self._parts_pay(codec, delta, raw):
            return kept
        payload = self._compressed(codec, raw if delta is None else self._filtered(raw, delta))
        self._in_doubt = len(payload) > KEEP_RAW_ABOVE * size
        if self._in_doubt:
            return kept
        return Encoded(codec, self._parameters if codec in (Codec.DELTA, Codec.PCO) else b"", payload)

    def _compressed(self, codec: Codec, raw: bytes | memoryview) -> bytes:
        recipe = self._recipe
        if codec == Codec.ZSTD:
            return self._zstd.compress(raw)
        if codec == Codec.PCO:
            return pco_frame.compress(memoryview(raw), recipe.number, recipe.level)
        items = np.frombuffer(raw, f"V{recipe.item_size}")
        # Blosc leaves the bits of items as they are if these do not fill bytes.
        shuffle = Shuffle.BYTES if len(items) % 8 else recipe.shuffle
        return blosc_frame.compress(items, recipe.compressor, recipe.level, shuffle)

    def _filtered(self, raw: memoryview, delta: RowDelta) -> memoryview:
        size = len(raw)
        if self._spare.shape[1] < size:
            self._spare = buffers(size)
        return delta.apply(raw, *self._spare).view(np.uint8).data

    def _parts_pay(self, codec: Codec, delta: RowDelta | None, raw: memoryview) -> bool:
        """Whether a few parts of the chunk get smaller, encoded as one."""
        item_size = self._recipe.item_size
        above = 0 if delta is None else delta.row_size
        each = _PART_SIZE - _PART_SIZE % item_size
        room = len(raw) - above - each
        if room < 0:
            return True
        starts = [room * (2 * number + 1) // (2 * _PARTS) // item_size * item_size for number in range(_PARTS)]
        parts: bytes | memoryview = b"".join(raw[above + start : above + start + each] for start in starts)
        size = len(parts)
        if delta is not None:
            # What lies a row above each part, and the parts, are two rows.
            rows = b"".join([*(raw[start : start + each] for start in starts), parts])
            parts = self._filtered(memoryview(rows), delta._replace(row_size=size))[size:]
        return len(self._compressed(codec, parts)) <= KEEP_RAW_ABOVE * size

    def encode_many(self, raws: Sequence[bytes]) -> list[Encoded]:
        """As `encode` of each with zstd, at once: small chunks take half the time, and the GIL is free for all of it."""
        together: list[bytes | bytearray | memoryview] = [
            raw for raw in raws if _ALWAYS_RAW_BELOW <= len(raw) <= _TRY_PARTS_ABOVE
        ]
        if len(together) < 2:
            return [self.encode(memoryview(raw)) for raw in raws]
        frames = iter(self._zstd.multi_compress_to_buffer(together, threads=1))
        encoded: list[Encoded] = []
        for raw in raws:
            if _ALWAYS_RAW_BELOW <= len(raw) <= _TRY_PARTS_ABOVE:
                frame = memoryview(next(frames))  # type: ignore[arg-type]  # a buffer, though its stub does not say so
                kept_raw = len(frame) > KEEP_RAW_ABOVE * len(raw)
                encoded.append(Encoded(Codec.RAW, b"", raw) if kept_raw else Encoded(Codec.ZSTD, b"", frame))
            else:
                encoded.append(self.encode(memoryview(raw)))
        return encoded
