"""Recipes: whatever an array's chunk is encoded by, the same bytes come back, and no frame can claim more than its size."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.model.blosc_frame import Shuffle
from kacas.model.codec import Codec, DecodeError, Decoder
from kacas.model.encoder import ZSTD, Encoder, Recipe
from kacas.model.row_delta import Difference, RowDelta

ROWS = np.random.default_rng(1).integers(-50, 50, (2000, 16), np.int16).cumsum(axis=0, dtype=np.int16)
BITS = Recipe(Codec.BLOSC, "lz4", 5, 2, Shuffle.BITS)
BYTES = Recipe(Codec.BLOSC, "zstd", 1, 2, Shuffle.BYTES)
DELTA = RowDelta(Difference.SUBTRACT, 2, 32)
RECIPES = [
    BITS,
    BYTES,
    BITS._replace(codec=Codec.DELTA, delta=DELTA),
    BYTES._replace(codec=Codec.DELTA, delta=DELTA),
    BITS._replace(codec=Codec.DELTA, delta=RowDelta(Difference.XOR, 2, 32)),
    BYTES._replace(codec=Codec.DELTA, delta=RowDelta(Difference.SUBTRACT, 8, 8), item_size=8),
    Recipe(Codec.PCO, level=8, item_size=2, number="<i2"),
    Recipe(Codec.PCO, level=8, item_size=8, number="<f8"),
]


def back(encoded: tuple[int, bytes, bytes | memoryview], size: int) -> bytes:
    codec, parameters, payload = encoded
    out = bytearray(size)
    decoder = Decoder()
    decoder.decode_into(codec, parameters, memoryview(payload), memoryview(out))
    assert decoder.decode(codec, parameters, memoryview(payload), size) == out
    return bytes(out)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@given(data=st.binary(max_size=400) | st.integers(0, 60_000).map(lambda size: ROWS.tobytes()[:size]))
def test_whatever_the_recipe_the_same_bytes_come_back(recipe: Recipe, data: bytes) -> None:
    encoded = Encoder(recipe).encode(memoryview(data))
    assert len(encoded.payload) <= len(data)
    assert back(encoded, len(data)) == data


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_rows_that_are_alike_take_less(recipe: Recipe) -> None:
    raw = memoryview(ROWS.tobytes())
    encoded = Encoder(recipe).encode(raw)
    assert encoded.codec == recipe.codec
    assert len(encoded.payload) < 0.9 * len(raw)
    if recipe.delta == DELTA:
        assert len(encoded.payload) < 0.62 * len(raw), "7 of 16 bits"


@pytest.mark.parametrize("recipe", [ZSTD, *RECIPES], ids=str)
def test_noise_stays_raw_and_what_comes_between_is_compressed(recipe: Recipe) -> None:
    """After noise a chunk is looked at in parts only: they must not miss one of which a half is worth it."""
    noise = memoryview(random.Random(1).randbytes(200_000))
    zeros = bytes(100_000)
    encoder = Encoder(recipe)
    for _ in range(2):
        assert encoder.encode(noise) == (Codec.RAW, b"", noise)
        for half in (bytes(noise[:100_000]) + zeros, zeros + bytes(noise[:100_000])):
            encoded = encoder.encode(memoryview(half))
            assert encoded.codec == recipe.codec
            assert len(encoded.payload) < 0.6 * len(half)
            assert back(encoded, len(half)) == half
            assert encoder.encode(noise).codec == Codec.RAW


def test_rows_that_are_alike_are_told_from_noise_by_their_parts() -> None:
    """Each row is noise, and the next one nearly the same: only what is a row above tells."""
    rng = np.random.default_rng(2)
    rows = (rng.integers(0, 1 << 16, 30_000).astype(np.uint16) + rng.integers(0, 3, (4, 1)).astype(np.uint16)).tobytes()
    delta = RowDelta(Difference.SUBTRACT, 2, 60_000)
    encoder = Encoder(BYTES._replace(codec=Codec.DELTA, delta=delta))
    assert encoder.encode(memoryview(rng.bytes(len(rows)))).codec == Codec.RAW
    encoded = encoder.encode(memoryview(rows))
    assert encoded.codec == Codec.DELTA
    assert back(encoded, len(rows)) == rows


def test_a_pcodec_file_holds_exactly_the_numbers_of_the_chunk() -> None:
    pytest.importorskip("pcodec")
    recipe = Recipe(Codec.PCO, level=8, item_size=2, number="<i2")
    bomb = Encoder(recipe).encode(memoryview(bytes(1 << 24)))
    assert len(bomb.payload) < 1000
    for size in (0, 2, 1 << 20):
        with pytest.raises(DecodeError, match="does not hold exactly"):
            back(bomb, size)
    raw = ROWS.tobytes()
    codec, _, payload = Encoder(recipe).encode(memoryview(raw))
    for parameters in (b"", b"<i3", b"<u2", b"<f2", b"<i4", b"|V2", b">i2", b"\xff\xff\xff", b"object"):
        with pytest.raises(DecodeError):
            back((codec, parameters, payload), len(raw))
    with pytest.raises(DecodeError):
        back((codec, b"<i2", bytes(payload)[:-1]), len(raw))


def test_chunks_that_lie_askew_in_memory_are_encoded_and_decoded() -> None:
    raw = bytes(1) + ROWS.tobytes()
    for recipe in RECIPES:
        codec, parameters, payload = Encoder(recipe).encode(memoryview(raw)[1:])
        assert codec == recipe.codec
        out = bytearray(len(raw))
        Decoder().decode_into(codec, parameters, memoryview(payload), memoryview(out)[1:])
        assert out == raw


def test_a_frame_of_another_size_is_refused() -> None:
    raw = ROWS.tobytes()
    for recipe in RECIPES:
        codec, parameters, payload = Encoder(recipe).encode(memoryview(raw))
        for size in (len(raw) - 2, len(raw) + 8, 0):
            with pytest.raises(DecodeError):
                back((codec, parameters, payload), size)
        # Behind the end of a pcodec file nothing is read.
        longer = [] if codec == Codec.PCO else [bytes(payload) + b"\0"]
        for wrong in (bytes(payload)[:-1], bytes(payload)[:15], b"", raw, *longer):
            with pytest.raises(DecodeError):
                back((codec, parameters, wrong), len(raw))
        if codec == Codec.DELTA:
            with pytest.raises(DecodeError, match="row delta"):
                back((codec, parameters[:-1], payload), len(raw))


def test_a_changed_frame_gives_bytes_or_a_decode_error_and_never_takes_the_process_along() -> None:
    """In a process of its own, which a crash of the library would end."""
    code = """
import random
from tests.model.test_encoder import RECIPES, ROWS, back
from kacas.model.codec import DecodeError
from kacas.model.encoder import Encoder
rng, raw = random.Random(1), ROWS.tobytes()
for recipe in RECIPES:
    codec, parameters, payload = Encoder(recipe).encode(memoryview(raw))
    for number in range(1500):
        changed = bytearray(payload)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(16, 200) if number % 2 else rng.randrange(len(changed))
            changed[at] = rng.randrange(256)
        try:
            back((codec, parameters, bytes(changed)), len(raw))
        except DecodeError:
            pass
    small = memoryview(raw[:4000])
    codec, parameters, payload = Encoder(recipe).encode(small)
    for at in range(len(payload)):
        changed = bytearray(payload)
        changed[at] ^= rng.randrange(1, 256)
        try:
            back((codec, parameters, bytes(changed)), len(small))
        except DecodeError:
            pass
print("alive")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout == "alive\n", f"status {ended.returncode}: {ended.stderr[-2000:]}"


def test_items_that_do_not_fill_bytes_are_compressed_all_the_same() -> None:
    """Blosc leaves the bits of such items as they are: 130,950 of them gave a ratio of 1.0."""
    items = np.random.default_rng(0).integers(0, 200, 130_950, np.int16)
    assert len(items) % 8
    payload = Encoder(Recipe(Codec.BLOSC, "lz4", 5, 2, Shuffle.BITS)).encode(items.view(np.uint8).data).payload
    assert len(payload) < 0.6 * items.nbytes
