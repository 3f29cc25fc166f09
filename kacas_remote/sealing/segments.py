"""Segments: a sealed object is a row of them, each opened by itself, so that a range is read without the rest.

salt (16) + XChaCha20-Poly1305 ciphertext of at most 65,536 bytes + tag (16); no header, and no bytes between them
"""

from __future__ import annotations

import contextlib
import struct

from blake3 import blake3
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as _decrypt
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as _encrypt
from nacl.exceptions import CryptoError

from kacas_remote.sealing.epoch_keys import EpochKeys

SEGMENT_SIZE = 65_536
"""Plain bytes of each but the last, which has what is left; that of an empty blob has none."""
SALT_SIZE, TAG_SIZE = 16, 16
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
        for start in range(0, len(plain) or last, SEGMENT_SIZE):
            segment = plain[start : start + SEGMENT_SIZE]
            stop = at + len(segment) + _ADDED
            index = self._index | (_LAST if last and start + len(segment) == len(plain) else 0)
            out[at : at + SALT_SIZE] = self._salt
            out[at + SALT_SIZE : stop] = _encrypt(bytes(segment), None, self._salt + _INDEX.pack(index), self._key)
            at = stop
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
        for number, at in enumerate(range(0, len(sealed), SEALED_SEGMENT_SIZE)):
            segment = sealed[at : at + SEALED_SEGMENT_SIZE]
            if segment[:SALT_SIZE] != self._salt:
                raise SealBrokenError(
                    "its segments are not of one object: they were swapped, or it was replaced meanwhile"
                )
            # Whether it is the last one of its object is known, unless it is the last that was asked for.
            is_final = at + len(segment) == len(sealed)
            flags = (0, _LAST) if is_final and not at_end else (_LAST,) if is_final else (0,)
            self._open(segment, out[number * SEGMENT_SIZE :], first + number, flags)
        return out.toreadonly()

    def _open(self, segment: memoryview, out: memoryview, index: int, flags: tuple[int, ...]) -> None:
        """One segment into the beginning of `out`, with any of these flags."""
        size = len(segment) - _ADDED
        if size < 0 or (not size and index):
            raise SealBrokenError("it ends within a segment: it was cut short")
        sealed = bytes(segment[SALT_SIZE:])
        for flag in flags:
            with contextlib.suppress(CryptoError):
                out[:size] = _decrypt(sealed, None, self._salt + _INDEX.pack(index | flag), self._key)
                return
        raise SealBrokenError(f"segment {index} does not open: it was altered, or it is not what was sealed there")
