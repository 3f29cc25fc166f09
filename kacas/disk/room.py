"""Room for what is needed for a moment: in memory, or, if it is too large for that, in a file on the host's own disk."""

from __future__ import annotations

import mmap
from pathlib import Path

from kacas.disk.spool import Spool


def room_for(size: int, cache: Path, most: int) -> memoryview:
    """So many bytes to write and read: of memory up to `most`, else of a mapped file below `cache`, of which nothing is left.

    The space of the file is taken at once: a full disk is a NoSpaceError here, and no SIGBUS later.
    """
    if size <= most:
        return memoryview(bytearray(size))
    with Spool(cache) as spool:
        spool.reserve(size)
        return memoryview(mmap.mmap(spool.fd, size))  # which keeps the file as long as it is needed
