"""Records: what was encoded is decoded, and nothing else is."""

from __future__ import annotations

import struct

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from kacas.model.record import (
    MAX_BODY_SIZE,
    MAX_NUMBER,
    MAX_RECORD_SIZE,
    NewerRecordError,
    Record,
    RecordFormatError,
    RecordKind,
    decode_record,
    subject_of,
)

records = st.builds(
    Record,
    kind=st.sampled_from(RecordKind).map(int),
    number=st.integers(1, MAX_NUMBER),
    time=st.integers(-(1 << 63), (1 << 63) - 1),
    write_id=st.binary(min_size=16, max_size=16),
    subject=st.text(max_size=20).map(subject_of),
    previous=st.binary(min_size=32, max_size=32),
    body=st.binary(max_size=300),
)
ONE = Record(1, 7, 5, b"w" * 16, subject_of("refs/@a/key"), b"p" * 32, b"the body")


@given(records)
def test_what_was_encoded_is_decoded(record: Record) -> None:
    data = record.encode()
    decoded = decode_record(data)
    assert decoded.digest == blake3(data).digest()
    assert decoded.encode() == data
    assert (decoded.number, decoded.body, decoded.write_id) == (record.number, record.body, record.write_id)


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RecordFormatError):
        decode_record(data)
    with pytest.raises(RecordFormatError):
        decode_record(b"KACASREC\x01\x00" + data)


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    data = ONE.encode()
    for bit in range(len(data) * 8):
        broken = bytearray(data)
        broken[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(RecordFormatError):
            decode_record(bytes(broken))


@given(st.integers(0, 119))
def test_a_part_is_no_record(size: int) -> None:
    with pytest.raises(RecordFormatError):
        decode_record(ONE.encode()[:size])
    with pytest.raises(RecordFormatError):
        decode_record(ONE.encode() + bytes(size + 1))


def test_a_newer_version_says_which_it_needs() -> None:
    data = bytearray(ONE.encode())
    data[8:10] = struct.pack("<H", 9)
    with pytest.raises(NewerRecordError) as caught:
        decode_record(bytes(data))
    assert caught.value.version == 9


def test_what_is_too_large_is_neither_written_nor_read() -> None:
    largest = Record(2, 1, 0, bytes(16), bytes(16), bytes(32), bytes(MAX_BODY_SIZE)).encode()
    assert len(largest) == MAX_RECORD_SIZE
    assert len(decode_record(largest).body) == MAX_BODY_SIZE
    with pytest.raises(ValueError, match="at most"):
        Record(2, 1, 0, bytes(16), bytes(16), bytes(32), bytes(MAX_BODY_SIZE + 1)).encode()
    with pytest.raises(RecordFormatError, match="too long"):
        decode_record(largest + b"x")


@pytest.mark.parametrize("number", [0, -1, MAX_NUMBER + 1])
def test_a_number_that_is_none_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="numbers from 1"):
        Record(1, number, 0, bytes(16), bytes(16), bytes(32), b"").encode()
