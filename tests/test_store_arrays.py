"""Arrays: stored as exactly the file that np.save writes, loaded as np.load does, sliced as NumPy does."""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
import warnings
from collections import UserDict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kacas import ArrayStreamError, Store, UnsupportedDataError, WrongKindError
from kacas.codec_choice import EXPLICIT
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.uri import parse_uri

Array = np.ndarray[Any, Any]

on_one_store = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def quick(tmp_path: Path) -> Store:
    """A store without syncs, for properties."""
    return Store.open(tmp_path / "quick", durability="relaxed")


def saved(array: Array) -> bytes:
    """The file that np.save writes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # format 3.0, for field names that are not latin-1
        np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def assert_like_np_load(loaded: Array, file: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.load(io.BytesIO(file), max_header_size=100_000)
    assert type(loaded) is np.ndarray
    assert loaded.dtype == expected.dtype
    assert loaded.dtype.str == expected.dtype.str
    assert loaded.shape == expected.shape
    assert loaded.flags.writeable
    if not loaded.nbytes:
        return
    for flag in ("c_contiguous", "f_contiguous", "aligned"):
        assert getattr(loaded.flags, flag) == getattr(expected.flags, flag), flag
    # The data to the last byte: of padding between fields, np.load itself keeps nothing.
    in_order = loaded if loaded.flags.c_contiguous else loaded.T
    assert in_order.reshape(-1).view(np.uint8).tobytes() == file[-loaded.nbytes :]


def check(store: Store, array: Array) -> str:
    """Store and load it, and compare all that there is to compare. Returns the URI."""
    file = saved(array)
    uri = store.store_npy(array)
    assert parse_uri(uri).sha1 == hashlib.sha1(file).digest()
    assert store.load_bytes(uri) == file
    assert_like_np_load(store.load_npy(uri), file)
    description = store.describe(uri)
    assert (description.kind, description.size, description.shape) == ("npy", len(file), array.shape)
    assert description.dtype == str(store.load_npy(uri).dtype)
    return uri


dtypes = hnp.scalar_dtypes() | hnp.unicode_string_dtypes() | hnp.byte_string_dtypes() | hnp.array_dtypes() | (
    hnp.nested_dtypes()
)  # fmt: skip


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Any dtype without objects in any layout: C, Fortran, strided, reversed, transposed, broadcast, 0-d, empty."""
    dtype = draw(dtypes.filter(lambda dtype: dtype.subdtype is None))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    array = draw(hnp.arrays(dtype, shape, fill=st.nothing() if dtype.names else None))
    layout = draw(st.sampled_from(["C", "F", "transposed", "reversed", "strided", "broadcast", "swapped"]))
    if layout == "F":
        array = np.asfortranarray(array) if array.ndim else array
    elif layout == "transposed":
        array = array.T
    elif layout == "reversed":
        array = array[::-1] if array.ndim else array
    elif layout == "strided":
        array = array[..., ::2] if array.ndim else array
    elif layout == "broadcast":
        array = np.broadcast_to(array, (2, *array.shape))
    elif layout == "swapped" and array.ndim > 2:
        array = np.moveaxis(array, 0, 1)
    return array


@on_one_store
@given(arrays())
@example(np.zeros((), "S0"))
@example(np.arange(3.0, dtype=np.longdouble))
def test_every_array_is_the_file_that_np_save_writes_and_loads_as_np_load_does(quick: Store, array: Array) -> None:
    check(quick, array)


@pytest.mark.parametrize("codec", EXPLICIT)
@pytest.mark.parametrize("dtype", ["<i2", "<f8", "c16", "U0", "U2", "S0", "V0", "M8[s]"])
@pytest.mark.parametrize("shape", [(0,), (5,), (3, 0), (0, 3), (2, 5), (2, 0, 5)], ids=str)
def test_every_codec_keeps_arrays_of_few_bytes_and_of_none(
    quick: Store, dtype: str, shape: tuple[int, ...], codec: str
) -> None:
    array = np.ndarray(shape, dtype, bytes(1000))
    uri = quick.store_npy(array, codec=codec)
    assert_like_np_load(quick.load_npy(uri), saved(array))
    assert quick.load_bytes(uri) == saved(array)


@pytest.mark.parametrize(
    "dtype",
    [
        ">i4", "<f2", "?", "c16", ">M8[25us]", "m8[s]", "M8", "V5", "S0", "U0", "V0", "U3", ">U3", "S1",
        [("a", "i2"), ("b", ">f8", (2, 3)), ("c", [("x", "U2")])],
        [(("a title", "a"), "i4")],
        np.dtype([("a", "i1"), ("b", "f8")], align=True),
        {"names": ["a"], "formats": ["f4"], "offsets": [1], "itemsize": 7},
        [("größe", "f4")], [("長さ", "f4")],
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (3, 0, 2)], ids=str)
def test_every_kind_of_dtype_keeps_its_bytes(store: Store, dtype: Any, order: Any, shape: tuple[int, ...]) -> None:
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    data = (
        (np.arange(size // 4 + 1).astype("u4") % 1000).tobytes()
        if kind.kind == "U"
        else bytes(i % 2 for i in range(size))
    )
    if kind.str.startswith(">U"):
        data = np.frombuffer(data, "<u4").astype(">u4").tobytes()
    check(store, np.ndarray(shape, kind, data[:size], order=order))


@pytest.mark.parametrize(
    "value", [3, 2.5, True, 1j, np.str_("text"), np.bytes_(b"b"), [1, 2], [[1.5], [2.5]], (), range(5)], ids=repr
)
def test_what_numpy_makes_an_array_of_is_stored_as_that(store: Store, value: Any) -> None:
    assert store.store_npy(value) == store.store_npy(np.asarray(value))
    np.testing.assert_array_equal(store.load_npy(store.store_npy(value)), np.asarray(value))


@pytest.mark.parametrize(
    "value, why",
    [
        (np.array([1, None]), "object"),
        (np.zeros(2, [("a", "i4"), ("b", "O")]), "'b'"),
        (np.ma.masked_array([1, 2], [True, False]), "masked"),
        ([[1], [2, 3]], "not an array"),
        (object(), "object"),
        ("array.npy", "not str: to store the file"),
        (bytearray(b"bytes"), "not bytearray: to store the file"),
        (UserDict(x=np.zeros(2)), "UserDict holds arrays by name"),
        (np.array(["a"], np.dtypes.StringDType()), "(?i)string"),
    ],
    ids=["objects", "field", "masked", "ragged", "object", "name", "bytearray", "by name", "StringDType"],
)
def test_what_npy_has_no_bytes_for_is_refused_by_name(store: Store, value: Any, why: str) -> None:
    with pytest.raises(UnsupportedDataError, match=why):
        store.store_npy(value)
    assert store.stats().packs == 0


def test_gaps_between_fields_have_the_bytes_of_the_array_also_where_it_is_not_contiguous(quick: Store) -> None:
    kind = np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [0, 16], "itemsize": 40})
    array = np.frombuffer(np.random.default_rng(0).bytes(40 * 60_000), kind).reshape(300, 200)
    for strided in (array[::3], array[:, ::2], array[::-1]):
        in_order = np.ascontiguousarray(strided.view("V40")).tobytes()
        for chunks in (None, (10, 30)):
            uri = quick.store_npy(strided, chunks=chunks)
            assert quick.load_bytes(uri, -len(in_order)) == in_order
            assert (
                quick.open_npy(uri)[1:2].tobytes()
                == in_order[: 2 * len(in_order) // len(strided)][-40 * strided.shape[1] :]
            )


def test_a_file_of_several_arrays_is_not_taken_for_their_names(store: Store, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(5))
    with h5py.File(tmp_path / "a.h5", "w") as group, np.load(tmp_path / "a.npz") as arrays:
        group["x"] = np.arange(5)
        for held in (group, arrays):
            with pytest.raises(UnsupportedDataError, match="holds arrays by name"):
                store.store_npy(held)
            with pytest.raises(ArrayStreamError, match="holds arrays by name"):
                store.store_npy(iter([held, held]))
        assert store.store_npy(arrays["x"]) == store.store_npy(group["x"])


def random_array(shape: tuple[int, ...], dtype: str = "<i2", seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(dtype)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "shape",
    [
        (CHUNK_TARGET - 128,), (CHUNK_TARGET - 127,), (CHUNK_TARGET,), (CHUNK_TARGET * 2 + 5,),  # around one chunk
        (4 << 20,), ((4 << 20) - 129,), (5 << 20,), (9_000_017,),  # around blocks
        (300, 30_011), (30_011, 300), (3, 1_000_003), (7, 501, 1003), (2, 2, 2, 300_001),
    ],
    ids=str,
)  # fmt: skip
def test_large_arrays_of_any_shape_keep_every_byte(quick: Store, shape: tuple[int, ...], order: Any) -> None:
    check(quick, np.asarray(random_array(shape, "u1"), order=order))


def test_large_arrays_that_are_not_contiguous_keep_every_byte(quick: Store) -> None:
    whole = random_array((400, 300, 40))
    for view in (
        whole[::2], whole[:, ::3], whole[..., 1::2], whole[::-1], whole.transpose(1, 0, 2), whole.transpose(1, 2, 0),
        whole[5:, 7:, 3:], np.broadcast_to(whole[:1], (100, 300, 40)), whole[:, 0, 0], whole.T[::2],
    ):  # fmt: skip
        check(quick, view)


@pytest.mark.parametrize("itemsize", [300_000, CHUNK_TARGET, CHUNK_TARGET + 1])
def test_items_larger_than_a_chunk_keep_every_byte(quick: Store, itemsize: int) -> None:
    data = np.random.default_rng(1).bytes(itemsize * 5)
    check(quick, np.frombuffer(data, f"V{itemsize}"))


def test_an_array_that_grew_shares_what_it_had(quick: Store) -> None:
    rows = random_array((12_000, 150))
    quick.store_npy(rows[:10_000])
    before = quick.stats()
    quick.store_npy(rows)
    after = quick.stats()
    assert after.raw_size - before.raw_size < rows[10_000:].nbytes + 2 * CHUNK_TARGET


def test_a_loaded_array_can_be_changed_without_changing_what_is_stored(quick: Store) -> None:
    array = random_array((1000, 300))
    uri = quick.store_npy(array)
    loaded = quick.load_npy(uri)
    loaded[:] = 0
    np.testing.assert_array_equal(quick.load_npy(uri), array)


# --- slices -----------------------------------------------------------------------------------


@pytest.fixture
def stored(quick: Store, tmp_path: Path) -> list[tuple[Array, str]]:
    """Arrays of many chunks, by store_npy and as files that np.save wrote."""
    pairs = []
    for array in (random_array((2000, 150)), np.asfortranarray(random_array((700, 20, 30), ">i4"))):
        np.save(tmp_path / "array.npy", array)
        pairs += [(array, quick.store_npy(array)), (array, quick.store_file(tmp_path / "array.npy"))]
    return pairs


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.integers(0, 3))
def test_slices_of_a_lazy_array_are_numpys(
    quick: Store, stored: list[tuple[Array, str]], data: st.DataObject, which: int
) -> None:
    array, uri = stored[which]
    lazy = quick.open_npy(uri)
    basic = hnp.basic_indices(array.shape, allow_newaxis=True)
    picked = st.lists(st.integers(-array.shape[0], array.shape[0] - 1), max_size=5)
    index = data.draw(basic | picked | st.tuples(st.slices(array.shape[0]), st.lists(st.integers(-20, 19), max_size=3)))
    expected = array[index]
    found = lazy[index]
    assert found.dtype == expected.dtype
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_array_equal(found, expected)


def test_a_lazy_array_says_what_it_is_without_reading_it(quick: Store, stored: list[tuple[Array, str]]) -> None:
    for array, uri in stored:
        lazy = quick.open_npy(uri)
        assert (lazy.shape, lazy.dtype, lazy.ndim, lazy.size) == (array.shape, array.dtype, array.ndim, array.size)
        assert (lazy.nbytes, len(lazy), lazy.uri) == (array.nbytes, len(array), uri)
        assert str(array.shape) in repr(lazy)


def test_a_lazy_array_becomes_an_array(quick: Store, stored: list[tuple[Array, str]]) -> None:
    for array, uri in stored:
        lazy = quick.open_npy(uri)
        np.testing.assert_array_equal(np.asarray(lazy), array)
        np.testing.assert_array_equal(np.array(lazy, dtype=np.float64), array.astype(np.float64))
        np.testing.assert_array_equal(np.sum(lazy, axis=0), array.sum(axis=0))
        with pytest.raises(ValueError, match="copied"):
            np.asarray(lazy, copy=False)
        assert_like_np_load(lazy.load(), saved(array))
        for found, expected in zip(lazy, array[:3], strict=False):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("index", [2000, -2001, (0, 150), [1, 2000], (0, 0, 0), "a", 1.5], ids=repr)
def test_an_index_that_numpy_refuses_is_refused(quick: Store, index: Any) -> None:
    array = random_array((2000, 150))
    with pytest.raises(IndexError):
        array[index]
    with pytest.raises(IndexError):
        quick.open_npy(quick.store_npy(array))[index]


def test_a_pickled_lazy_array_reads_in_another_process(quick: Store) -> None:
    """As multiprocessing, dask and joblib hand it to their workers."""
    lazy = quick.open_npy(quick.store_npy(np.arange(60_000).reshape(-1, 10), chunks=(1000, 5)))
    quick.close()
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[5000:5002, 3].tolist())"
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(lazy), capture_output=True, check=False)
    assert done.stdout.decode().strip() == "[50003, 50013]", done.stderr.decode()


def test_an_array_of_no_dimensions_is_read_by_the_empty_index(quick: Store) -> None:
    lazy = quick.open_npy(quick.store_npy(np.float64(2.5)))
    assert lazy[()] == lazy[...] == 2.5
    assert (lazy.shape, lazy.size) == ((), 1)
    with pytest.raises(TypeError, match="len"):
        len(lazy)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_files_of_every_version_can_be_loaded(quick: Store, tmp_path: Path, version: tuple[int, int]) -> None:
    array = random_array((40, 50))
    with open(tmp_path / "array.npy", "wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.lib.format.write_array(file, array, version)
    uri = quick.store_file(tmp_path / "array.npy")
    np.testing.assert_array_equal(quick.load_npy(uri), array)
    assert quick.describe(uri).shape == (40, 50)


def test_a_long_header_is_read(quick: Store) -> None:
    array = np.zeros(3, [(f"field number {i}", "f4") for i in range(500)])
    check(quick, array)


@pytest.mark.parametrize("change", [b"", b"x"], ids=["cut short", "longer"])
def test_a_file_that_is_longer_or_shorter_than_its_header_says_is_no_array(quick: Store, change: bytes) -> None:
    file = saved(random_array((100, 100)))
    uri = quick.store_bytes(file + change if change else file[:-1])
    with pytest.raises(WrongKindError, match="declares 20000 bytes of data"):
        quick.load_npy(uri)


def test_a_file_of_python_objects_is_no_array_to_load(quick: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    uri = quick.store_file(tmp_path / "objects.npy")
    with pytest.raises(WrongKindError):
        quick.load_npy(uri)
    assert quick.load_bytes(uri) == (tmp_path / "objects.npy").read_bytes()


@pytest.mark.parametrize("value", ["file.npy", b"file.npy", bytearray(b"file.npy"), Path("file.npy")])
def test_the_name_of_a_file_is_no_array(store: Store, value: Any) -> None:
    with pytest.raises(UnsupportedDataError, match="use store_file"):
        store.store_npy(value)


@pytest.mark.parametrize("value", [np.str_("a"), np.bytes_(b"a"), np.array("a"), np.array(["a", "bc"]), ["a", "bc"]])
def test_arrays_of_text_are_arrays(store: Store, value: Any) -> None:
    found = store.load_npy(store.store_npy(value))
    assert found.dtype == np.asarray(value).dtype
    assert np.array_equal(found, value)
