"""Desks: what a thread that reads works with."""

from __future__ import annotations

import threading

from kacas.model.codec import MIB, Decoder


class Desk(threading.local):
    """A decoder and buffers, which are used again: fresh pages would cost more than the copy."""

    def __init__(self) -> None:
        self.decoder = Decoder()
        self._encoded, self._raw = memoryview(bytearray(MIB)), memoryview(b"")

    def encoded(self, size: int) -> memoryview:
        """A buffer for what is read from a pack."""
        if len(self._encoded) < size:
            self._encoded = memoryview(bytearray(size))
        return self._encoded[:size]

    def raw(self, size: int) -> memoryview:
        """A buffer for one decoded chunk."""
        if len(self._raw) < size:
            self._raw = memoryview(bytearray(size))
        return self._raw[:size]
