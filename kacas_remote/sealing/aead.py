"""XChaCha20-Poly1305-IETF from one buffer into another, by PyNaCl's libsodium.

PyNaCl's own functions take and give `bytes`: that is four copies of each segment, and the lock of the interpreter is held for
them: a push of 1 GiB took a third more [measured]. Here only pointers are handed over, and the lock is free meanwhile.
"""

from __future__ import annotations

from nacl._sodium import ffi, lib

NONCE_SIZE, KEY_SIZE, TAG_SIZE = 24, 32, 16


class Buffer:
    """Of bytes, within a `with`: one that is left to the garbage collector, in the traceback of an exception, say, crashes
    CPython 3.11 if `data` is a memoryview [seen]. Readable or writable as `data` is."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.size = len(data)
        self.at = ffi.from_buffer("unsigned char[]", data)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        ffi.release(self.at)


def encrypt(source: Buffer, start: int, size: int, target: Buffer, at: int, nonce: bytes, key: bytes) -> None:
    """Bytes start:start+size of `source` become size + 16 bytes at `at` of `target`."""
    _check(source, start, size, target, at, size + TAG_SIZE, nonce, key)
    null = ffi.NULL
    lib.crypto_aead_xchacha20poly1305_ietf_encrypt(
        target.at + at, null, source.at + start, size, null, 0, null, nonce, key
    )


def decrypt(source: Buffer, start: int, size: int, target: Buffer, at: int, nonce: bytes, key: bytes) -> bool:
    """The inverse: `size` bytes, tag included, become size - 16. False if they are not what was encrypted."""
    _check(source, start, size, target, at, size - TAG_SIZE, nonce, key)
    null = ffi.NULL
    failed: int = lib.crypto_aead_xchacha20poly1305_ietf_decrypt(
        target.at + at, null, null, source.at + start, size, null, 0, nonce, key
    )
    return not failed


def _check(source: Buffer, start: int, size: int, target: Buffer, at: int, into: int, nonce: bytes, key: bytes) -> None:
    """What the library does not: it writes wherever it is told."""
    sizes = len(nonce), len(key)
    if not (
        0 <= start <= start + size <= source.size
        and 0 <= at <= at + into <= target.size
        and sizes == (NONCE_SIZE, KEY_SIZE)
    ):
        raise AssertionError("outside of a buffer, or no nonce or key")
