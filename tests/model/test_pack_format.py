"""The pack's bytes: round trips, and no flipped bit of header, footer or table goes unnoticed."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.model.codec import MAX_CHUNK_SIZE, Codec
from kacas.model.digest import PayloadKind, checksum, chunk_digest
from kacas.model.entry import Entry
from kacas.model.pack_format import (
    CHUNK_RECORD,
    FOOTER_SIZE,
    FORMAT_VERSION,
    HEADER_SIZE,
    MAX_TABLE_SIZE,
    PAYLOAD_HEADER_SIZE,
    Footer,
    NewerPackError,
    PackFormatError,
    PackHeader,
    PayloadHeader,
    check_payload,
    decode_footer,
    decode_header,
    decode_payload_header,
    decode_table,
    encode_table,
)

ids = st.binary(min_size=16, max_size=16)
digests = st.binary(min_size=32, max_size=32)

HEADER = PackHeader(b"p" * 16, b"s" * 16)
FILE_SIZE = HEADER_SIZE + 1000 + 56 * 3 + FOOTER_SIZE
FOOTER = Footer(b"p" * 16, HEADER_SIZE + 1000, 56 * 3, 3, 0, FILE_SIZE, b"d" * 32)


@settings(deadline=None)
@given(ids, ids, st.integers(0, 255))
def test_a_header_comes_back_as_it_was(pack_id: bytes, store_id: bytes, purpose: int) -> None:
    header = PackHeader(pack_id, store_id, purpose)
    data = header.encode()
    assert len(data) == HEADER_SIZE
    assert decode_header(data) == decode_header(memoryview(data + b"payloads")) == header


@settings(deadline=None)
@given(ids, st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 10**6), digests)
def test_a_footer_comes_back_as_it_was(
    pack_id: bytes, payloads_size: int, chunk_count: int, entries_size: int, digest: bytes
) -> None:
    table_size = 56 * chunk_count + entries_size
    size = HEADER_SIZE + payloads_size + table_size + FOOTER_SIZE
    footer = Footer(pack_id, HEADER_SIZE + payloads_size, table_size, chunk_count, entries_size // 150, size, digest)
    data = footer.encode(HEADER.encode())
    assert len(data) == FOOTER_SIZE
    assert decode_footer(data, HEADER.encode(), size) == footer


def decode_ends(both: bytearray) -> Footer:
    decode_header(both[:HEADER_SIZE])
    return decode_footer(both[HEADER_SIZE:], both[:HEADER_SIZE], FILE_SIZE)


def test_any_flipped_bit_in_header_or_footer_is_detected() -> None:
    both = HEADER.encode() + FOOTER.encode(HEADER.encode())
    assert decode_ends(bytearray(both)) == FOOTER
    for bit in range(len(both) * 8):
        flipped = bytearray(both)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PackFormatError):
            decode_ends(flipped)


@pytest.mark.parametrize("by", [-1000, -1, 1, 1000])
def test_a_footer_of_a_file_of_another_size_is_refused(by: int) -> None:
    header = HEADER.encode()
    with pytest.raises(PackFormatError, match=f"the file has {FILE_SIZE + by}"):
        decode_footer(FOOTER.encode(header), header, FILE_SIZE + by)


@pytest.mark.parametrize(
    "footer",
    [
        replace(FOOTER, table_offset=FOOTER.table_offset + 1),
        replace(FOOTER, table_size=FOOTER.table_size - 1),
        replace(FOOTER, table_offset=0, table_size=FILE_SIZE - FOOTER_SIZE),
        replace(FOOTER, table_offset=HEADER_SIZE - 1, table_size=FILE_SIZE - FOOTER_SIZE - HEADER_SIZE + 1),
        replace(FOOTER, chunk_count=4),
        replace(FOOTER, chunk_count=2**63),
        replace(FOOTER, table_offset=2**64 - 1, table_size=FILE_SIZE - FOOTER_SIZE + 1),
    ],
    ids=["offset", "size", "at 0", "in the header", "chunks", "many chunks", "overflow"],
)
def test_a_footer_that_contradicts_itself_is_refused_though_its_checksum_is_right(footer: Footer) -> None:
    header = HEADER.encode()
    with pytest.raises(PackFormatError):
        decode_footer(footer.encode(header), header, FILE_SIZE)


def test_a_table_too_large_to_be_read_is_refused_before_memory_is_taken() -> None:
    header, size = HEADER.encode(), HEADER_SIZE + MAX_TABLE_SIZE + 1 + FOOTER_SIZE
    footer = Footer(b"p" * 16, HEADER_SIZE, MAX_TABLE_SIZE + 1, 0, 0, size, b"d" * 32)
    with pytest.raises(PackFormatError, match="larger than is allowed"):
        decode_footer(footer.encode(header), header, size)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 700, 0xFFFF])
def test_a_newer_pack_is_named_as_newer(version: int) -> None:
    header = bytearray(HEADER.encode())
    struct.pack_into("<H", header, 8, version)
    with pytest.raises(NewerPackError) as caught:
        decode_header(header)
    assert caught.value.version == version
    footer = bytearray(FOOTER.encode(HEADER.encode()))
    struct.pack_into("<H", footer, 8, version)
    footer[-16:] = checksum(16, HEADER.encode(), footer[:-16])
    with pytest.raises(NewerPackError):
        decode_footer(footer, HEADER.encode(), FILE_SIZE)


sizes = st.integers(0, MAX_CHUNK_SIZE)
payload_headers = st.builds(
    PayloadHeader, kind=st.integers(0, 255), codec=st.integers(0, 255), payload_size=sizes, raw_size=sizes,
    digest=digests, parameters=st.binary(max_size=100),
)  # fmt: skip


@settings(deadline=None)
@given(payload_headers, st.binary(max_size=30), st.binary(max_size=10))
def test_a_payload_header_comes_back_as_it_was(header: PayloadHeader, before: bytes, behind: bytes) -> None:
    encoded = header.encode(b"any payload")
    assert len(encoded) == PAYLOAD_HEADER_SIZE + len(header.parameters)
    assert header.total_size == len(encoded) + header.payload_size
    assert decode_payload_header(memoryview(before + encoded + behind), len(before)) == header


def checked(whole: bytearray) -> PayloadHeader:
    view = memoryview(whole)
    header = decode_payload_header(view)
    check_payload(header, view, view[PAYLOAD_HEADER_SIZE + len(header.parameters) :])
    return header


def test_any_flipped_bit_of_an_encoded_payload_or_its_header_is_detected() -> None:
    payload = b"encoded by zstd, let us say"
    header = PayloadHeader(PayloadKind.CHUNK, Codec.ZSTD, len(payload), 100, b"d" * 32, b"param")
    whole = header.encode(payload) + payload
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PackFormatError):
            checked(flipped)
    assert checked(bytearray(whole)) == header


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 1 << 20])
def test_the_check_of_a_payload_is_of_its_bytes_one_after_the_other_whatever_its_size(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    header = PayloadHeader(PayloadKind.CHUNK, Codec.ZSTD, size, 100, b"d" * 32, b"param")
    whole = header.encode(memoryview(payload))
    assert whole[48:64] == checksum(16, whole[:48] + b"param" + payload)
    assert checked(bytearray(whole + payload)) == header


def test_a_raw_payload_is_checked_by_its_digest_and_its_header_by_the_check() -> None:
    raw = b"raw bytes"
    header = PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(raw), len(raw), chunk_digest(raw))
    whole = bytearray(header.encode(raw) + raw)
    for bit in range(PAYLOAD_HEADER_SIZE * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PackFormatError):
            checked(flipped)
    whole[-1] ^= 1
    assert checked(bytearray(whole)) == header


@pytest.mark.parametrize("payload_size, raw_size", [(MAX_CHUNK_SIZE + 1, 0), (0, MAX_CHUNK_SIZE + 1), (2**32 - 1,) * 2])
def test_a_payload_that_declares_too_much_is_refused(payload_size: int, raw_size: int) -> None:
    header = PayloadHeader(PayloadKind.CHUNK, Codec.ZSTD, payload_size, raw_size, b"d" * 32)
    with pytest.raises(PackFormatError, match="more than is allowed"):
        decode_payload_header(memoryview(header.encode(b"")))


def test_parameters_that_are_too_long_or_cut_short_are_refused() -> None:
    long = PayloadHeader(PayloadKind.CHUNK, Codec.ZSTD, 10, 10, b"d" * 32, b"x" * 1025).encode(b"")
    with pytest.raises(PackFormatError):
        decode_payload_header(memoryview(long))
    short = PayloadHeader(PayloadKind.CHUNK, Codec.ZSTD, 10, 10, b"d" * 32, b"x" * 10).encode(b"")
    with pytest.raises(PackFormatError, match="cut short"):
        decode_payload_header(memoryview(short[:-1]))


def entry(label: bytes) -> Entry:
    return Entry(b"i" * 16, b"s" * 20, b"r" * 32, 5, 6, 0, b"owner", label)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**32), payload_headers), max_size=8),
    st.lists(st.binary(max_size=9), max_size=4),
)
def test_a_table_comes_back_sorted_by_digest_with_its_entries_in_order(
    headers: list[tuple[int, PayloadHeader]], labels: list[bytes]
) -> None:
    entries = [entry(label) for label in labels]
    data = encode_table([h.record(at) for at, h in headers], [e.encode() for e in entries])
    offset = 2**33
    footer = Footer(b"p" * 16, offset, len(data), len(headers), len(entries), offset + len(data) + FOOTER_SIZE, b"")
    table = decode_table(data, footer)
    assert list(table.entries()) == entries
    rows = [(bytes(digest), *rest) for digest, *rest in table.records.tolist()]
    assert [row[0] for row in rows] == sorted(header.digest for _, header in headers)
    assert sorted(rows) == sorted(
        (h.digest, at, h.payload_size, h.raw_size, len(h.parameters), h.kind, h.codec, 0) for at, h in headers
    )


def table_of(data: bytes, chunk_count: int, entry_count: int, offset: int = 10_000) -> list[Entry]:
    footer = Footer(b"p" * 16, offset, len(data), chunk_count, entry_count, 0, b"")
    return list(decode_table(data, footer).entries())


def test_a_table_with_more_or_fewer_entries_than_declared_is_refused() -> None:
    data = encode_table([], [entry(b"a").encode(), entry(b"b").encode()])
    assert len(table_of(data, 0, 2)) == 2
    for count in (0, 1, 3, 2**40):
        with pytest.raises(PackFormatError):
            table_of(data, 0, count)
    with pytest.raises(PackFormatError):
        table_of(data + b"\0", 0, 2)
    with pytest.raises(PackFormatError):
        table_of(data[:-1], 0, 2)


def test_a_table_that_points_behind_the_payloads_is_refused() -> None:
    header = PayloadHeader(PayloadKind.CHUNK, Codec.RAW, 10, 10, b"d" * 32)
    with pytest.raises(PackFormatError, match="points behind"):
        table_of(encode_table([header.record(10_000 - 64 - 9)], []), 1, 0)
    assert table_of(encode_table([header.record(10_000 - 64 - 10)], []), 1, 0) == []


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_decoding_any_bytes_raises_nothing_but_pack_format_errors(data: st.DataObject) -> None:
    header = HEADER.encode()
    good = [
        header,
        FOOTER.encode(header),
        PayloadHeader(0, 1, 5, 9, b"d" * 32, b"pa").encode(b"12345"),
        entry(b"l").encode(),
    ]
    raw = bytearray(data.draw(st.sampled_from(good) | st.binary(max_size=200)))
    for _ in range(data.draw(st.integers(0, 3)) if raw else 0):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))]
    footer = Footer(b"p" * 16, data.draw(st.integers(0, 2**63)), 0, len(raw) // CHUNK_RECORD.itemsize, 1, 0, b"")
    for decode in (
        decode_header,
        lambda raw: decode_footer(raw, header, FILE_SIZE),
        lambda raw: decode_footer(FOOTER.encode(header), raw, FILE_SIZE),
        lambda raw: decode_payload_header(memoryview(raw)),
        lambda raw: decode_payload_header(memoryview(raw), 3),
        lambda raw: list(decode_table(raw, footer).entries()),
    ):
        try:
            decode(raw)
        except PackFormatError:
            pass
