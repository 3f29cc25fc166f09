"""An array like a recording of many channels, the same bytes on every machine: integers only, no libm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHANNELS = 128
_ROWS = 16_384  # made at once: 4 MiB
_SPIKES = 500  # in so many rows
# An extracellular spike at 30,000 rows a second, in steps of the converter.
_SPIKE = np.array([-20, -70, -150, -190, -130, -50, 20, 60, 75, 70, 55, 40, 28, 18, 10, 5], np.int16)


def recording(size: int) -> NDArray[np.int16]:
    """int16, so many rows of 128 channels as fit into `size` bytes: band-limited noise and spikes on neighbouring channels."""
    rows = max(1, size // (2 * CHANNELS))
    array = np.empty((rows, CHANNELS), np.int16)
    for number, start in enumerate(range(0, rows, _ROWS)):
        block = _block(number)
        array[start : start + _ROWS] = block[: rows - start]
    return array


def _block(number: int) -> NDArray[np.int16]:
    rng = np.random.default_rng([7, number])
    # The sum of four bytes is nearly normal: deviation 148.
    parts = np.frombuffer(rng.bytes(4 * _ROWS * CHANNELS), np.uint8).reshape(4, _ROWS, CHANNELS)
    white = parts[0].astype(np.int16)
    for part in parts[1:]:
        white += part
    white -= 510
    voltage: NDArray[np.int16] = white.copy()  # a low-pass of three taps
    voltage[1:] += white[:-1]
    voltage[2:] += white[:-2]
    voltage //= 6  # deviation 39
    places = rng.integers(0, _ROWS - len(_SPIKE), _SPIKES)
    channels = rng.integers(1, CHANNELS - 1, _SPIKES)
    heights = rng.integers(8, 48, _SPIKES)
    for place, channel, height in zip(places.tolist(), channels.tolist(), heights.tolist(), strict=True):
        spike = (_SPIKE.astype(np.int32) * height // 16).astype(np.int16)
        voltage[place : place + len(_SPIKE), channel] += spike
        voltage[place : place + len(_SPIKE), channel - 1 : channel + 2 : 2] += (spike // 3)[:, None]
    return voltage
