"""Signatures: only what was said is signed, by whom it was said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas_remote.signing import (
    PrivateKey,
    Signature,
    is_signed,
    new_private_key,
    parse_publisher,
    public_key,
    publisher_text,
    sign,
    statement,
)

KEY = PrivateKey(bytes(range(32)))
MESSAGE = statement(b"s" * 20, b"r" * 32, 5, 1)
SIGNED = sign(KEY, MESSAGE)


def test_the_signature_of_a_statement_is_what_it_was() -> None:
    assert b"kacas 2026-11 recipe statement v1\0" + b"s" * 20 + b"r" * 32 + bytes([5, *bytes(7), 1]) == MESSAGE
    assert SIGNED.publisher.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert is_signed(MESSAGE, SIGNED)


@given(st.integers(0, 32 * 8 + 64 * 8 - 1))
def test_no_flipped_bit_of_key_or_signature_passes(bit: int) -> None:
    whole = bytearray(SIGNED.publisher + SIGNED.signature)
    whole[bit // 8] ^= 1 << bit % 8
    assert not is_signed(MESSAGE, Signature(bytes(whole[:32]), bytes(whole[32:])))


@pytest.mark.parametrize(
    "other",
    [
        statement(b"S" * 20, b"r" * 32, 5, 1),
        statement(b"s" * 20, b"R" * 32, 5, 1),
        statement(b"s" * 20, b"r" * 32, 6, 1),
        statement(b"s" * 20, b"r" * 32, 5, 2),
        MESSAGE[34:],
    ],
)
def test_a_signature_of_something_else_does_not_pass(other: bytes) -> None:
    assert not is_signed(other, SIGNED)
    assert not is_signed(MESSAGE, sign(KEY, other))


@given(st.binary(max_size=40), st.binary(max_size=80))
def test_no_bytes_pass_as_a_signature(publisher: bytes, signature: bytes) -> None:
    assert not is_signed(MESSAGE, Signature(publisher, signature))


def test_keys_of_small_order_sign_nothing() -> None:
    for point in (bytes(32), b"\1" + bytes(31)):
        assert not is_signed(MESSAGE, Signature(point, point + bytes(32)))


def test_a_publisher_is_written_and_read() -> None:
    publisher = public_key(new_private_key())
    assert parse_publisher(publisher_text(publisher)) == publisher
    with pytest.raises(ValueError, match="hex digits"):
        parse_publisher("ed25519:xyz")
