"""The one place where pointers are handed to a library: nothing is handed over that does not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from kacas_remote.sealing.aead import KEY_SIZE, NONCE_SIZE, TAG_SIZE, decrypt, encrypt

NONCE, KEY = b"n" * NONCE_SIZE, b"k" * KEY_SIZE
SIZES = [0, 1, 63, 64, 65, 1000, 65_536]


@pytest.mark.parametrize("size", SIZES)
def test_it_is_what_pynacl_does(size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    sealed = memoryview(bytearray(size + TAG_SIZE))
    encrypt(memoryview(data), sealed, NONCE, KEY)
    assert sealed == crypto_aead_xchacha20poly1305_ietf_encrypt(data, None, NONCE, KEY)
    opened = memoryview(bytearray(size))
    assert decrypt(sealed, opened, NONCE, KEY)
    assert opened == data


def test_nothing_is_left_of_what_does_not_open() -> None:
    sealed, opened = memoryview(bytearray(100 + TAG_SIZE)), memoryview(bytearray(100))
    encrypt(memoryview(b"secret" * 20)[:100], sealed, NONCE, KEY)
    sealed[-1] ^= 1
    assert not decrypt(sealed, opened, NONCE, KEY)
    assert not any(opened)


@pytest.mark.parametrize("added", [-1, 0, TAG_SIZE - 1, TAG_SIZE + 1])
@pytest.mark.parametrize("call", [encrypt, lambda source, target, *rest: decrypt(target, source, *rest)])
def test_buffers_that_do_not_fit_are_refused(call, added: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AssertionError):
        call(memoryview(bytearray(100)), memoryview(bytearray(100 + added)), NONCE, KEY)


@pytest.mark.parametrize("nonce, key", [(NONCE[1:], KEY), (NONCE, KEY[1:]), (b"", KEY), (NONCE, KEY + b"k")])
def test_a_nonce_or_key_of_another_size_is_refused(nonce: bytes, key: bytes) -> None:
    plain, sealed = memoryview(bytearray(100)), memoryview(bytearray(100 + TAG_SIZE))
    for call in (lambda: encrypt(plain, sealed, nonce, key), lambda: decrypt(sealed, plain, nonce, key)):
        with pytest.raises(AssertionError):
            call()


def test_bytes_that_never_change_are_not_written_to() -> None:
    plain, sealed = bytes(100), bytes(100 + TAG_SIZE)
    with pytest.raises((TypeError, ValueError, BufferError)):
        encrypt(memoryview(plain), memoryview(sealed), NONCE, KEY)
    with pytest.raises((TypeError, ValueError, BufferError)):
        decrypt(memoryview(sealed), memoryview(plain), NONCE, KEY)
    assert not any(plain)
    assert not any(sealed)


LEFT = """
import gc
from kacas_remote.sealing.aead import encrypt
for number in range(200):
    try:
        source, target = memoryview(bytearray(100)), memoryview(bytearray(116) if number % 2 else bytes(116))
        encrypt(source, target, bytes(24), bytes(32))
        raise KeyboardInterrupt
    except BaseException as exc:
        kept = exc  # with its traceback, whose frame holds it: a circle
        kept.circle = kept
        del kept, source, target
    gc.collect()
"""


def test_whatever_is_raised_can_be_left_to_the_garbage_collector() -> None:
    subprocess.run([sys.executable, "-c", LEFT], check=True, cwd=Path(__file__).parents[3])
