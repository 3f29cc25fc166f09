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
from kacas.model.encoder import Encoder, Recipe
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


def test_noise_stays_raw() -> None:
    noise = memoryview(random.Random(1).randbytes(100_000))
    for recipe in RECIPES:
        assert Encoder(recipe).encode(noise).codec == Codec.RAW


def test_a_frame_of_another_size_is_refused() -> None:
    raw = ROWS.tobytes()
    for recipe in RECIPES:
        codec, parameters, payload = Encoder(recipe).encode(memoryview(raw))
        for size in (len(raw) - 2, len(raw) + 8, 0):
            with pytest.raises(DecodeError):
                back((codec, parameters, payload), size)
        for wrong in (bytes(payload)[:-1], bytes(payload) + b"\0", bytes(payload)[:15], b"", raw):
            with pytest.raises(DecodeError):
                back((codec, parameters, wrong), len(raw))
        if parameters:
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
print("alive")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout == "alive\n", f"status {ended.returncode}: {ended.stderr[-2000:]}"
