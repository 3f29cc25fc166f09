"""Sealed objects: what was sealed is opened, by any ranges; what was touched is refused."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt

from kacas_remote.sealing import segments
from kacas_remote.sealing.epoch_keys import EpochKeys
from kacas_remote.sealing.segments import (
    SEALED_SEGMENT_SIZE,
    SEGMENT_SIZE,
    Opener,
    SealBrokenError,
    Sealer,
    content_key,
    opened_size,
    sealed_place,
    sealed_size,
    whole_segments,
)

EPOCH = EpochKeys(b"g" * 16, 1, b"s" * 32)
KEY = content_key(EPOCH, "packs/1.pack")
EDGES = [n * SEGMENT_SIZE + d for n in range(4) for d in (-1, 0, 1) if n or d >= 0]
sizes = st.one_of(st.sampled_from(EDGES), st.integers(0, 4 * SEGMENT_SIZE))


def sealed(data: bytes, key: bytes = KEY, salt: bytes = b"a" * 16) -> bytes:
    out = bytearray(sealed_size(len(data)))
    assert Sealer(key, salt).seal(data, memoryview(out)) == len(out)
    return bytes(out)


def opened(data: bytes, key: bytes = KEY) -> bytes:
    return bytes(Opener(key).open(memoryview(data), 0, at_end=True))


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 bytes, so that each byte can be tried."""
    monkeypatch.setattr(segments, "SEGMENT_SIZE", 16)
    monkeypatch.setattr(segments, "SEALED_SEGMENT_SIZE", 48)


@given(size=sizes, seed=st.integers(0, 255))
@settings(deadline=None, max_examples=60)
def test_what_was_sealed_is_opened(size: int, seed: int) -> None:
    data = bytes((seed + n) % 251 for n in range(97)) * (size // 97 + 1)
    data = data[:size]
    assert opened(sealed(data)) == data


@given(size=st.integers(0, 1 << 50))
def test_sizes_invert(size: int) -> None:
    assert opened_size(sealed_size(size)) == size
    assert sealed_size(size + 1) > sealed_size(size)


@given(size=sizes, ranges=st.lists(st.tuples(sizes, sizes), max_size=4))
@settings(deadline=None, max_examples=60)
def test_any_range_is_opened_by_the_segments_that_it_touches(size: int, ranges: list[tuple[int, int]]) -> None:
    data = os.urandom(size)
    whole = sealed(data)
    for a, b in ranges:
        start, stop = min(a, b), max(a, b)
        first, end = whole_segments(start, stop)
        place = slice(sealed_place(first), sealed_place(end))
        answer = memoryview(whole)[place]
        got = Opener(KEY).open(answer, first, at_end=len(answer) < place.stop - place.start) if start < stop else b""
        assert bytes(got[start - first : stop - first]) == data[start:stop]
        assert end - first < stop - start + 2 * SEGMENT_SIZE


@given(parts=st.lists(st.integers(0, 3), max_size=4), rest=sizes)
@settings(deadline=None, max_examples=40)
def test_what_is_sealed_part_by_part_is_one_object(parts: Sequence[int], rest: int) -> None:
    data = [os.urandom(count * SEGMENT_SIZE) for count in parts] + [os.urandom(rest or 1)]
    sealer, out = Sealer(KEY, b"a" * 16), b""
    for number, part in enumerate(data):
        space = bytearray(sealed_size(len(part)))
        out += space[: sealer.seal(part, memoryview(space), last=number == len(data) - 1)]
    assert out == sealed(b"".join(data))


@pytest.mark.usefixtures("small_segments")
def test_every_byte_that_is_altered_is_refused() -> None:
    whole = sealed(bytes(range(40)))
    for at in range(len(whole)):
        for bit in (1, 128):
            broken = bytearray(whole)
            broken[at] ^= bit
            with pytest.raises(SealBrokenError):
                opened(bytes(broken))


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 32, 40])
def test_every_length_but_its_own_is_refused(size: int) -> None:
    data = os.urandom(size)
    whole = sealed(data)
    for length in [*range(len(whole)), len(whole) + 1, len(whole) + 32, len(whole) + 48]:
        with pytest.raises(SealBrokenError):
            opened((whole + whole)[:length])
    assert opened(whole) == data


@pytest.mark.usefixtures("small_segments")
@given(order=st.lists(st.integers(0, 7), max_size=6))
def test_only_its_own_segments_in_their_order_are_an_object(order: list[int]) -> None:
    """0 to 3 are its own; 4 and 5 those of an older version; 6 and 7 those of another blob, with the same salt."""
    data, older, other = bytes(range(56)), bytes(range(100, 130)), bytes(range(200, 230))
    pieces = [
        piece
        for whole in (sealed(data), sealed(older, salt=b"b" * 16), sealed(other, content_key(EPOCH, "packs/2.pack")))
        for piece in (whole[at : at + 48] for at in range(0, len(whole), 48))
    ]
    assert len(pieces) == 8
    forged = b"".join(pieces[number] for number in order)
    if order == [0, 1, 2, 3]:
        assert opened(forged) == data
    elif order == [4, 5]:
        assert opened(forged) == older  # as a whole it is what somebody put there once
    else:
        with pytest.raises(SealBrokenError):
            opened(forged)


@pytest.mark.usefixtures("small_segments")
def test_within_one_call_all_segments_are_of_one_version() -> None:
    new, old = sealed(bytes(48)), sealed(bytes(48), salt=b"b" * 16)
    opener = Opener(KEY)
    opener.open(memoryview(new)[:48], 0, at_end=False)
    with pytest.raises(SealBrokenError, match="not of one object"):
        opener.open(memoryview(old)[48:96], 16, at_end=False)


@pytest.mark.usefixtures("small_segments")
def test_the_end_is_an_end_only_where_the_object_ends() -> None:
    data = os.urandom(48)
    whole = sealed(data)
    assert opened(whole) == data
    assert bytes(Opener(KEY).open(memoryview(whole)[96:], 32, at_end=False)) == data[32:]  # nobody saw where it ends
    for stop in (48, 96):
        with pytest.raises(SealBrokenError):
            Opener(KEY).open(memoryview(whole)[:stop], 0, at_end=True)


@pytest.mark.parametrize(
    "other",
    [
        content_key(EPOCH, "packs/2.pack"),
        content_key(EpochKeys(b"g" * 16, 2, b"s" * 32), "packs/1.pack"),
        content_key(EpochKeys(b"h" * 16, 1, b"s" * 32), "packs/1.pack"),
        content_key(EpochKeys(b"g" * 16, 1, b"t" * 32), "packs/1.pack"),
    ],
    ids=["another blob", "another epoch", "another group", "another secret"],
)
def test_it_opens_as_nothing_else(other: bytes) -> None:
    with pytest.raises(SealBrokenError):
        opened(sealed(b"content"), other)


class _Pairs:
    """What was encrypted with each pair of key and nonce."""

    def __init__(self) -> None:
        self.seen: dict[tuple[bytes, bytes], bytes] = {}

    def note(self, key: bytes, whole: bytes) -> None:
        for number, segment in enumerate(_segments(whole)):
            is_last = (number + 1) * SEALED_SEGMENT_SIZE >= len(whole)
            nonce = segment[:16] + struct.pack("<Q", number | (is_last << 63))
            plain = crypto_aead_xchacha20poly1305_ietf_decrypt(segment[16:], None, nonce, key)
            assert self.seen.setdefault((key, nonce), plain) == plain


def _segments(whole: bytes) -> Iterator[bytes]:
    for at in range(0, len(whole), SEALED_SEGMENT_SIZE):
        yield whole[at : at + SEALED_SEGMENT_SIZE]


@given(
    objects=st.lists(
        st.tuples(st.sampled_from(["a", "b", "a/b"]), st.integers(1, 3), st.integers(0, 3), st.binary(max_size=8)),
        max_size=8,
    )
)
@settings(deadline=None, max_examples=60)
def test_a_key_and_nonce_never_meet_two_plaintexts(objects: list[tuple[str, int, int, bytes]]) -> None:
    """Whatever is put under whatever key, in whatever epoch, again and again, whole or not."""
    pairs = _Pairs()
    for name, epoch, count, end in objects:
        key = content_key(EpochKeys(b"g" * 16, epoch, bytes([epoch]) * 32), name)
        pairs.note(key, sealed(end[:1] * (count * SEGMENT_SIZE) + end, key, os.urandom(16)))


def test_memory_is_taken_for_what_came_and_no_more() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(SealBrokenError):
            Opener(KEY).open(memoryview(b"x" * 100), 1 << 60, at_end=True)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


COLLECTED = """
import gc, sys
from kacas_remote.sealing.segments import Opener, SealBrokenError
for _ in range(100):
    try:
        Opener(bytes(32)).open(memoryview(bytearray(100_000)), 0, at_end=True)
    except SealBrokenError as exc:
        kept = exc  # with its traceback, whose frame holds it: a circle
        del exc
        kept.circle = kept
        del kept
    gc.collect()
"""


def test_a_refusal_is_left_to_the_garbage_collector_without_harm() -> None:
    subprocess.run([sys.executable, "-c", COLLECTED], check=True, cwd=Path(__file__).parents[3])
