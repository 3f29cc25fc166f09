"""pcodec: numbers as entropy-coded offsets in bins, the smallest of all here and the slowest. An optional package."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE = "pcodec"
_NUMBERS = frozenset(f"<{kind}{size}" for kind in "iuf" for size in (2, 4, 8))


class PcodecMissingError(Exception):
    """The package is not installed."""


def is_number(number: str) -> bool:
    """Whether pcodec encodes such items: "<i2", "<f4"..., as NumPy writes them."""
    return number in _NUMBERS


def is_installed() -> bool:
    """Whether the package is."""
    try:
        _pcodec()
    except PcodecMissingError:
        return False
    return True


def compress(raw: memoryview, number: str, level: int) -> bytes:
    """A standalone pcodec file of the numbers. Raises PcodecMissingError."""
    pcodec = _pcodec()
    frame: bytes = pcodec.standalone.simple_compress(_aligned(raw, number), pcodec.ChunkConfig(compression_level=level))
    return frame


def decompress_into(frame: memoryview, number: str, out: memoryview) -> None:
    """Fill `out` with the numbers of the file, which must be so many. Raises ValueError, PcodecMissingError.

    The library writes into what it is given and takes little memory beside it, whatever the file declares.
    """
    pcodec = _pcodec()
    if not is_number(number) or len(out) % int(number[2]):
        raise ValueError(f"{len(out)} bytes are no numbers {number!r} that pcodec knows")
    numbers = _aligned(out, number)
    try:
        done = pcodec.standalone.simple_decompress_into(bytes(frame), numbers)
    except (RuntimeError, TypeError) as exc:
        raise ValueError(str(exc)) from exc
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":  # a bug in Rust, which no class of Python's catches
            raise
        raise ValueError(f"pcodec: {exc}") from exc
    if done.n_processed != len(numbers) or not done.finished:
        raise ValueError(f"the pcodec file does not hold exactly {len(numbers)} numbers")
    if numbers.base is None:
        out[:] = numbers.data.cast("B")


def _aligned(buffer: memoryview, number: str) -> NDArray[Any]:
    """The buffer as numbers; a copy if it is not where pcodec takes them."""
    numbers = np.frombuffer(buffer, number)
    return numbers if numbers.flags.aligned else numbers.copy()


def _pcodec() -> ModuleType:
    try:
        import pcodec
    except ImportError as exc:
        raise PcodecMissingError from exc
    return pcodec  # type: ignore[no-any-return]
