"""Codecs: what goes in comes out, noise stays raw, and no payload can claim more than its size."""

from __future__ import annotations

import random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.model.codec import MAX_CHUNK_SIZE, Codec, DecodeError, Decoder
from kacas.model.encoder import Encoder

KIB = 1 << 10


def decoded(codec: int, payload: bytes | memoryview, size: int) -> bytes:
    """Both ways, into a buffer and into new bytes, which must agree. Raises what they raise."""
    errors: list[DecodeError] = []
    raw, out = b"", bytearray(b"\xaa" * (size + 16))
    try:
        raw = Decoder().decode(codec, b"", memoryview(payload), size)
    except DecodeError as exc:
        errors.append(exc)
    try:
        Decoder().decode_into(codec, b"", memoryview(payload), memoryview(out)[:size])
    except DecodeError as exc:
        errors.append(exc)
    assert out[size:] == b"\xaa" * 16, "written behind the end"
    if errors:
        assert len(errors) == 2, "one way refuses what the other takes"
        raise errors[-1]
    assert raw == out[:size]
    return raw


patterns = st.tuples(st.binary(min_size=1, max_size=50), st.integers(0, 20_000)).map(lambda p: p[0] * p[1])
raws = st.binary(max_size=300) | patterns.map(lambda raw: raw[: 300 * KIB])


@settings(deadline=None)
@given(st.lists(raws, min_size=1, max_size=5))
def test_what_is_encoded_decodes_to_the_same(many: list[bytes]) -> None:
    encoder, decoder = Encoder(), Decoder()
    for raw in many:
        codec, parameters, payload = encoder.encode(memoryview(raw))
        assert len(payload) <= len(raw)
        out = bytearray(len(raw))
        decoder.decode_into(codec, parameters, memoryview(payload), memoryview(out))
        assert out == raw


@pytest.mark.parametrize("size", [0, 1, 15, 16, 64 * KIB, 64 * KIB + 1, 256 * KIB, MAX_CHUNK_SIZE])
def test_noise_stays_raw_without_a_copy_at_any_size(size: int) -> None:
    raw = memoryview(bytearray(random.Random(size).randbytes(size)))
    codec, _, payload = Encoder().encode(raw)
    assert codec == Codec.RAW
    assert payload is raw
    assert decoded(codec, payload, size) == raw


@pytest.mark.parametrize("size", [1 * KIB, 64 * KIB, 64 * KIB + 1, 256 * KIB, MAX_CHUNK_SIZE])
def test_what_compresses_is_compressed_at_any_size(size: int) -> None:
    raw = (b"abcdefgh" * (size // 8 + 1))[:size]
    codec, _, payload = Encoder().encode(memoryview(raw))
    assert codec == Codec.ZSTD
    assert len(payload) < size // 10
    assert decoded(codec, payload, size) == raw


def test_a_small_saving_is_not_worth_the_decoding() -> None:
    raw = random.Random(1).randbytes(50 * KIB) + bytes(KIB)
    assert Encoder().encode(memoryview(raw)).codec == Codec.RAW


RAW = b"hello world, " * 100
ZSTD = zstandard.ZstdCompressor(level=1, write_content_size=True)
FRAME = ZSTD.compress(RAW)


@pytest.mark.parametrize(
    "payload, size, why",
    [
        (FRAME, len(RAW) + 1, "declares 1300 bytes, its header 1301"),
        (FRAME, len(RAW) - 1, "declares 1300 bytes, its header 1299"),
        (FRAME, 0, "declares 1300 bytes, its header 0"),
        (ZSTD.compress(bytes(64 << 20)), 256 * KIB, "declares 67108864 bytes"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(RAW), len(RAW), "declares"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20)), 256 * KIB, "declares"),
        (b"", 10, "zstd"),
        (b"\x28\xb5\x2f\xfd", 10, "zstd"),
        (RAW, len(RAW), "zstd"),
    ],
    ids=[
        "more",
        "less",
        "empty",
        "bomb",
        "no size",
        "bomb without size",
        "nothing",
        "magic only",
        "no frame",
    ],
)
def test_a_frame_that_is_not_of_the_declared_size_is_refused(payload: bytes, size: int, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decoded(Codec.ZSTD, payload, size)


@pytest.mark.parametrize(
    "behind",
    # A frame behind it that adds no bytes passes here: it changes nothing that is read, and fails the checksum.
    [b"\0", b"trailing", FRAME],
    ids=["a byte", "some bytes", "another frame"],
)
def test_bytes_behind_the_frame_are_refused(behind: bytes) -> None:
    with pytest.raises(DecodeError):
        decoded(Codec.ZSTD, FRAME + behind, len(RAW))


def test_several_frames_that_add_up_to_the_declared_size_are_refused() -> None:
    halves = ZSTD.compress(RAW[:650]) + ZSTD.compress(RAW[650:])
    for size in (650, len(RAW)):
        with pytest.raises(DecodeError):
            decoded(Codec.ZSTD, halves, size)


def test_a_frame_in_front_that_is_skipped_is_refused() -> None:
    with pytest.raises(DecodeError):
        decoded(Codec.ZSTD, b"\x50\x2a\x4d\x18\x04\0\0\0skip" + FRAME, len(RAW))


def test_a_frame_that_lies_about_its_content_is_refused() -> None:
    """The header declares what the pack wants to hear, the blocks hold much more."""
    bomb = ZSTD.compress(bytes(1 << 20))
    parameters = zstandard.get_frame_parameters(bomb)
    assert parameters.content_size == 1 << 20
    at = bomb.index((1 << 20).to_bytes(4, "little"), 4)
    lying = bytearray(bomb)
    lying[at : at + 4] = (300 * KIB).to_bytes(4, "little")
    with pytest.raises(DecodeError):
        decoded(Codec.ZSTD, lying, 300 * KIB)


def test_a_window_of_gigabytes_is_never_taken() -> None:
    # A frame header by hand: no single segment, window 2 GiB, content size 100 in 4 bytes; one raw block.
    block = (100 << 3 | 1).to_bytes(3, "little") + bytes(100)
    frame = b"\x28\xb5\x2f\xfd" + bytes([0b10 << 6, 21 << 3]) + (100).to_bytes(4, "little") + block
    assert zstandard.get_frame_parameters(frame).window_size == 2 << 30
    # Whole, it decodes straight into the 100 bytes; cut short, zstd would want the window.
    assert decoded(Codec.ZSTD, frame, 100) == bytes(100)
    with pytest.raises(DecodeError, match="too much memory"):
        decoded(Codec.ZSTD, frame[:-1], 100)


@pytest.mark.parametrize("size", [len(RAW) - 1, len(RAW) + 1, 0])
def test_a_raw_payload_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(DecodeError, match="raw payload of 1300 bytes"):
        decoded(Codec.RAW, RAW, size)


@pytest.mark.parametrize("codec", [5, 17, 255])
def test_an_unknown_codec_is_refused(codec: int) -> None:
    with pytest.raises(DecodeError, match=f"codec {codec} is unknown"):
        decoded(codec, FRAME, len(RAW))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_frame_gives_the_declared_number_of_bytes_or_a_decode_error(data: st.DataObject) -> None:
    frame = bytearray(FRAME)
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)) | st.just(len(frame)))
    try:
        decoded(Codec.ZSTD, frame[:cut], len(RAW))  # the digest catches what is decoded to other bytes
    except DecodeError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 5000), st.integers(0, 4))
def test_any_bytes_decode_or_give_a_decode_error(payload: bytes, size: int, codec: int) -> None:
    for candidate in (payload, FRAME[:5] + payload):
        try:
            decoded(codec, candidate, size)
        except DecodeError:
            pass


@given(st.lists(st.binary(max_size=3000) | st.integers(0, 200_000).map(lambda size: bytes(size)), max_size=8))
def test_many_chunks_at_once_are_encoded_as_each_alone(raws: list[bytes]) -> None:
    encoder = Encoder()
    encoded = [(codec, bytes(payload)) for codec, _, payload in encoder.encode_many(raws)]
    alone = [encoder.encode(memoryview(raw)) for raw in raws]
    assert encoded == [(codec, bytes(payload)) for codec, _, payload in alone]


@given(
    st.lists(st.binary(max_size=3000) | st.integers(0, 200_000).map(lambda size: bytes(size)), max_size=8),
    st.sets(st.integers(0, 7)),
    st.data(),
)
def test_many_payloads_at_once_are_decoded_as_each_alone_and_bad_ones_left_out(
    raws: list[bytes], bad: set[int], data: st.DataObject
) -> None:
    payloads = []
    for number, (codec, parameters, payload) in enumerate(Encoder().encode_many(raws)):
        kept = bytes(payload)
        if number in bad:
            at = data.draw(st.integers(0, len(kept)))
            kept = kept[:at] + data.draw(st.binary(max_size=9)) + kept[at + 1 :]
        payloads.append((int(codec), parameters, memoryview(kept), len(raws[number])))
    found = Decoder().decode_many(payloads)
    for number, (got, raw) in enumerate(zip(found, raws, strict=True)):
        if number not in bad:
            assert got is not None
            assert bytes(got) == raw
        elif got is not None:
            assert len(got) == len(raw)


def test_a_frame_of_no_bytes_among_many_is_decoded_alone() -> None:
    """Our encoder keeps no bytes raw; other writers may not. Decoded with the others it would spoil the memory."""
    raws = [b"", b"a" * 100, b"", b"b" * 3000]
    frames = [zstandard.ZstdCompressor().compress(raw) for raw in raws]
    payloads = [(int(Codec.ZSTD), b"", memoryview(frame), len(raw)) for frame, raw in zip(frames, raws, strict=True)]
    for _ in range(50):
        assert [bytes(found or b"") for found in Decoder().decode_many(payloads)] == raws
