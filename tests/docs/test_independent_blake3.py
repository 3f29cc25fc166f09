"""The BLAKE3 of docs/independent_group_reader.py is that of the blake3 package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

READER = Path(__file__).resolve().parents[2] / "docs" / "independent_group_reader.py"
BLOCK, CHUNK = 64, 1024
KEY = bytes(range(100, 132))
CONTEXT = "kacas 2026-11 access group uri v1"


def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("independent_group_reader", READER)
    assert spec is not None
    assert spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    return reader


reader = module()
near = [edge + step for edge in (0, BLOCK, 2 * BLOCK) for step in (-1, 0, 1)]
near += [count * CHUNK + step for count in (1, 2, 3, 4, 5, 7, 8, 9, 16, 31) for step in (-BLOCK, -1, 0, 1, BLOCK)]


def data_of(size: int) -> bytes:
    return bytes(at * 7 % 251 for at in range(size))


@pytest.mark.parametrize("size", [size for size in near if size >= 0])
def test_every_length_around_the_borders_of_blocks_and_chunks_is_hashed(size: int) -> None:
    data = data_of(size)
    assert reader.blake3(data) == blake3(data).digest()
    assert reader.blake3(data, key=KEY) == blake3(data, key=KEY).digest()
    assert reader.blake3(data, context=CONTEXT) == blake3(data, derive_key_context=CONTEXT).digest()


def test_every_length_of_the_first_three_blocks_is_hashed() -> None:
    for size in range(3 * BLOCK + 2):
        assert reader.blake3(data_of(size)) == blake3(data_of(size)).digest(), size


@given(data=st.binary(max_size=3000), key=st.binary(min_size=32, max_size=32), context=st.text(max_size=200))
@settings(max_examples=50, deadline=None)
def test_anything_is_hashed(data: bytes, key: bytes, context: str) -> None:
    assert reader.blake3(data, key=key) == blake3(data, key=key).digest()
    assert reader.blake3(data, context=context) == blake3(data, derive_key_context=context).digest()
