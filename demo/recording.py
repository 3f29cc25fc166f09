"""A recording that is worth a look: a slow wave, noise, and neurons that fire along 128 channels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHANNELS = 128
RATE = 30_000  # rows per second
BLOCK_ROWS = RATE
NEURONS = 40

Recording = NDArray[np.int16]


def make_recording(seconds: float, seed: int = 0) -> Recording:
    """int16, shape (rows, 128); 7.3 MiB a second. The same seed gives the same recording."""
    rng = np.random.default_rng(seed)
    recording = np.empty((int(seconds * RATE), CHANNELS), dtype=np.int16)
    phase = np.linspace(0, np.pi, CHANNELS, dtype=np.float32)
    for start in range(0, len(recording), BLOCK_ROWS):
        block = recording[start : start + BLOCK_ROWS]
        white = rng.standard_normal(block.shape, dtype=np.float32)
        voltage = 22 * (white + np.roll(white, 1, axis=0) + np.roll(white, 2, axis=0))
        time_s = ((start + np.arange(len(block))) / RATE).astype(np.float32)[:, None]
        voltage += 60 * np.sin(2 * np.pi * 7 * time_s + phase)
        block[:] = np.rint(voltage)
    _add_spikes(recording, rng)
    return recording


def _add_spikes(recording: Recording, rng: np.random.Generator) -> None:
    """Each neuron fires at its own rate, largest on one channel and weaker on the seven at each side."""
    step = np.arange(45, dtype=np.float32)
    shape = -np.exp(-(((step - 10) / 3.5) ** 2)) + 0.45 * np.exp(-(((step - 22) / 8) ** 2))
    spread = np.exp(-((np.arange(-7, 8) / 2.6) ** 2))
    for _ in range(NEURONS):
        channel = int(rng.integers(7, CHANNELS - 7))
        waveform = np.rint(rng.uniform(300, 900) * shape[:, None] * spread).astype(np.int16)
        count = int(rng.uniform(3, 25) * len(recording) / RATE)
        for start in rng.integers(0, len(recording) - len(shape), count):
            recording[start : start + len(shape), channel - 7 : channel + 8] += waveform
