"""Encoders: how a chunk becomes a payload, by the recipe that suits the data, or raw where that does not pay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import zstandard

from kacas.model.blosc_frame import Shuffle, compress
from kacas.model.codec import Codec
from kacas.model.row_delta import RowDelta

_KEEP_RAW_ABOVE = 0.97  # saving less than 3 % is not worth the decoding
_ALWAYS_RAW_BELOW = 16  # bytes
_SAMPLE_ABOVE = 64 * 1024  # chunks larger than this are sampled before they are encoded whole
_SAMPLE_SIZE = 16 * 1024


class Recipe(NamedTuple):
    """What is done to chunks of one content. item_size, shuffle: for Blosc. delta: before it."""

    codec: Codec
    compressor: str = "zstd"
    level: int = 1
    item_size: int = 1
    shuffle: Shuffle = Shuffle.BITS
    delta: RowDelta | None = None

    def __str__(self) -> str:
        if self.codec == Codec.RAW:
            return "raw"
        parts = [f"{self.compressor} {self.level}"]
        if self.codec != Codec.ZSTD:
            parts.insert(0, "bit shuffle" if self.shuffle == Shuffle.BITS else "byte shuffle")
        if self.delta:
            parts.insert(0, "row delta")
        return " + ".join(parts)


RAW = Recipe(Codec.RAW)
ZSTD = Recipe(Codec.ZSTD)


class Encoded(NamedTuple):
    """A payload. That of RAW is the chunk itself, not a copy."""

    codec: Codec
    parameters: bytes
    payload: bytes | memoryview


class Encoder:
    """Encodes chunks. Not thread-safe: one for each thread."""

    def __init__(self, recipe: Recipe = ZSTD) -> None:
        self._recipe = recipe
        self._parameters = recipe.delta.encode() if recipe.delta else b""
        # The content size in the frame is what lets the decoder refuse a bomb before it takes memory.
        level = recipe.level if recipe.codec == Codec.ZSTD else 1
        self._zstd = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
        self._spare = np.empty(0, np.uint8)

    def encode(self, raw: memoryview) -> Encoded:
        """The payload of a chunk."""
        size = len(raw)
        if self._recipe.codec == Codec.RAW or size < _ALWAYS_RAW_BELOW:
            return Encoded(Codec.RAW, b"", raw)
        if self._recipe.codec != Codec.ZSTD and size % self._recipe.item_size == 0:
            encoded = self._encode_items(raw)
        elif size > _SAMPLE_ABOVE and not self._pays(raw):
            return Encoded(Codec.RAW, b"", raw)
        else:
            encoded = Encoded(Codec.ZSTD, b"", self._zstd.compress(raw))
        return Encoded(Codec.RAW, b"", raw) if len(encoded.payload) > _KEEP_RAW_ABOVE * size else encoded

    def _pays(self, raw: memoryview) -> bool:
        """Incompressible data would cost the whole encoding for nothing: look at the middle first."""
        middle = (len(raw) - _SAMPLE_SIZE) // 2
        sample = self._zstd.compress(raw[middle : middle + _SAMPLE_SIZE])
        return len(sample) <= _KEEP_RAW_ABOVE * _SAMPLE_SIZE

    def _encode_items(self, raw: memoryview) -> Encoded:
        recipe, size = self._recipe, len(raw)
        if recipe.delta is None or recipe.delta.row_size >= size:
            items = np.frombuffer(raw, f"V{recipe.item_size}")
            return Encoded(Codec.BLOSC, b"", compress(items, recipe.compressor, recipe.level, recipe.shuffle))
        if len(self._spare) < 2 * size:
            self._spare = np.empty(2 * size, np.uint8)
        filtered = recipe.delta.apply(raw, self._spare[:size], self._spare[size:])
        frame = compress(filtered, recipe.compressor, recipe.level, recipe.shuffle)
        return Encoded(Codec.DELTA, self._parameters, frame)

    def encode_many(self, raws: Sequence[bytes]) -> list[Encoded]:
        """As `encode` of each with zstd, at once: small chunks take half the time, and the GIL is free for all of it."""
        together: list[bytes | bytearray | memoryview] = [
            raw for raw in raws if _ALWAYS_RAW_BELOW <= len(raw) <= _SAMPLE_ABOVE
        ]
        if len(together) < 2:
            return [self.encode(memoryview(raw)) for raw in raws]
        frames = iter(self._zstd.multi_compress_to_buffer(together, threads=1))
        encoded: list[Encoded] = []
        for raw in raws:
            if _ALWAYS_RAW_BELOW <= len(raw) <= _SAMPLE_ABOVE:
                frame = memoryview(next(frames))  # type: ignore[arg-type]  # a buffer, though its stub does not say so
                kept_raw = len(frame) > _KEEP_RAW_ABOVE * len(raw)
                encoded.append(Encoded(Codec.RAW, b"", raw) if kept_raw else Encoded(Codec.ZSTD, b"", frame))
            else:
                encoded.append(self.encode(memoryview(raw)))
        return encoded
