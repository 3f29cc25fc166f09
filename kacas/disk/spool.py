"""Bytes that are needed once more: a temporary file without a name, in the host-local cache directory.

Whatever ends the process, nothing is left of it: the kernel frees the space of a file that has no name when the last
descriptor of it goes.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from kacas.errors import NoSpaceError, StoreError, WriteError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)  # O_TMPFILE, on systems that lack it
_IOV_MAX = 1024


class Spool:
    """An unnamed file: appended to or written anywhere, read back, gone when it is closed. A context manager.

    Reads and writes of different threads may overlap; appends may not. fd: to map it; `reserve` the space first, as a
    write through a mapping that finds the disk full is SIGBUS. Every failure is a NoSpaceError or a WriteError.
    """

    def __init__(self, directory: Path) -> None:
        """directory: on a local disk; it must be there."""
        self._directory = directory
        self.fd = -1
        self.size = 0  # bytes: the end of what was written or reserved
        try:
            self.fd = _unnamed(directory)
        except OSError as exc:
            raise self._error(exc, "making") from exc

    def reserve(self, size: int) -> None:
        """Make the file `size` bytes long at least, of zeros, and take the space for it now."""
        try:
            if size > 0:
                os.posix_fallocate(self.fd, 0, size)
        except OSError as exc:
            raise self._error(exc, f"reserving {size:,} bytes for") from exc
        self.size = max(self.size, size)

    def append(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Write the parts (of bytes) behind the end; their buffers are free when this returns."""
        for first in range(0, len(parts), _IOV_MAX):
            self._append_some([memoryview(part) for part in parts[first : first + _IOV_MAX]])

    def _append_some(self, parts: list[memoryview]) -> None:
        while parts:
            try:
                written = os.pwritev(self.fd, parts, self.size)
            except OSError as exc:
                raise self._error(exc, "writing") from exc
            self.size += written
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if parts and written:
                parts[0] = parts[0][written:]

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes there, whatever was there before."""
        rest = memoryview(data)
        while rest:
            try:
                written = os.pwrite(self.fd, rest, offset)
            except OSError as exc:
                raise self._error(exc, "writing") from exc
            rest, offset = rest[written:], offset + written
        self.size = max(self.size, offset)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from `offset` on. Returns the number of bytes: fewer than it holds only at the end."""
        filled = 0
        while filled < len(buffer):
            try:
                count = os.preadv(self.fd, [buffer[filled:]], offset + filled)
            except OSError as exc:
                raise self._error(exc, "reading") from exc
            if count == 0:
                break
            filled += count
        return filled

    def close(self) -> None:
        """Give the space back. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # after Ctrl-C at a moment when nobody had noted it

    def _error(self, exc: OSError, doing: str) -> StoreError:
        what = f"{doing} a temporary file in {self._directory} failed: {os.strerror(exc.errno or errno.EIO)}"
        if exc.errno in _NO_SPACE:
            return NoSpaceError(
                f"{what}; free space there, or set KACAS_CACHE_DIR to a larger local disk. The store is intact",
                path=str(self._directory),
            )
        return WriteError(f"{what}; nothing was published. Check the disk, then try again", path=str(self._directory))


def _unnamed(directory: Path) -> int:
    if hasattr(os, "O_TMPFILE"):
        try:
            return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            if exc.errno not in _NO_UNNAMED:
                raise
    path = directory / f".spool.{os.getpid()}.{secrets.token_hex(8)}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(path)
    except BaseException:
        os.close(fd)
        raise
    return fd
