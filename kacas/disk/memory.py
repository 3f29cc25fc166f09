"""How much memory this host can still give: asked before a declared size is believed."""

from __future__ import annotations

import os

from kacas.errors import SizeLimitError

_ALWAYS_AFFORDABLE = 16 << 20


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, or None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux: fall back to the size of the memory
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def check_affordable(size: int, what: str) -> None:
    """Raise SizeLimitError if `size` bytes are more than there are; call it before allocating."""
    if size < _ALWAYS_AFFORDABLE:
        return  # asking costs 20 µs, as much as a small slice
    available = available_memory()
    if available is not None and size > available:
        raise SizeLimitError(
            f"{what} has {size} bytes, {available} are free in memory; read it in parts with open_file, open_npy or a range"
        )
