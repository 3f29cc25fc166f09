"""Where content comes from: anything that fills a buffer, front to back."""

from __future__ import annotations

from typing import Protocol


class Source(Protocol):
    """Content to be stored. It is read once, in order, into the caller's buffers.

    The bytes in the buffer are the only ones that are hashed and kept, so content that changes
    under the reader can be torn, but never gets another content's identity.
    """

    @property
    def size(self) -> int | None:
        """Bytes to come, or None if it is not known before the end. A hint for progress and memory only."""
        ...

    def readinto(self, buffer: memoryview) -> int:
        """Fill the front of `buffer`; return the number of bytes, 0 only at the end."""
        ...

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if what was read is not one state of the source."""
        ...


class BufferSource:
    """Bytes in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self._at = 0

    @property
    def size(self) -> int:
        return len(self._data)

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._data) - self._at)
        buffer[:count] = self._data[self._at : self._at + count]
        self._at += count
        return count

    def check_unchanged(self) -> None:
        """A buffer was read into ours once; there is nothing to compare."""
