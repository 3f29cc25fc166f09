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
_PLANE = 64 * 1024  # bytes of a block for each byte of an item: zstd takes a third less time than as Blosc chooses


class Shuffle(IntEnum):
    BYTES = 1
    BITS = 2


def compress(items: NDArray[Any], compressor: str, level: int, shuffle: Shuffle) -> bytes:
    """A frame of the items' bytes."""
    with _OneThread():
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
        with _OneThread():
            blosc.decompress(frame, np.frombuffer(out, np.uint8))
    except RuntimeError as exc:
        raise ValueError(str(exc)) from exc


class _OneThread:
    """Our threads each work on a chunk of their own; Blosc's would wait for one another, and do not survive a fork.

    numcodecs lets Blosc use its threads in the main thread, unless its setting says otherwise; whoever else is in this process
    may rely on that, so it is set for our calls alone. Another thread that sees it meanwhile gets the same bytes.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = blosc.use_threads
        blosc.use_threads = False

    def __exit__(self, *_: object) -> None:
        blosc.use_threads = self._before
