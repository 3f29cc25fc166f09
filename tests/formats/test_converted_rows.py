"""Rows of another dtype: what they say stays the same, or they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kacas import Store
from kacas.errors import ArrayStreamError


@pytest.fixture
def quick(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "quick", durability="relaxed")


@pytest.mark.parametrize(
    "rows, dtype",
    [
        (np.array([2**53 + 1]), "f8"), (np.array([-(2**62) - 1]), "c16"), (np.array([2**64 - 1], "u8"), "f8"),
        (np.array(["9999-01-01"], "M8[s]"), "M8[ns]"), (np.array([10**17], "m8[h]"), "m8[ns]"),
        (np.array([(1, 2)], "i2, i2"), {"names": ["f1", "f0"], "formats": ["i4", "i4"]}),
        (np.array([(1, [2**60 + 1, 0])], [("a", "i2"), ("b", "i8", 2)]), [("a", "i2"), ("b", "f8", 2)]),
    ],
    ids=str,
)  # fmt: skip
def test_rows_that_numpy_would_change_without_a_word_are_refused(quick: Store, rows: Any, dtype: Any) -> None:
    assert np.can_cast(rows.dtype, np.dtype(dtype), "safe"), "as NumPy has it"
    with pytest.raises(ArrayStreamError, match="cannot hold"), quick.npy_writer(None, dtype) as writer:
        writer.append(rows)
    with pytest.raises(ArrayStreamError, match="cannot hold"):
        quick.store_npy(iter([np.zeros(1, dtype), rows]))


def test_converted_records_have_nothing_of_the_memory_in_their_padding(quick: Store) -> None:
    wide = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    rows = np.ones(5, [("a", "i1"), ("b", "f4")])
    expected = np.zeros(5, wide)
    expected[...] = rows
    for _ in range(20):
        dirty = [np.full(80, 0xAB, np.uint8) for _ in range(50)]
        del dirty
        with quick.npy_writer(None, wide) as writer:
            writer.append(rows)
        assert writer.uri == quick.store_npy(expected)
