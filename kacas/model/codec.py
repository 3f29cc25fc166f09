"""Codecs: how a payload becomes a chunk again, whatever it was encoded with."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import zstandard
from numpy.typing import NDArray

from kacas.model import pco_frame
from kacas.model.blosc_frame import decompress_into
from kacas.model.row_delta import MARGIN, buffers, decode_row_delta

if TYPE_CHECKING:
    from kacas.model.digest import Buffer

MIB = 1 << 20
MAX_CHUNK_SIZE = 16 * MIB  # raw bytes; no payload may declare more
# An encoded payload never exceeds its raw size (raw is the fallback), so this bounds it too.
MAX_PAYLOAD_SIZE = MAX_CHUNK_SIZE


class Codec(IntEnum):
    """Recorded per payload; the numbers are the format's."""

    RAW = 0
    ZSTD = 1
    BLOSC = 2  # a Blosc frame; no parameters
    DELTA = 3  # a Blosc frame of what a row delta made of the bytes; its parameters are the row delta's
    PCO = 4  # a standalone pcodec file; its parameter is the kind of number


_ZSTD = int(Codec.ZSTD)  # comparing with a member of an enumeration takes twice as long
_NAMES = {Codec.DELTA: "row delta", Codec.BLOSC: "Blosc", Codec.PCO: "pcodec"}


def codec_name(codec: int) -> str:
    """For people; one that is unknown has its number for a name."""
    if codec not in Codec._value2member_map_:
        return f"codec {codec}"
    return _NAMES.get(Codec(codec), Codec(codec).name.lower())


class DecodeError(ValueError):
    """A payload that is not what its header says. Translated by the reader, which knows the pack."""


class UnknownCodecError(DecodeError):
    """The codec's number is none that this version knows."""


class MissingCodecError(DecodeError):
    """The codec is known, and the package that decodes it is not installed. `package` names it."""

    def __init__(self, package: str) -> None:
        super().__init__(f"it is encoded with {package}, which is not installed; pip install {package}")
        self.package = package


class Decoder:
    """Decodes payloads. Not thread-safe: one for each thread."""

    def __init__(self) -> None:
        # No frame that we write has a window above its chunk; a larger one is refused before it is taken.
        self._zstd = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK_SIZE)
        self._spare = buffers(0)

    def decode(self, codec: int, parameters: bytes, payload: memoryview, size: int) -> bytes:
        """The raw bytes of a small payload, as new bytes of exactly the declared size; raises DecodeError."""
        if codec == Codec.RAW:
            _check_raw(payload, size)
            return bytes(payload)
        if codec == Codec.ZSTD:
            try:
                _check_declared(payload, size)
                return self._zstd.decompress(payload, max_output_size=size, allow_extra_data=False)
            except zstandard.ZstdError as exc:
                raise DecodeError(f"zstd: {exc}") from exc
        out = bytearray(size)
        self.decode_into(codec, parameters, payload, memoryview(out))
        return bytes(out)

    def decode_many(self, payloads: Sequence[tuple[int, bytes, memoryview, int]]) -> list[Buffer | None]:
        """As `decode` of each, None for one that is not what its header says.

        Those of zstd are decoded at once, with the GIL free for all of it.
        """
        # Those of no bytes alone: at such a first frame, zstandard 0.25 writes behind its memory.
        together = [(payload, size) for codec, _, payload, size in payloads if codec == _ZSTD and size]
        if len(together) < 2:
            return [self._decoded(*payload) for payload in payloads]
        try:
            for payload, size in together:
                _check_declared(payload, size)
            sizes = struct.pack(f"={len(together)}Q", *(size for _, size in together))
            buffers: list[bytes | bytearray | memoryview] = [payload for payload, _ in together]
            frames = iter(self._zstd.multi_decompress_to_buffer(buffers, decompressed_sizes=sizes, threads=1))
        except (DecodeError, zstandard.ZstdError):
            return [self._decoded(*payload) for payload in payloads]  # all but the bad ones
        return [
            memoryview(next(frames)) if payload[0] == _ZSTD and payload[3] else self._decoded(*payload)  # type: ignore[arg-type]
            for payload in payloads
        ]

    def _decoded(self, codec: int, parameters: bytes, payload: memoryview, size: int) -> bytes | None:
        try:
            return self.decode(codec, parameters, payload, size)
        except DecodeError:
            return None

    def decode_into(self, codec: int, parameters: bytes, payload: memoryview, out: memoryview) -> None:
        """Fill `out` (exactly the declared raw size) from the payload; raises DecodeError."""
        if codec == Codec.RAW:
            _check_raw(payload, len(out))
            # np.copyto releases the GIL, the slice assignment of memoryviews does not.
            np.copyto(np.frombuffer(out, np.uint8), np.frombuffer(payload, np.uint8))
        elif codec == Codec.ZSTD:
            self._decode_zstd(payload, out)
        elif codec == Codec.BLOSC:
            try:
                decompress_into(payload, out)
            except ValueError as exc:
                raise DecodeError(str(exc)) from exc
        elif codec == Codec.DELTA:
            self._decode_delta(parameters, payload, out)
        elif codec == Codec.PCO:
            _decode_pco(parameters, payload, out)
        else:
            raise UnknownCodecError(f"codec {codec} is unknown to this version of kacas")

    def _decode_zstd(self, payload: memoryview, out: memoryview) -> None:
        size = len(out)
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

    def _decode_delta(self, parameters: bytes, payload: memoryview, out: memoryview) -> None:
        try:
            delta = decode_row_delta(parameters, len(out))
            filtered, spare = self._take_spare(MARGIN + len(out))
            decompress_into(payload, filtered[MARGIN:].data)
        except ValueError as exc:
            raise DecodeError(str(exc)) from exc
        delta.undo(filtered, out, spare)

    def _take_spare(self, size: int) -> NDArray[np.uint8]:
        """Two reused buffers: fresh pages would cost more than the decoding."""
        if self._spare.shape[1] < size:
            self._spare = buffers(size)
        return self._spare[:, :size]


def _decode_pco(parameters: bytes, payload: memoryview, out: memoryview) -> None:
    try:
        pco_frame.decompress_into(payload, parameters.decode("ascii"), out)
    except pco_frame.PcodecMissingError as exc:
        raise MissingCodecError(pco_frame.PACKAGE) from exc
    except ValueError as exc:
        raise DecodeError(str(exc)) from exc


def _check_raw(payload: memoryview, size: int) -> None:
    if len(payload) != size:
        raise DecodeError(f"a raw payload of {len(payload)} bytes declares {size}")


def _check_declared(payload: memoryview, size: int) -> None:
    """Before memory is taken. Raises DecodeError or ZstdError."""
    declared = zstandard.get_frame_parameters(payload).content_size
    if declared != size:
        raise DecodeError(f"the zstd frame declares {declared} bytes, its header {size}")
