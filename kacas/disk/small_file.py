"""A small file as a whole: settings, keys, records of others. It may be anything, a pipe or a terabyte."""

from __future__ import annotations

import os
import stat

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def read_small(path: str, most: int) -> bytes:
    """Raises OSError, and ValueError for what is no regular file or larger."""
    fd = os.open(path, _OPEN)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is not a regular file")
        data = b""
        while len(data) <= most and (more := os.read(fd, most + 1 - len(data))):
            data += more
    finally:
        os.close(fd)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data
