"""What the file system of the store takes for the steps of publishing, one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

from kacas.disk.durable import sync_directory
from kacas.upkeep.profile.figures import Figure
from kacas.upkeep.profile.stopwatch import latencies, percentile

_MOST, _BUDGET_S, _QUICK_S = 200, 0.4, 0.05
_APPENDED = bytes(4096)


def file_system_latencies(directory: Path, *, quick: bool) -> tuple[list[Figure], list[str]]:
    """Median and 95th percentile of fsync, link, rename and directory fsync; notes on what cannot be done there."""
    budget_s = _QUICK_S if quick else _BUDGET_S
    directory.mkdir()
    sync_directory(directory)
    numbers = count()
    notes: list[str] = []
    path = directory / "file"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def append_and_sync() -> None:
        os.write(fd, _APPENDED)
        os.fsync(fd)

    def rename() -> None:
        nonlocal path
        other = directory / f"renamed{next(numbers)}"
        os.rename(path, other)
        path = other

    def link_and_sync() -> None:
        os.link(path, directory / f"synced{next(numbers)}")
        sync_directory(directory)

    def make_and_sync() -> None:
        os.close(os.open(directory / f"made{next(numbers)}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_directory(directory)

    steps: list[tuple[str, str, Callable[[], object]]] = [
        ("fsync", "fsync of 4 KiB appended", append_and_sync),
        ("link", "link", lambda: os.link(path, directory / f"linked{next(numbers)}")),
        ("rename", "rename", rename),
        ("directory_fsync", "link and fsync of the directory", link_and_sync),
    ]
    figures: list[Figure] = []
    try:
        for key, title, step in steps:
            try:
                spent = latencies(step, _MOST, budget_s)
            except OSError as exc:
                if not key.endswith(("link", "directory_fsync")):
                    raise
                notes.append(f"no hard links here ({os.strerror(exc.errno or 0)}): packs are published by renaming")
                if key == "link":
                    continue
                spent, title = latencies(make_and_sync, _MOST, budget_s), "creating a file and fsync of the directory"
            figures.append(Figure(f"{key}.median", f"{title}, median", percentile(spent, 0.5), "s", "lower"))
            figures.append(Figure(f"{key}.p95", f"{title}, 95 % below", percentile(spent, 0.95), "s", "lower"))
    finally:
        os.close(fd)
    return figures, list(dict.fromkeys(notes))
