"""A blob store that writes down what is read of packs, for all processes that share its log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.layout import PACKS
from tests.remote.counting import CountingBlobs


class LoggedBlobs(CountingBlobs):
    """Writes what is read of packs into a file, which outlives the process."""

    def __init__(self, inner: DirectoryBlobs, log: Path) -> None:
        super().__init__(inner)
        self._log = log

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        found = super().get_ranges(key, ranges)
        if key.startswith(PACKS):
            with open(self._log, "a") as log:
                log.write(
                    "".join(
                        f"{key} {start} {start + len(data)}\n" for (start, _), data in zip(ranges, found, strict=True)
                    )
                )
        return found


def downloaded(log: Path) -> int:
    """Bytes of packs."""
    spans = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return sum(int(stop) - int(start) for _, start, stop in spans)
