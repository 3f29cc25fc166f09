"""The segment's bytes: what is written is read, what was altered is refused, and no memory is taken on a file's word."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.model.codec import MAX_PAYLOAD_SIZE
from kacas.model.digest import checksum
from kacas.model.entry import Entry
from kacas.model.segment_format import (
    CHECK_SIZE,
    ENTRY_FRONT,
    FOOTER_SIZE,
    HEADER_SIZE,
    RECORD_SIZE,
    RECORDS,
    SEGMENT_RECORD,
    Directory,
    Footer,
    NewerSegmentError,
    SegmentFormatError,
    bucket_check,
    bucket_of,
    check_bucket,
    decode_directory,
    decode_footer,
    decode_header,
    encode_header,
    entries_in,
    entries_of,
    entry_bits,
    locations_in,
    prefixes,
    record_bits,
    segment_id,
)

SEGMENT, STORE = b"s" * 16, b"t" * 16
HEADER = encode_header(SEGMENT, STORE)
PACKS = (b"p" * 16, b"q" * 16)


def outline() -> tuple[Footer, Directory, bytes]:
    """Of a segment with two records and one entry of 100 bytes."""
    directory = Directory(
        PACKS, ((b"c" * 16, 1),), (b"r" * 16,), np.array([0, 2], np.uint32), np.array([0, 108], np.uint64)
    )
    data = directory.encode()
    at = HEADER_SIZE + 2 * RECORD_SIZE + CHECK_SIZE + 108
    footer = Footer(SEGMENT, 0, 0, 2, 1, 1, 2, 1, 0, at, at + len(data) + FOOTER_SIZE, checksum(16, data))
    return footer, directory, data


def test_what_is_encoded_is_decoded() -> None:
    footer, directory, data = outline()
    assert decode_header(HEADER) == (SEGMENT, STORE)
    assert decode_footer(footer.encode(HEADER), HEADER, footer.file_size) == footer
    found = decode_directory(data, footer)
    assert (found.packs, found.covers, found.replaced) == (PACKS, ((b"c" * 16, 1),), (b"r" * 16,))
    assert found.record_starts.tolist() == directory.record_starts.tolist()
    assert found.entry_starts.tolist() == directory.entry_starts.tolist()


@given(position=st.integers(0, HEADER_SIZE + FOOTER_SIZE - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_header_or_footer_is_refused(position: int, bit: int) -> None:
    footer, _, _ = outline()
    data = bytearray(HEADER + footer.encode(HEADER))
    data[position] ^= 1 << bit
    header = bytes(data[:HEADER_SIZE])
    with pytest.raises(SegmentFormatError):
        decode_footer(bytes(data[HEADER_SIZE:]), header, footer.file_size)


@given(data=st.data())
def test_a_flipped_bit_in_the_directory_is_refused(data: st.DataObject) -> None:
    footer, _, encoded = outline()
    changed = bytearray(encoded)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SegmentFormatError, match="checksum"):
        decode_directory(bytes(changed), footer)


def test_a_later_version_is_named() -> None:
    header = bytearray(HEADER)
    header[8] = 7
    with pytest.raises(NewerSegmentError) as caught:
        decode_header(bytes(header))
    assert caught.value.version == 7


@given(
    numbers=st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3),
    size=st.integers(0, 2**62),
    bits=st.integers(0, 255),
)
def test_counts_that_do_not_fit_the_file_are_refused(numbers: list[int], size: int, bits: int) -> None:
    footer, _, _ = outline()
    lying = Footer(
        SEGMENT, bits, 0, *numbers, size, 1, 0, footer.directory_offset, footer.file_size, footer.directory_check
    )
    if (bits, *numbers, size) == (0, 2, 1, 1, 2):
        return
    with pytest.raises(SegmentFormatError):
        decode_footer(lying.encode(HEADER), HEADER, footer.file_size)


@pytest.mark.parametrize("starts, entries", [([0, 3], [0, 108]), ([0, 2], [0, 107]), ([2, 0], [0, 108])])
def test_a_directory_that_contradicts_the_footer_is_refused(starts: list[int], entries: list[int]) -> None:
    footer, directory, _ = outline()
    data = Directory(
        PACKS, directory.covers, directory.replaced, np.array(starts, np.uint32), np.array(entries, np.uint64)
    ).encode()
    lying = Footer(**(footer.__dict__ | {"directory_check": checksum(16, data)}))
    with pytest.raises(SegmentFormatError, match="disagree"):
        decode_directory(data, lying)


def test_a_cover_by_a_pack_that_is_not_held_is_refused() -> None:
    footer, directory, _ = outline()
    data = Directory(PACKS, ((b"c" * 16, 2),), (b"r" * 16,), directory.record_starts, directory.entry_starts).encode()
    with pytest.raises(SegmentFormatError, match="does not hold"):
        decode_directory(data, Footer(**(footer.__dict__ | {"directory_check": checksum(16, data)})))


@given(st.binary(max_size=300), st.integers(0, 2), st.integers(0, 9), st.data())
def test_a_bucket_is_believed_in_its_place_alone(rows: bytes, region: int, number: int, data: st.DataObject) -> None:
    bucket = rows + bucket_check(SEGMENT, region, number, rows)
    assert check_bucket(SEGMENT, region, number, bucket) == rows
    for segment, place, at in ((STORE, region, number), (SEGMENT, region ^ 1, number), (SEGMENT, region, number + 1)):
        with pytest.raises(SegmentFormatError):
            check_bucket(segment, place, at, bucket)
    changed = bytearray(bucket)
    changed[data.draw(st.integers(0, len(bucket) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SegmentFormatError):
        check_bucket(SEGMENT, region, number, bytes(changed))


def test_a_digest_is_found_where_records_begin_and_nowhere_else() -> None:
    records = np.zeros(3, SEGMENT_RECORD)
    raw = records.view(np.uint8).reshape(3, RECORD_SIZE)
    digest = random.Random(1).randbytes(32)
    raw[2, :32] = np.frombuffer(digest, np.uint8)
    raw[0, 10:42] = raw[2, :32]  # not at the beginning of a record
    records["pack"] = [0, 0, 1]
    records["offset"] = [5, 6, 1 << 40]
    raw[0, 10:42] = raw[2, :32]
    found = list(locations_in(records.tobytes(), digest, PACKS))
    assert [(place.pack_id, place.offset) for place in found] == [(PACKS[1], 1 << 40)]
    records["pack"] = 2
    with pytest.raises(SegmentFormatError, match="does not hold"):
        list(locations_in(records.tobytes(), digest, PACKS))


def test_a_record_that_says_more_than_a_payload_may_have_is_refused() -> None:
    records = np.zeros(1, SEGMENT_RECORD)
    digest = bytes(32)
    records["payload_size"] = MAX_PAYLOAD_SIZE
    assert [place.payload_size for place in locations_in(records.tobytes(), digest, PACKS)] == [MAX_PAYLOAD_SIZE]
    records["payload_size"] = MAX_PAYLOAD_SIZE + 1
    with pytest.raises(SegmentFormatError, match="more than is allowed"):
        list(locations_in(records.tobytes(), digest, PACKS))


def entry(i: int) -> Entry:
    rng = random.Random(i)
    return Entry(rng.randbytes(16), rng.randbytes(20), rng.randbytes(32), i, i, 1, b"me", rng.randbytes(i % 40))


def test_entries_of_a_sha1_are_found_with_their_packs() -> None:
    rows = b"".join(ENTRY_FRONT.pack(i % 2) + entry(i).encode() for i in range(20))
    assert [number for _, number, _ in entries_in(rows)] == [0, 1] * 10
    assert entries_of(rows, entry(7).sha1, PACKS) == [(entry(7).encode(), PACKS[1])]
    assert entries_of(rows, bytes(20), PACKS) == []
    assert entries_of(rows, entry(3).label[:20].ljust(20, b"?"), PACKS) == []


@given(st.binary(max_size=400))
def test_garbage_among_the_entries_is_refused_or_stepped_through(rows: bytes) -> None:
    try:
        for sha1, _, encoded in entries_in(rows):
            assert len(sha1) == 20
            assert len(encoded) == struct.unpack_from("<I", encoded)[0]
    except SegmentFormatError:
        pass


@given(st.binary(min_size=32, max_size=32), st.integers(0, 22))
def test_the_first_bits_name_the_bucket(digest: bytes, bits: int) -> None:
    records = np.zeros(1, SEGMENT_RECORD)
    records.view(np.uint8)[:32] = np.frombuffer(digest, np.uint8)
    assert prefixes(records).tolist() == [int.from_bytes(digest[:8], "big")]
    assert bucket_of(digest, bits) == int.from_bytes(digest, "big") >> (256 - bits)


def test_buckets_stay_small_and_directories_bounded() -> None:
    assert record_bits(0) == record_bits(32) == entry_bits(0) == entry_bits(16) == 0
    assert record_bits(33) == 1
    assert 16 <= 10**7 / 2 ** record_bits(10**7) <= 32
    assert record_bits(10**9) == record_bits(2**32 - 1) == 22
    assert entry_bits(2**32 - 1) == 20


def test_ids_of_larger_segments_come_first() -> None:
    assert segment_id(1 << 20, bytes(15)) > segment_id((1 << 20) - 1, b"\xff" * 15)
    with pytest.raises(ValueError, match="random"):
        segment_id(1, b"")
    assert RECORDS == 0
