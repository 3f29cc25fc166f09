"""Blosc frames: shuffled bytes or bits of items, compressed with LZ4 or zstd, as c-blosc 1 writes them."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

_HEADER = struct.Struct("<BBBBIII")  # version, version of the compressor, flags, item size, raw, block and frame size
_VERSION = 2
_PLANE = (
    64 * 1024
)  # bytes of each byte of the items in a block: zstd takes a third less time than with Blosc's own choice

# Our threads each work on a chunk of their own. Blosc's threads would wait for one another, and take the main thread's
# calls only. The setting is the process's, and numcodecs asks programs that have threads for it.
blosc.use_threads = False


class Shuffle(IntEnum):
    BYTES = 1
    BITS = 2


def compress(items: NDArray[Any], compressor: str, level: int, shuffle: Shuffle) -> bytes:
    """A frame of the items' bytes."""
    frame: bytes = blosc.compress(items, compressor.encode(), level, int(shuffle), _PLANE * items.itemsize)
    return frame


def decompress_into(frame: memoryview, out: memoryview) -> None:
    """Fill `out` with the content of the frame, which must have exactly that size. Raises ValueError."""
    if len(frame) < _HEADER.size:
        raise ValueError(f"a Blosc frame of {len(frame)} bytes")
    version, _, _, _, raw_size, _, frame_size = _HEADER.unpack_from(frame)
    if version != _VERSION:
        raise ValueError(f"a Blosc frame of version {version}")
    # The library goes by what the frame says of itself: that is compared first.
    if frame_size != len(frame) or raw_size != len(out):
        raise ValueError(
            f"the Blosc frame declares {frame_size} bytes for {raw_size}, there are {len(frame)} for {len(out)}"
        )
    if not raw_size:
        return
    try:
        blosc.decompress(frame, np.frombuffer(out, np.uint8))
    except RuntimeError as exc:
        raise ValueError(str(exc)) from exc
