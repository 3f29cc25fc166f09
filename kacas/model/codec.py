"""Codecs: how a chunk becomes a payload. zstd, or raw where that does not pay."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import zstandard

MIB = 1 << 20
MAX_CHUNK_SIZE = 16 * MIB  # raw bytes; no payload may declare more
# An encoded payload never exceeds its raw size (raw is the fallback), so this bounds it too.
MAX_PAYLOAD_SIZE = MAX_CHUNK_SIZE

_LEVEL = 1
_KEEP_RAW_ABOVE = 0.97  # saving less than 3 % is not worth the decoding
_ALWAYS_RAW_BELOW = 16  # bytes
_SAMPLE_ABOVE = 64 * 1024  # chunks larger than this are sampled before they are encoded whole
_SAMPLE_SIZE = 16 * 1024


class Codec(IntEnum):
    """Recorded per payload; the numbers are the format's."""

    RAW = 0
    ZSTD = 1


class DecodeError(ValueError):
    """A payload that is not what its header says. Translated by the reader, which knows the pack."""


class UnknownCodecError(DecodeError):
    """The codec's number is none that this version knows."""


class Encoder:
    """Encodes chunks. Not thread-safe: one for each thread."""

    def __init__(self) -> None:
        # The content size in the frame is what lets the decoder refuse a bomb before it takes memory.
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True, write_checksum=False)

    def encode(self, raw: memoryview) -> tuple[Codec, memoryview | bytes]:
        """Return (codec, payload). The payload of RAW is `raw` itself, not a copy."""
        size = len(raw)
        if size > _SAMPLE_ABOVE:
            # Incompressible data would cost the whole encoding for nothing: look at the middle first.
            middle = (size - _SAMPLE_SIZE) // 2
            sample = self._zstd.compress(raw[middle : middle + _SAMPLE_SIZE])
            if len(sample) > _KEEP_RAW_ABOVE * _SAMPLE_SIZE:
                return Codec.RAW, raw
        elif size < _ALWAYS_RAW_BELOW:
            return Codec.RAW, raw
        payload = self._zstd.compress(raw)
        if len(payload) > _KEEP_RAW_ABOVE * size:
            return Codec.RAW, raw
        return Codec.ZSTD, payload

    def encode_many(self, raws: Sequence[bytes]) -> list[tuple[Codec, memoryview | bytes]]:
        """As `encode` of each, at once: small chunks take half the time, and the GIL is free for all of it."""
        together: list[bytes | bytearray | memoryview] = [
            raw for raw in raws if _ALWAYS_RAW_BELOW <= len(raw) <= _SAMPLE_ABOVE
        ]
        if len(together) < 2:
            return [self.encode(memoryview(raw)) for raw in raws]
        frames = iter(self._zstd.multi_compress_to_buffer(together, threads=1))
        encoded: list[tuple[Codec, memoryview | bytes]] = []
        for raw in raws:
            if _ALWAYS_RAW_BELOW <= len(raw) <= _SAMPLE_ABOVE:
                frame = memoryview(next(frames))  # type: ignore[arg-type]  # a buffer, though its stub does not say so
                kept_raw = len(frame) > _KEEP_RAW_ABOVE * len(raw)
                encoded.append((Codec.RAW, raw) if kept_raw else (Codec.ZSTD, frame))
            else:
                encoded.append(self.encode(memoryview(raw)))
        return encoded


class Decoder:
    """Decodes payloads. Not thread-safe: one for each thread."""

    def __init__(self) -> None:
        # No frame that we write has a window above its chunk; a larger one is refused before it is taken.
        self._zstd = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK_SIZE)

    def decode(self, codec: int, payload: memoryview, size: int) -> bytes:
        """The raw bytes of a small payload, as new bytes of exactly the declared size; raises DecodeError."""
        if codec == Codec.RAW:
            _check_raw(payload, size)
            return bytes(payload)
        if codec != Codec.ZSTD:
            raise UnknownCodecError(f"codec {codec} is unknown to this version of kacas")
        try:
            _check_declared(payload, size)
            return self._zstd.decompress(payload, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as exc:
            raise DecodeError(f"zstd: {exc}") from exc

    def decode_into(self, codec: int, payload: memoryview, out: memoryview) -> None:
        """Fill `out` (exactly the declared raw size) from the payload; raises DecodeError."""
        size = len(out)
        if codec == Codec.RAW:
            _check_raw(payload, size)
            out[:] = payload
            return
        if codec != Codec.ZSTD:
            raise UnknownCodecError(f"codec {codec} is unknown to this version of kacas")
        try:
            _check_declared(payload, size)
            with self._zstd.stream_reader(payload) as reader:
                filled = 0
                while filled < size:
                    count = reader.readinto(out[filled:])
                    if count == 0:
                        raise DecodeError(f"the zstd frame ends after {filled} of {size} bytes")
                    filled += count
                if reader.read(1):
                    raise DecodeError(f"the zstd frame holds more than the declared {size} bytes")
        except zstandard.ZstdError as exc:
            raise DecodeError(f"zstd: {exc}") from exc


def _check_raw(payload: memoryview, size: int) -> None:
    if len(payload) != size:
        raise DecodeError(f"a raw payload of {len(payload)} bytes declares {size}")


def _check_declared(payload: memoryview, size: int) -> None:
    """Before memory is taken. Raises DecodeError or ZstdError."""
    declared = zstandard.get_frame_parameters(payload).content_size
    if declared != size:
        raise DecodeError(f"the zstd frame declares {declared} bytes, its header {size}")
