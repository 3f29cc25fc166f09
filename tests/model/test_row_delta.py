"""Row delta: whatever the bytes, they come back; and parameters that cannot be are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.model.row_delta import MARGIN, Difference, RowDelta, buffers, decode_row_delta

deltas = st.builds(
    lambda difference, item_size, columns: RowDelta(difference, item_size, item_size * columns),
    st.sampled_from(Difference),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 40),
)


def filtered(delta: RowDelta, raw: bytes) -> bytes:
    out, spare = np.empty(len(raw), np.uint8), np.empty(len(raw), np.uint8)
    return bytes(delta.apply(memoryview(raw), out, spare).tobytes())


def restored(delta: RowDelta, data: bytes) -> bytes:
    out, (filtered, spare) = bytearray(len(data)), buffers(MARGIN + len(data))
    filtered[MARGIN:] = np.frombuffer(data, np.uint8)
    delta.undo(filtered, memoryview(out), spare)
    assert not filtered[:MARGIN].any()
    assert not spare[:MARGIN].any()
    return bytes(out)


@given(deltas, st.binary(max_size=3000))
def test_any_bytes_come_back(delta: RowDelta, data: bytes) -> None:
    raw = data[: len(data) // delta.item_size * delta.item_size]
    assert restored(delta, filtered(delta, raw)) == raw
    assert filtered(delta, restored(delta, raw)) == raw, "it is a permutation of all such bytes"


def plainly(delta: RowDelta, raw: bytes) -> bytes:
    """The filtered bytes, one item after the other, as the definition has it."""
    bits, columns = 8 * delta.item_size, delta.row_size // delta.item_size
    items = np.frombuffer(raw, f"<u{delta.item_size}").tolist()
    found = []
    for item, above in zip(items, [*[0] * columns, *items], strict=False):
        if delta.difference == Difference.XOR:
            found.append(item ^ above)
        else:
            number = (item - above) % 2**bits
            found.append(2 * number if number < 2 ** (bits - 1) else 2 * (2**bits - number) - 1)
    return np.array(found, f"<u{delta.item_size}").tobytes()


@given(
    st.sampled_from(Difference),
    st.sampled_from([1, 2, 4, 8]),
    st.one_of(st.integers(1, 4), st.integers(5, 10_000)),
    st.one_of(st.integers(0, 100), st.integers(0, 20_000)),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_few_columns_and_many_are_filtered_and_restored_as_the_definition_has_it(
    difference: Difference, item_size: int, columns: int, count: int, seed: int
) -> None:
    delta = RowDelta(difference, item_size, columns * item_size)
    raw = np.random.default_rng(seed).bytes(count * item_size)
    expected = plainly(delta, raw)
    assert filtered(delta, raw) == expected
    assert restored(delta, expected) == raw


@pytest.mark.parametrize("size", [1, 64, 1000, 262_144])
def test_buffers_begin_with_a_cache_line_and_share_no_byte(size: int) -> None:
    one, other = buffers(size)
    assert len(one) == len(other) == size
    assert one.ctypes.data % 64 == other.ctypes.data % 64 == 0
    one[:] = 1
    assert not other.any()


def test_what_is_written_in_the_formats_page() -> None:
    rows = np.array([[100, -7], [101, -9], [99, -9]], "<i2")
    delta = RowDelta(Difference.SUBTRACT, 2, 4)
    assert np.frombuffer(filtered(delta, rows.tobytes()), "<u2").tolist() == [200, 13, 2, 3, 3, 0]
    floats = np.array([[1.0], [1.5]], "<f4")
    xor = RowDelta(Difference.XOR, 4, 4)
    assert np.frombuffer(filtered(xor, floats.tobytes()), "<u4").tolist() == [0x3F800000, 0x00400000]
    assert delta.encode() == bytes.fromhex("0102000004000000")


@given(deltas)
def test_parameters_come_back(delta: RowDelta) -> None:
    assert decode_row_delta(delta.encode(), 8 * delta.row_size) == delta


@pytest.mark.parametrize(
    "parameters, size",
    [
        ("", 16),
        ("01020000040000", 16),
        ("010200000400000000", 16),
        ("0002000004000000", 16),
        ("0302000004000000", 16),
        ("0103000006000000", 18),
        ("0102000000000000", 16),
        ("0102000003000000", 16),
        ("0102000004000000", 15),
    ],
    ids=["none", "short", "long", "kind 0", "kind 3", "items of 3", "no row", "half a row", "half an item"],
)
def test_parameters_that_cannot_be_are_refused(parameters: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"row delta|no items"):
        decode_row_delta(bytes.fromhex(parameters), size)
