"""Segments: a sealed object is a row of them, each opened by itself, so that a range is read without the rest.

salt (16) + XChaCha20-Poly1305 ciphertext of at most 65,536 bytes + tag (16); no header, and no bytes between them
"""

from __future__ import annotations

import struct

from blake3 import blake3

from kacas_remote.sealing.aead import TAG_SIZE, Buffer, decrypt, encrypt
from kacas_remote.sealing.epoch_keys import EpochKeys

SEGMENT_SIZE = 65_536
"""Plain bytes of each but the last, which has what is left; that of an empty blob has none."""
SALT_SIZE = 16
SEALED_SEGMENT_SIZE = SALT_SIZE + SEGMENT_SIZE + TAG_SIZE
_ADDED = SALT_SIZE + TAG_SIZE
_INDEX = struct.Struct("<Q")
_LAST = 1 << 63

Data = bytes | bytearray | memoryview


class SealBrokenError(ValueError):
    """It does not open with this key, at this place: altered, cut short, or not what was sealed for it."""


def content_key(epoch: EpochKeys, blob_key: str) -> bytes:
    """Of the blob with this (plain) key: what is sealed for one does not open as another."""
    return blake3(blob_key.encode("ascii"), key=epoch.content).digest()


def sealed_size(size: int) -> int:
    """Bytes of the object that `size` plain bytes become."""
    return size + _ADDED * max(1, -(-size // SEGMENT_SIZE))


def opened_size(size: int) -> int:
    """The inverse of `sealed_size`; of what no object has, what can be in it at most: opening it tells."""
    whole, rest = divmod(size, SEALED_SEGMENT_SIZE)
    return whole * SEGMENT_SIZE + max(0, rest - _ADDED)


def whole_segments(start: int, stop: int) -> tuple[int, int]:
    """The plain range start:stop, rounded out to whole segments; empty if it is."""
    if start >= stop:
        return start, start
    return start // SEGMENT_SIZE * SEGMENT_SIZE, -(-stop // SEGMENT_SIZE) * SEGMENT_SIZE


def sealed_place(at: int) -> int:
    """Where the segment begins that begins at this plain byte."""
    return at // SEGMENT_SIZE * SEALED_SEGMENT_SIZE


class Sealer:
    """Seals one object, from its beginning to its end. key: see `content_key`. salt: 16 random bytes, of this object alone."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        assert len(salt) == SALT_SIZE
        self._key, self._salt = key, salt
        self._index = 0

    def seal(self, data: Data, out: memoryview, *, last: bool = True) -> int:
        """Put the segments of `data` into `out`; how many bytes they take. Whole ones, unless the last is among them."""
        plain = memoryview(data).cast("B")
        assert last or not len(plain) % SEGMENT_SIZE
        at = 0
        with Buffer(plain) as source, Buffer(out) as target:
            for start in range(0, len(plain) or last, SEGMENT_SIZE):
                size = min(SEGMENT_SIZE, len(plain) - start)
                index = self._index | (_LAST if last and start + size == len(plain) else 0)
                out[at : at + SALT_SIZE] = self._salt
                encrypt(source, start, size, target, at + SALT_SIZE, self._salt + _INDEX.pack(index), self._key)
                at += size + _ADDED
                self._index += 1
        return at


class Opener:
    """Opens segments that are all of one object. key: see `content_key`."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._salt = b""

    def open(self, sealed: memoryview, start: int, *, at_end: bool) -> memoryview:
        """What is in the segments that begin at plain byte `start`. at_end: the object ends where `sealed` does.

        Raises SealBrokenError. Memory is taken for as many bytes as came.
        """
        first = start // SEGMENT_SIZE
        if not sealed:
            if at_end and not first:
                raise SealBrokenError("it is empty, which no sealed object is")
            return memoryview(b"")
        self._salt = self._salt or bytes(sealed[:SALT_SIZE])
        out = memoryview(bytearray(opened_size(len(sealed))))
        with Buffer(sealed) as source, Buffer(out) as target:
            for number, at in enumerate(range(0, len(sealed), SEALED_SEGMENT_SIZE)):
                size = min(SEALED_SEGMENT_SIZE, len(sealed) - at)
                if sealed[at : at + SALT_SIZE] != self._salt:
                    raise SealBrokenError(
                        "its segments are not of one object: they were swapped, or it was replaced meanwhile"
                    )
                # Whether it is the last one of its object is known, unless it is the last that was asked for.
                is_final = at + size == len(sealed)
                flags = (0, _LAST) if is_final and not at_end else (_LAST,) if is_final else (0,)
                self._open(source, at, size, target, number * SEGMENT_SIZE, first + number, flags)
        return out.toreadonly()

    def _open(
        self, source: Buffer, at: int, size: int, target: Buffer, to: int, index: int, flags: tuple[int, ...]
    ) -> None:
        """One segment, with any of these flags."""
        if size < _ADDED or (size == _ADDED and index):
            raise SealBrokenError("it ends within a segment: it was cut short")
        for flag in flags:
            nonce = self._salt + _INDEX.pack(index | flag)
            if decrypt(source, at + SALT_SIZE, size - SALT_SIZE, target, to, nonce, self._key):
                return
        raise SealBrokenError(f"segment {index} does not open: it was altered, or it is not what was sealed there")
