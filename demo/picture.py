"""The picture of the slice that the demo loads."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from recording import RATE, Recording


def draw_slice(piece: Recording, start_row: int, uri: str, path: Path) -> None:
    """All channels as an image, a dozen of them as traces. path: where the PNG goes."""
    start_ms = start_row / RATE * 1000
    stop_ms = start_ms + len(piece) / RATE * 1000
    figure, (image_axes, trace_axes) = plt.subplots(
        2, 1, figsize=(11, 8), sharex=True, height_ratios=[3, 2], layout="constrained"
    )
    image = image_axes.imshow(
        piece.T,
        aspect="auto",
        origin="lower",
        cmap="RdBu_r",
        vmin=-400,
        vmax=400,
        extent=(start_ms, stop_ms, 0, piece.shape[1]),
        interpolation="nearest",
    )
    image_axes.set(ylabel="channel", title=f"rows {start_row:,} to {start_row + len(piece):,} of\n{uri}")
    figure.colorbar(image, ax=image_axes, label="int16 steps", pad=0.01)
    time_ms = np.linspace(start_ms, stop_ms, len(piece), endpoint=False)
    channels = np.linspace(4, piece.shape[1] - 4, 12).astype(int)
    for row, channel in enumerate(channels):
        trace_axes.plot(time_ms, piece[:, channel] / 500 + row, lw=0.6, color="#1f3b57")
    trace_axes.set(xlabel="time, ms", ylabel="channel", yticks=range(12), yticklabels=[str(c) for c in channels])
    trace_axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
