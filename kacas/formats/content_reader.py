"""Content as a seekable file."""

from __future__ import annotations

import errno
import gc
import io
import sys

from kacas.content import Content
from kacas.disk.memory import check_affordable


class ContentReader(io.RawIOBase):
    """Content as a seekable file. Reads only the chunks it needs; those read in part are kept by the store for a while."""

    def __init__(self, content: Content, name: str) -> None:
        self._content = content
        self._at = 0
        self.name = name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self.closed:
            raise ValueError("seek of a closed file")
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._content.size}.get(whence)
        if base is None:
            raise ValueError(f"whence {whence} is not 0, 1 or 2")
        if base + offset < 0:
            raise OSError(errno.EINVAL, "a position before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.closed:
            raise ValueError("read of a closed file")
        out = memoryview(buffer).cast("B")
        count = min(len(out), max(0, self._content.size - self._at))
        if count:  # the position may be behind the end
            self._fill(out[:count])
            self._at += count
        return count

    def _fill(self, out: memoryview) -> None:
        """No garbage is collected while h5py waits for this: it holds its lock, and whoever collects one of its objects waits
        for that lock. In a thread that helps to read, both would wait for ever."""
        paused = gc.isenabled() and _h5py_waits()
        try:
            if paused:
                gc.disable()
            self._content.read_into(self._at, out)
        finally:
            if paused:  # one thread at a time holds the lock, so nobody else has paused it
                gc.enable()

    def readall(self) -> bytes:
        """The rest at once. Raises SizeLimitError before memory is taken."""
        check_affordable(max(0, self._content.size - self._at), self.name)
        return super().readall()


def _h5py_waits() -> bool:
    """Whether it is h5py that reads, in this thread."""
    lock = getattr(sys.modules.get("h5py._objects"), "phil", None)
    return lock is not None and bool(lock._is_owned())
