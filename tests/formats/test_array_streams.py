"""Arrays that are not in memory: each has the identity of np.asarray of it, or is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kacas import ArrayStreamError, Store, UnsupportedDataError
from kacas.formats import array_blocks
from kacas.formats.array_blocks import is_lazy, is_stored_fortran, parts, read_blocks
from kacas.upkeep.verify import verify

Array = np.ndarray[Any, Any]
on_one_store = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=7)
dtypes = hnp.integer_dtypes() | hnp.floating_dtypes() | hnp.complex_number_dtypes() | hnp.boolean_dtypes()


@pytest.fixture
def quick(tmp_path: Path) -> Store:
    """A store without syncs, for properties."""
    return Store.open(tmp_path / "quick", durability="relaxed")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a few bytes are read in blocks, and in parts of rows."""
    monkeypatch.setattr(array_blocks, "BLOCK", 40)
    monkeypatch.setattr(array_blocks, "_MOST", 100)
    monkeypatch.setattr(read_blocks, "__defaults__", (40, 100))


class Sliced:
    """An array that can only be sliced, as a zarr array can; order: of what it gives."""

    def __init__(self, array: Array, chunks: Any, order: str) -> None:
        self.shape, self.dtype, self.chunks, self.order = array.shape, array.dtype, chunks, order
        self._array = array
        self.reads: list[int] = []

    def __getitem__(self, index: Any) -> Array:
        found = np.array(self._array[index], order=self.order, subok=True)  # type: ignore[call-overload]
        self.reads.append(found.nbytes)
        return found  # type: ignore[no-any-return]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[...]


@st.composite
def arrays(draw: st.DrawFn, dtypes: st.SearchStrategy[Any] = dtypes) -> Array:
    return draw(hnp.arrays(draw(dtypes), draw(shapes)))


@st.composite
def chunked(draw: st.DrawFn) -> tuple[Array, tuple[int, ...]]:
    array = draw(arrays())
    return array, tuple(draw(st.integers(1, max(1, length))) for length in array.shape)


# --- how it is read ---------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.data())
def test_the_parts_are_the_array_in_order_each_within_its_bound(data: st.DataObject) -> None:
    array = np.arange(math.prod(shape := data.draw(shapes)), dtype=np.uint8 if math.prod(shape) < 256 else np.uint16)
    array = array.reshape(shape)
    chunks = data.draw(
        st.none()
        | st.tuples(*(st.integers(1, max(1, length)) for length in shape))
        | st.tuples(*(st.lists(st.integers(1, 3), max_size=4).map(tuple) for _ in shape))
    )
    if chunks and isinstance(chunks[0], tuple):  # as dask says it: the lengths of all
        chunks = tuple(
            (*axis, length - sum(axis)) if sum(axis) < length else (length,)
            for axis, length in zip(chunks, shape, strict=True)
        )
    block = data.draw(st.integers(1, 60))
    most = data.draw(st.integers(block, 200))
    found = [array[part] for part in parts(shape, array.itemsize, chunks, block, most)]
    assert b"".join(part.tobytes() for part in found) == array.tobytes()
    assert all(part.nbytes <= max(most, array.itemsize) for part in found)


def test_parts_are_whole_chunks_where_these_are_small_enough() -> None:
    def ends(*arguments: Any) -> list[int]:
        return [part[0].stop for part in parts(*arguments)]

    assert ends((100, 10), 1, (8, 5), 200, 400) == [16, 32, 48, 64, 80, 100]
    assert ends((100, 10), 1, (30, 5), 200, 400) == [30, 60, 90, 100]  # a chunk is not read twice
    assert ends((100, 10), 1, (50, 5), 200, 400)[:3] == [20, 40, 50]  # but for memory
    assert ends((100, 10), 1, ((7, 3, 40, 50), (10,)), 200, 400)[:3] == [10, 50, 70]
    assert list(parts((2, 3, 100), 1, None, 50, 50))[:3] == [
        (slice(0, 1), slice(0, 1), slice(0, 50)), (slice(0, 1), slice(0, 1), slice(50, 100)),
        (slice(0, 1), slice(1, 2), slice(0, 50)),
    ]  # fmt: skip


# --- identities -------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
@on_one_store
@given(chunked(), st.sampled_from("CF"), st.booleans())
@example((np.zeros((1, 6), np.complex64), (1, 1)), "F", False)
@example((np.zeros((6, 1), np.complex64), (1, 1)), "F", True)
def test_what_is_sliced_has_the_identity_of_the_array(
    quick: Store, pair: tuple[Array, tuple[int, ...]], order: str, regular: bool
) -> None:
    array, chunks = pair
    lazy = Sliced(array, chunks if regular else None, order)
    assert quick.store_npy(lazy) == quick.store_npy(np.asarray(lazy))
    if is_lazy(lazy):
        lazy.reads.clear()
        list(read_blocks(lazy, is_stored_fortran(lazy)))
        assert max(lazy.reads) <= 100


@pytest.mark.usefixtures("small_blocks")
@on_one_store
@given(chunked(), st.booleans(), st.sampled_from(["gzip", None]))
def test_an_hdf5_dataset_has_the_identity_of_its_array(
    quick: Store, tmp_path: Path, pair: tuple[Array, tuple[int, ...]], in_chunks: bool, compression: str | None
) -> None:
    array, chunks = pair
    in_chunks = in_chunks and array.size > 0
    with h5py.File(tmp_path / "data.h5", "w") as file:
        options = {"chunks": chunks, "compression": compression} if in_chunks else {}
        dataset = file.create_dataset("data", data=array, **options)
        assert quick.store_npy(dataset) == quick.store_npy(np.asarray(dataset)) == quick.store_npy(dataset[...])


@pytest.mark.usefixtures("small_blocks")
@on_one_store
@given(st.data())
def test_a_dask_array_has_the_identity_of_what_it_computes(quick: Store, data: st.DataObject) -> None:
    array, chunks = data.draw(chunked())
    lazy = da.from_array(np.asarray(array, order=data.draw(st.sampled_from("CF"))), chunks=chunks)
    change = data.draw(st.sampled_from(["none", "transposed", "sliced", "computed", "stacked"]))
    if change == "transposed":
        lazy = lazy.T
    elif change == "sliced":
        lazy = lazy[1:, ...]
    elif change == "computed":
        lazy = lazy + lazy
    elif change == "stacked":
        lazy = da.stack([lazy, lazy], axis=data.draw(st.integers(0, array.ndim)))
    with np.errstate(all="ignore"):
        assert quick.store_npy(lazy) == quick.store_npy(np.asarray(lazy))


@on_one_store
@given(
    arrays(hnp.scalar_dtypes() | hnp.array_dtypes() | hnp.unicode_string_dtypes()),
    st.lists(st.integers(0, 7), max_size=5),
)
def test_an_iterator_of_blocks_has_the_identity_of_their_concatenation(
    quick: Store, array: Array, cuts: list[int]
) -> None:
    ends = sorted(min(cut, len(array)) for cut in cuts)
    blocks = [array[a:b] for a, b in zip([0, *ends], [*ends, len(array)], strict=True)]
    expected = quick.store_npy(array)
    buffer = np.empty_like(array)

    def reusing() -> Iterator[Array]:
        for block in blocks:
            buffer[: len(block)] = block
            yield buffer[: len(block)]

    if not array.dtype.names:  # copying records, NumPy does not keep their padding
        assert quick.store_npy(reusing()) == expected
    assert quick.store_npy(iter(blocks)) == expected
    assert quick.store_npy(block.tolist() for block in [np.arange(3)]) == quick.store_npy(np.arange(3))


@on_one_store
@given(st.data())
def test_a_memmap_and_any_slice_of_it_has_the_identity_of_the_array(
    quick: Store, tmp_path: Path, data: st.DataObject
) -> None:
    array = data.draw(arrays().filter(lambda array: array.size > 0))
    order = data.draw(st.sampled_from("CF"))
    mapped = np.memmap(tmp_path / "raw", array.dtype, "w+", shape=array.shape, order=order)
    mapped[...] = array
    index = data.draw(hnp.basic_indices(array.shape))
    expected = np.array(mapped, order="K")[index]
    assert quick.store_npy(mapped[index]) == quick.store_npy(np.asarray(expected))


def test_large_arrays_of_every_kind_keep_every_byte(quick: Store, tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 1000, (90_000, 161)).astype("<i2")
    uri = quick.store_npy(array)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for number, options in enumerate(({}, {"chunks": (1000, 161)}, {"chunks": (70_000, 1)}, {"chunks": (1, 161)})):
            assert quick.store_npy(file.create_dataset(str(number), data=array, **options)) == uri
        for chunks in ((1000, 161), (90_000, 20), (89_999, 161), -1):
            assert quick.store_npy(da.from_array(array, chunks=chunks)) == uri
        assert quick.store_npy(da.from_array(file["1"], chunks=(10_000, 161))) == uri
    assert quick.store_npy(array[start : start + 777] for start in range(0, 90_000, 777)) == uri
    assert quick.store_npy(quick.open_npy(uri)) == uri
    fortran = np.asfortranarray(array)
    assert quick.store_npy(Sliced(fortran, None, "F")) == quick.store_npy(fortran)
    assert quick.store_npy(quick.open_npy(quick.store_npy(fortran))) == quick.store_npy(fortran)


@pytest.mark.parametrize("kind", ["scalar", "empty", "no rows", "bool", "compound", "fixed text", "enum", "big-endian"])
def test_odd_hdf5_datasets_have_the_identity_of_their_arrays(quick: Store, tmp_path: Path, kind: str) -> None:
    data: Any = {
        "scalar": np.float64(2.5), "empty": np.zeros(0), "no rows": np.zeros((0, 5), "i2"), "bool": np.array([True, False]),
        "compound": np.array([(1, 2.5)], np.dtype([("a", "i1"), ("b", "f8")], align=True)), "fixed text": np.array([b"ab"]),
        "enum": np.array([1, 0], h5py.enum_dtype({"no": 0, "yes": 1}, "u1")), "big-endian": np.arange(3, dtype=">i4"),
    }[kind]  # fmt: skip
    with h5py.File(tmp_path / "data.h5", "w") as file:
        dataset = file.create_dataset("data", data=data)
        assert quick.store_npy(dataset) == quick.store_npy(np.asarray(dataset))


# --- refusals ---------------------------------------------------------------------------------


def assert_refused(store: Store, value: Any, error: type[Exception], why: str) -> None:
    before = store.stats()
    with pytest.raises(error, match=why):
        store.store_npy(value)
    assert store.stats() == before
    report = verify(store)
    assert report.clean
    assert report.orphans == []


def test_datasets_without_an_array_of_fixed_items_are_refused(store: Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        texts = file.create_dataset("texts", data=["a", "bb"])
        ragged = file.create_dataset("ragged", shape=(10**7,), dtype=h5py.vlen_dtype("i4"))
        null = file.create_dataset("null", data=h5py.Empty("f4"))
        assert_refused(store, texts, UnsupportedDataError, "object")
        assert_refused(store, ragged, UnsupportedDataError, "object")  # before anything is read
        assert_refused(store, null, UnsupportedDataError, "not an array")


@pytest.mark.parametrize(
    "blocks, why",
    [
        ([], "gave no rows"), ([np.zeros(3), np.zeros((3, 1))], "blocks of rows"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], "neither"),
        ([1, 2], "blocks of rows"), ([np.zeros((2, 3)), np.zeros(3)], "blocks of rows"), ([[[1], [2, 3]]], "not an array"),
        ([np.zeros(3, "i2"), np.zeros(3, "i4")], "cannot hold"), ([np.zeros(3), np.ma.masked_array([1.0], [True])], "masked"),
    ],
    ids=str,
)  # fmt: skip
def test_blocks_that_do_not_fit_together_are_refused(store: Store, blocks: list[Any], why: str) -> None:
    assert_refused(store, iter(blocks), ArrayStreamError, why)


def test_an_iterator_of_objects_is_refused(store: Store) -> None:
    assert_refused(store, iter([np.array([None])]), UnsupportedDataError, "object")


@pytest.mark.parametrize("rows", [0, 10, 200_000])
def test_an_error_of_the_iterator_is_its_own_and_nothing_is_stored(store: Store, rows: int) -> None:
    def failing() -> Iterator[Array]:
        yield np.zeros((rows, 20))
        raise LookupError("the instrument was unplugged")

    assert_refused(store, failing(), LookupError, "unplugged")


@pytest.mark.usefixtures("small_blocks")
def test_masked_blocks_of_dask_are_refused(store: Store) -> None:
    masked = np.ma.masked_greater(np.arange(100.0).reshape(20, 5), 50)
    assert_refused(store, da.from_array(masked, chunks=(4, 5), asarray=False), UnsupportedDataError, "masked")
    assert_refused(store, da.from_array(masked, chunks=-1, asarray=False), UnsupportedDataError, "masked")


@pytest.mark.usefixtures("small_blocks")
def test_an_array_that_is_not_what_it_says_is_refused(store: Store) -> None:
    lazy = Sliced(np.arange(1000), None, "C")
    lazy.dtype = np.dtype("i4")
    assert_refused(store, lazy, ArrayStreamError, "int64")
    shrunk = Sliced(np.arange(1000), None, "C")
    shrunk.shape = (1200,)
    assert_refused(store, shrunk, ArrayStreamError, "changed meanwhile")
    assert_refused(store, Sliced(np.ma.masked_greater(np.arange(1000), 50), None, "C"), ArrayStreamError, "masked")
    failing = da.from_array(np.arange(1000.0), chunks=10).map_blocks(lambda block: 1 // 0, dtype="f8", meta=np.zeros(1))
    assert_refused(store, failing, ZeroDivisionError, "division")


def test_what_has_labels_or_says_no_dtype_is_taken_whole() -> None:
    array = np.zeros((10_000, 1000))
    lazy = Sliced(array, None, "C")
    assert is_lazy(lazy)
    assert not is_lazy(array)
    assert not is_lazy(np.memmap)
    assert not is_lazy(Sliced(array[:10], None, "C")), "it fits in a block"
    lazy.values = array  # type: ignore[attr-defined]  # as those of pandas and xarray
    assert not is_lazy(lazy)
    assert not is_lazy(da.from_array(array, chunks=-1)), "only its one block knows its order"
    assert is_lazy(da.from_array(array, chunks=(100, 1000)))
