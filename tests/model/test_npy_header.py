"""The .npy header is byte for byte what NumPy 2.x writes, and reading one is safe whatever it says."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

from kacas.errors import UnsupportedDataError
from kacas.model.npy_header import (
    MAX_HEADER_SIZE,
    NpyHeader,
    decode_dtype,
    encode_dtype,
    encode_header,
    is_fortran,
    parse_header,
)

Array = np.ndarray[Any, Any]

scalar_dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64, 128)),
    hnp.complex_number_dtypes(endianness="?", sizes=(64, 128, 256)),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
    hnp.byte_string_dtypes(endianness="?"),
    hnp.unicode_string_dtypes(endianness="?"),
    st.integers(0, 9).map(lambda size: np.dtype(f"V{size}")),
    st.sampled_from(["M8[25s]", ">m8[7ms]", "<M8", "m8", "S0", ">U0", "c", "G"]).map(np.dtype),
)
field_names = st.text(min_size=1, max_size=5)


@st.composite
def structured(draw: st.DrawFn, fields: st.SearchStrategy[np.dtype[Any]]) -> np.dtype[Any]:
    """Records with subarrays, titles, alignment, and trailing padding."""
    labels = draw(st.lists(field_names, max_size=8, unique=True))
    names, titles = labels[: len(labels) // 2 + 1], labels[len(labels) // 2 + 1 :]
    parts: list[Any] = []
    for number, name in enumerate(names):
        label = (titles[number], name) if number < len(titles) else name
        field = draw(fields)
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=3))
        parts.append((label, field, shape) if field.itemsize else (label, field))
    dtype = np.dtype(parts, align=draw(st.booleans()))
    if draw(st.booleans()):
        dtype = np.dtype([("a", dtype), ("b", "u1")], align=True)
    if draw(st.booleans()):
        dtype = np.dtype({"names": ["a"], "formats": [dtype], "offsets": [3], "itemsize": dtype.itemsize + 5})
    return dtype


dtypes = scalar_dtypes | st.recursive(scalar_dtypes, structured, max_leaves=4)
shapes = st.just(()) | hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)


def saved(array: Array) -> bytes:
    """What np.save writes (np.lib.format warns about version 3.0)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Arrays with random bytes in C order, Fortran order, or neither."""
    dtype, shape = draw(dtypes), draw(shapes)
    size = math.prod(shape) * dtype.itemsize
    array: Array = np.ndarray(shape, dtype, buffer=bytearray(draw(st.binary(min_size=size, max_size=size))))
    kind = draw(st.sampled_from(["C", "F", "reversed", "stepped"]))
    if kind == "F":
        return array.T
    if kind == "reversed":
        return array[..., ::-1] if shape else array
    return array[::2] if kind == "stepped" and shape else array


@settings(deadline=None)
@given(array=arrays())
def test_header_and_data_are_the_file_that_np_save_writes(array: Array) -> None:
    header = encode_header(array.dtype, array.shape, is_fortran(array))
    file = saved(array)
    assert header == file[: len(header)]
    assert len(file) == len(header) + array.nbytes
    if "('', '|V" not in str(encode_dtype(array.dtype)):  # NumPy leaves to chance what is in copied padding
        assert file[len(header) :] == array.tobytes("F" if is_fortran(array) else "C")


@settings(deadline=None)
@given(array=arrays())
def test_what_is_encoded_is_parsed_back(array: Array) -> None:
    data = encode_header(array.dtype, array.shape, is_fortran(array))
    header = parse_header(memoryview(data + b"data after it"))
    assert (header.dtype, header.shape, header.fortran_order) == (array.dtype, array.shape, is_fortran(array))
    assert (header.size, header.data_size) == (len(data), array.size * array.dtype.itemsize)


@settings(deadline=None)
@given(dtype=dtypes)
def test_a_descr_is_read_as_numpy_reads_it(dtype: np.dtype[Any]) -> None:
    descr = encode_dtype(dtype)
    assert descr == np.lib.format.dtype_to_descr(dtype)
    assert decode_dtype(descr) == np.lib.format.descr_to_dtype(descr) == dtype


@pytest.mark.parametrize("shape", [(), (3,), (10**12, 4), (4, 10**12), (12345, 1, 0)])
@pytest.mark.parametrize("fortran_order", [False, True])
def test_the_padding_is_numpys_at_every_length(shape: tuple[int, ...], fortran_order: bool) -> None:
    for length in range(1, 140):  # two lines of 64 bytes
        descr = [("x" * length, "<i4")]
        expected = io.BytesIO()
        np.lib.format.write_array_header_1_0(expected, {"descr": descr, "fortran_order": fortran_order, "shape": shape})
        assert encode_header(np.dtype(descr), shape, fortran_order) == expected.getvalue()


def test_the_identity_of_the_known_array() -> None:
    array = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)
    data = encode_header(array.dtype, array.shape, is_fortran(array)) + array.tobytes()
    assert hashlib.sha1(data).hexdigest() == "bb55205a2482c6db2ace544fc7d8397551110701"


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 1), (0, 3), (2, 3), ()])
def test_arrays_in_both_orders_are_written_in_c_order(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, order="F")
    assert is_fortran(array) == (shape == (2, 3))


def test_the_shape_may_hold_numpy_integers() -> None:
    assert encode_header(np.dtype("i4"), (np.int64(3),), False) == encode_header(np.dtype("i4"), (3,), False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }",  # NumPy < 1.23: no growth padding
        "{'shape': (3, 4), 'fortran_order': False, 'descr': '<f8'}",
        "{'descr': 'f8', 'fortran_order': False, 'shape': (3, 4)}\n",
        "  {'descr': '=f8', 'fortran_order': False, 'shape': (3, 4), }          \n",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_of_other_versions_and_writers_are_read(text: str, version: int) -> None:
    data = written(text, version)
    header = parse_header(data)
    assert header == NpyHeader(np.dtype("f8"), (3, 4), False, len(data))


def written(text: str, version: int = 1) -> bytes:
    body = text.encode("latin1" if version < 3 else "utf8")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(body)) + body


def test_padding_and_metadata_are_no_fields() -> None:
    dtype = np.dtype({"names": ["b"], "formats": [np.dtype("i2", metadata={"unit": "V"})], "offsets": [2]})
    assert encode_dtype(dtype) == [("", "|V2"), ("b", "<i2")]
    assert decode_dtype([("", "|V2"), ("b", "<i2")]).names == ("b",)


@pytest.mark.parametrize(
    "dtype, words",
    [
        (np.dtype(object), "the array has dtype object"),
        (np.dtype([("a", "i4"), ("b", [("c", object, (2,))])]), r"field 'b'\['c'\] has dtype object"),
        (np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [4, 0]}), "field 'b' overlaps"),
        (np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 0]}), "field 'b' overlaps"),
        (np.dtype((np.int32, [("a", "i2"), ("b", "i2")])), "no words"),
        (np.dtype({"names": [""], "formats": ["V4"]}), "no words"),
        (np.dtype({"names": ["a"], "formats": ["i4"], "titles": [5]}), "no words"),
        (np.dtype(("i4", (2,))), "no words"),
        (np.dtypes.StringDType(), "dtype StringDType"),
        (np.dtype([(f"field_{number:05}", "<f8") for number in range(3000)]), "header of this dtype takes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_said_is_refused_in_words(dtype: np.dtype[Any], words: str) -> None:
    with pytest.raises(UnsupportedDataError, match=words):
        encode_header(dtype, (1,), False)


def test_the_largest_header_is_read_back() -> None:
    count = next(n for n in range(3000, 0, -1) if fits(n))
    assert MAX_HEADER_SIZE - 64 <= len(encode_header(many_fields(count), (1,), False)) <= MAX_HEADER_SIZE
    assert parse_header(encode_header(many_fields(count), (1,), False)).dtype == many_fields(count)


def many_fields(count: int) -> np.dtype[Any]:
    return np.dtype([(f"field_{number:05}", "<f8") for number in range(count)])


def fits(count: int) -> bool:
    try:
        encode_header(many_fields(count), (1,), False)
    except UnsupportedDataError:
        return False
    return True


GOOD = "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{'descr': '<f8', 'fortran_order': False}",
        GOOD.replace("}", "'x': 1}"),
        GOOD.replace("(3, 4)", "[3, 4]"),
        GOOD.replace("(3, 4)", "(True,)"),
        GOOD.replace("(3, 4)", "(-1,)"),
        GOOD.replace("(3, 4)", "(3L, 4L)"),
        GOOD.replace("(3, 4)", "(1.0,)"),
        GOOD.replace("(3, 4)", repr((1,) * 65)),
        GOOD.replace("(3, 4)", "(2**3,)"),
        GOOD.replace("(3, 4)", f"({2**60},)"),
        GOOD.replace("(3, 4)", f"({2**62}, {2**62}, 0)"),
        GOOD.replace("(3, 4)", "(0x" + "f" * 5000 + ",)"),
        GOOD.replace("(3, 4)", "(" + "9" * 5000 + ",)"),
        GOOD.replace("False", "0"),
        GOOD.replace("False", "None"),
        GOOD.replace("'<f8'", "'|O'"),
        GOOD.replace("'<f8'", "'O8'"),
        GOOD.replace("'<f8'", "'<f8,<f8'"),
        GOOD.replace("'<f8'", "'(1000000000,)f8'"),
        GOOD.replace("'<f8'", "'float64'"),
        GOOD.replace("'<f8'", "'<f7'"),
        GOOD.replace("'<f8'", "'<M8[0s]'"),
        GOOD.replace("'<f8'", "'<M8[99999999999999s]'"),
        GOOD.replace("'<f8'", "'|S9999999999'"),
        GOOD.replace("'<f8'", "('<f8', (2,))"),
        GOOD.replace("'<f8'", "{'names': ['a'], 'formats': ['<f8']}"),
        GOOD.replace("'<f8'", "[('a', '|O')]"),
        GOOD.replace("'<f8'", "[('a', '<f8', [('b', '<i4')])]"),
        GOOD.replace("'<f8'", "[('a', '<f8', {'b': 1})]"),
        GOOD.replace("'<f8'", "[('a', '<f8', (-1,))]"),
        GOOD.replace("'<f8'", "[('a', '<f8', (2147483647, 2147483647))]"),
        GOOD.replace("'<f8'", "[('a', '|V2147483647'), ('b', '|V2147483647')]"),
        GOOD.replace("'<f8'", "[('a', '<f8'), ('a', '<f8')]"),
        GOOD.replace("'<f8'", "[(1, '<f8')]"),
        GOOD.replace("'<f8'", "[('a',)]"),
        GOOD.replace("'<f8'", "['<f8']"),
        GOOD.replace("'<f8'", "[" * 190 + "]" * 190),
        GOOD.replace("'<f8'", "-" * 60000 + "1"),
        GOOD.replace("'<f8'", "[" * 60000),
        GOOD.replace("'<f8'", "1j+" * 15000 + "1j"),
        GOOD.replace("'<f8'", "0x" + "f" * 5000 + "+1j"),
        GOOD.replace("'<f8'", "__import__('os').system('false')"),
        GOOD.replace("'<f8'", "\0"),
        "{**{}}",
        "{[]: 1}",
    ],
    ids=lambda text: text[:50],
)
@pytest.mark.parametrize("version", [1, 3])
def test_a_header_that_is_none_is_a_value_error(text: str, version: int) -> None:
    with pytest.raises(ValueError, match=r"\.npy|descr") as caught:
        parse_header(written(text, version))
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x01\x00v",
        b"\x93NUMPY\x01\x00\x00\x00",
        b"PK\x03\x04" + bytes(100),
        b"\x93NUMPY\x04\x00" + bytes(100),
        b"\x93NUMPY\x01\x01" + written(GOOD)[8:],
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        written(GOOD)[:-1],
        written("\xe9" * 10, 1).replace(b"\x01\x00", b"\x03\x00", 1),
    ],
)
def test_bytes_that_are_no_header_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_header(data)


def test_a_shared_or_cyclic_descr_is_bounded() -> None:
    shared: Any = "|u1"
    for _ in range(64):
        shared = [("a", shared), ("b", shared)]
    cyclic: list[Any] = []
    cyclic.append(("a", cyclic))
    deep: Any = "|u1"
    for _ in range(5000):
        deep = [("a", deep)]
    for descr in (shared, cyclic, deep):
        with pytest.raises(ValueError):
            decode_dtype(descr)


@settings(deadline=None)
@given(
    data=st.binary(max_size=200)
    | st.text(alphabet="{}[](),:'<|>descrfortan_orderFalseTrueshape0123456789fiOVSULMm8-+*. \n\\\"#", max_size=200).map(
        written
    )
)
def test_parsing_anything_raises_nothing_but_value_error(data: bytes) -> None:
    try_to_parse(data)


@settings(deadline=None)
@given(array=arrays(), edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4))
@example(array=np.zeros(3), edits=[])
def test_parsing_a_damaged_header_raises_nothing_but_value_error(array: Array, edits: list[tuple[int, int]]) -> None:
    data = bytearray(encode_header(array.dtype, array.shape, is_fortran(array)))
    for position, byte in edits:
        data[position % len(data)] = byte
    try_to_parse(bytes(data))


def try_to_parse(data: bytes) -> None:
    try:
        header = parse_header(data)
    except ValueError:
        pass
    else:
        assert 0 <= header.data_size < 2**63
        assert not header.dtype.hasobject
        assert header.size <= len(data)
        if header.data_size < 2**20:
            assert_array_equal(np.zeros(header.shape, header.dtype).shape, header.shape)
