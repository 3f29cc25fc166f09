"""Arrays written by rows: the identity of the whole array, or nothing at all."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kacas import ArrayStreamError, InvalidSettingError, NpyWriter, Store, StoreClosedError, UnsupportedDataError
from kacas.upkeep.verify import verify
from tests.faults import children

Array = np.ndarray[Any, Any]
on_one_store = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
dtypes = hnp.scalar_dtypes() | hnp.unicode_string_dtypes() | hnp.byte_string_dtypes() | hnp.array_dtypes()


@pytest.fixture
def quick(tmp_path: Path) -> Store:
    """A store without syncs, for properties."""
    return Store.open(tmp_path / "quick", durability="relaxed")


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    dtype = draw(dtypes.filter(lambda dtype: dtype.subdtype is None))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6))
    return draw(hnp.arrays(dtype, shape, fill=st.nothing() if dtype.names else None))


def blocks_of(array: Array, cuts: list[int]) -> list[Array]:
    """The array's rows in blocks; a cut may be empty."""
    ends = sorted(min(cut, len(array)) for cut in cuts)
    return [array[a:b] for a, b in zip([0, *ends], [*ends, len(array)], strict=True)]


def assert_nothing_stored(store: Store, before: Any) -> None:
    assert store.stats() == before
    report = verify(store)
    assert report.clean
    assert report.orphans == []
    assert not any(thread.name == "kacas-npy-writer" for thread in threading.enumerate())


def write(store: Store, shape: Any, dtype: Any, *blocks: Any, error: BaseException | None = None) -> str:
    """Write an array by these blocks; its URI. error: raised at the end of the block."""
    with store.npy_writer(shape, dtype) as writer:
        for block in blocks:
            writer.append(block)
        if error is not None:
            raise error
    return writer.uri


def random_rows(rows: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(0, 1000, (rows, 160)).astype("<i2")


@on_one_store
@given(arrays(), st.lists(st.integers(0, 6), max_size=5), st.booleans(), st.booleans())
def test_rows_in_any_blocks_have_the_identity_of_the_array(
    quick: Store, array: Array, cuts: list[int], known: bool, fortran: bool
) -> None:
    with quick.npy_writer((len(array) if known else None, *array.shape[1:]), array.dtype) as writer:
        for block in blocks_of(array, cuts):
            writer.append(np.asfortranarray(block) if fortran and block.ndim else block)
    assert writer.uri == quick.store_npy(np.ascontiguousarray(array))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("step", [1, 777, 40_000])
@pytest.mark.parametrize("codec", ["auto", "small", "raw", "delta-bits-lz4"])
def test_large_arrays_keep_every_byte(quick: Store, known: bool, step: int, codec: str) -> None:
    array = random_rows(40_000)
    buffer = np.empty((step, 160), "<i2")
    with quick.npy_writer((40_000 if known else -1, 160), "<i2", label="a.npy", codec=codec) as writer:
        for start in range(0, len(array), step):
            block = buffer[: len(array[start : start + step])]
            block[:] = array[start : start + step]
            writer.append(block[0] if step == 1 else block)
            block[:] = 0  # the buffer is the caller's again
    np.testing.assert_array_equal(quick.load_npy(writer.uri), array)
    assert writer.uri == quick.store_npy(array, label="a.npy")
    description = quick.describe(writer.uri)
    assert (description.kind, description.shape, description.chunks) == (
        "npy",
        array.shape,
        -(-40_000 // 816),  # rows of a chunk
    )
    assert codec != "auto" or description.ratio > 1.2, "samples were taken"


@pytest.mark.parametrize("size", [1, 262_000, 262_144 - 128, 262_144 - 127, 4 << 20, (4 << 20) - 128, (4 << 20) + 1])
@pytest.mark.parametrize("known", [True, False])
def test_sizes_around_chunks_and_blocks_keep_every_byte(quick: Store, size: int, known: bool) -> None:
    array = np.frombuffer(np.random.default_rng(size).bytes(size), np.uint8)
    with quick.npy_writer(size if known else None, np.uint8) as writer:
        writer.append(array[: size // 3])
        writer.append(array[size // 3 :])
    assert writer.uri == quick.store_npy(array)


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0,), (None, 3), (None, 0), None, (3, 2, 0, 4)], ids=str)
def test_arrays_without_items_are_stored(quick: Store, shape: Any) -> None:
    full = shape if isinstance(shape, tuple) else (shape,)
    array = np.zeros((full[0] or 0, *full[1:]))
    with quick.npy_writer(shape, float) as writer:
        if len(array):
            writer.append(array)
    assert writer.uri == quick.store_npy(array)


@pytest.mark.parametrize(
    "rows, dtype",
    [
        ([1, 2, 3], "f8"), ([True, False, True], "i1"), (range(3), ">i8"), (np.arange(3, dtype=">u2"), "<u4"), (["a", "bb"], "U3"),
        (np.arange(3).astype("M8[s]"), "M8[ms]"), (np.float32([1, 2]), "c16"),
        ([2**53, -(2**53)], "f8"), (np.array(["NaT", 5], ">M8[D]"), "M8[ns]"),
        (np.array([(1, [2, 3])], [("a", "i2"), ("b", "i8", 2)]), [("a", "i4"), ("b", "f8", 2)]),
    ],
    ids=str,
)  # fmt: skip
def test_rows_whose_values_all_fit_are_converted(quick: Store, rows: Any, dtype: str) -> None:
    with quick.npy_writer(None, dtype) as writer:
        writer.append(rows)
    assert writer.uri == quick.store_npy(np.asarray(rows).astype(dtype))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "rows, why",
    [
        (np.zeros((2, 3)), "neither a row"), (np.zeros((2, 4, 1)), "neither a row"), (np.zeros(()), "neither a row"),
        (np.zeros((2, 4), "c16"), "dtype complex128"), (np.zeros((2, 4), "i8").astype(object), "dtype object"),
        ([[1, 2, 3, 4], [1, 2]], "not an array"), (np.ma.masked_array(np.zeros((2, 4)), True), "masked"),
        (np.full((2, 4), "1"), "dtype <U1"),
    ],
    ids=str,
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused_and_nothing_is_stored(store: Store, rows: Any, why: str, known: bool) -> None:
    before = store.stats()
    with pytest.raises(ArrayStreamError, match=why) as caught:
        write(store, (10 if known else None, 4), "f8", np.ones((5, 4)), rows)
    assert isinstance(caught.value, ValueError)
    assert_nothing_stored(store, before)


def test_what_failed_once_is_not_continued_even_if_the_error_was_caught(store: Store) -> None:
    before = store.stats()
    for shape in ((10, 4), (None, 4)):
        writer = store.npy_writer(shape, "f8")
        with pytest.raises(ArrayStreamError):
            writer.append("text")
        with pytest.raises(StoreClosedError, match="cannot be continued"):
            writer.append(np.ones((10, 4)))
        with pytest.raises(StoreClosedError, match="not stored"):
            writer.close()
        with pytest.raises(StoreClosedError, match="no URI"):
            writer.uri  # noqa: B018
    assert_nothing_stored(store, before)


def test_a_number_for_texts_and_texts_cut_short_are_refused(store: Store) -> None:
    for rows, dtype in (
        ([1, 2], "U21"),
        (["long"], "U2"),
        ([1], "M8[s]"),
        ([2.5], "i8"),
        ([2**40], "i4"),
        ([300], "u1"),
    ):
        with pytest.raises(ArrayStreamError, match="cannot hold"):
            write(store, None, dtype, rows)


@pytest.mark.parametrize("rows", [0, 1, 999, 39_999, 40_001, 50_000])
def test_a_stream_shorter_or_longer_than_declared_publishes_nothing(store: Store, rows: int) -> None:
    store.store_text("earlier")
    before = store.stats()
    array = random_rows(50_000)[:rows]
    with pytest.raises(ArrayStreamError, match="rows were appended"):
        write(store, (40_000, 160), "<i2", *(array[start : start + 1000] for start in range(0, rows, 1000)))
    assert_nothing_stored(store, before)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("rows", [0, 10, 30_000])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_a_block_left_by_an_exception_publishes_nothing(
    store: Store, error: type[BaseException], rows: int, known: bool
) -> None:
    before = store.stats()
    with pytest.raises(error):
        write(store, (rows if known else None, 160), "<i2", random_rows(rows), error=error())
    assert_nothing_stored(store, before)


@pytest.mark.parametrize("known", [True, False])
def test_a_writer_that_is_dropped_leaves_nothing(store: Store, known: bool) -> None:
    before = store.stats()
    writer = store.npy_writer((60_000 if known else None, 160), "<i2")
    writer.append(random_rows(40_000))
    thread = next((thread for thread in threading.enumerate() if thread.name == "kacas-npy-writer"), None)
    del writer
    gc.collect()
    if thread is not None:
        thread.join(10)
    assert_nothing_stored(store, before)
    assert open_files(store) == []


def open_files(store: Store) -> list[str]:
    """Descriptors of temporaries: of packs and of spools."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    paths = [os.readlink(link) for link in links if os.path.lexists(link)]
    return [path for path in paths if ".tmp." in path or (str(store.repository.cache) in path and "deleted" in path)]


def test_a_program_that_ends_with_an_open_writer_ends_and_leaves_nothing(store: Store) -> None:
    program = (
        "import sys, numpy as np, kacas\n"
        "store = kacas.Store.open(sys.argv[1])\n"
        "writer = store.npy_writer((10**6, 10), 'f8')\n"
        "writer.append(np.ones((10**5, 10)))\n"
        "print('appended')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, store.path], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("appended\n", "")
    assert verify(store).orphans == []
    assert store.stats().packs == 0


@pytest.mark.parametrize(
    "shape", [(), (-2, 3), (3, None), (3, -1), (2.5,), "ab", (2**62, 8), [[1]], (1,) * 65, {}], ids=str
)
def test_a_shape_that_no_array_has_is_refused(store: Store, shape: Any) -> None:
    with pytest.raises(ArrayStreamError, match="is not the shape"):
        store.npy_writer(shape, float)


@pytest.mark.parametrize("dtype", [object, [("a", "O")], "no such", np.dtypes.StringDType(), ("i4", (2,))], ids=str)
def test_a_dtype_that_npy_has_no_words_for_is_refused(store: Store, dtype: Any) -> None:
    with pytest.raises(UnsupportedDataError):
        store.npy_writer(3, dtype)


def test_an_unknown_codec_is_refused(store: Store) -> None:
    with pytest.raises(InvalidSettingError):
        store.npy_writer(3, float, codec="best")


# --- beside other things ----------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_in_a_batch_an_array_belongs_to_the_batch(store: Store, known: bool) -> None:
    array = random_rows(40_000)
    with store.batch():
        with store.npy_writer((len(array) if known else None, 160), "<i2") as writer:
            for start in range(0, len(array), 5000):
                writer.append(array[start : start + 5000])
                store.store_json({"beside": start})
        assert store.stats().packs == 0
        assert not store.exists(writer.uri)
    assert store.stats().packs == 1
    assert store.stats().contents == 9
    np.testing.assert_array_equal(store.load_npy(writer.uri), array)
    assert verify(store).clean


def test_an_array_that_fails_leaves_the_rest_of_its_batch(store: Store) -> None:
    with store.batch():
        with pytest.raises(ArrayStreamError):
            write(store, (10**6, 160), "<i2", random_rows(40_000))
        uri = store.store_text("in the same batch")
    assert store.load_text(uri) == "in the same batch"
    assert store.stats().contents == 1
    assert verify(store).clean


def test_a_writer_that_outlives_its_batch_is_refused(store: Store) -> None:
    with store.batch():
        writer = store.npy_writer((60_000, 160), "<i2")
        writer.append(random_rows(40_000))
    writer.append(random_rows(20_000))  # what is missing is noticed when the block of the writer ends, or before
    with pytest.raises(StoreClosedError, match="ended"):
        writer.close()
    assert store.stats().contents == 0
    assert verify(store).clean


def test_a_batch_that_fails_takes_its_array_along(store: Store) -> None:
    before = store.stats()

    def fail() -> None:
        with store.batch():
            write(store, (20_000, 160), "<i2", random_rows(20_000))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert_nothing_stored(store, before)


@pytest.mark.parametrize("known", [True, False])
def test_a_store_that_is_closed_meanwhile_refuses_the_rest(store: Store, known: bool) -> None:
    writer = store.npy_writer((40_000 if known else None, 160), "<i2")
    writer.append(random_rows(20_000))
    store.close()
    with pytest.raises(StoreClosedError, match="closed"):
        writer.append(random_rows(20_000))
    with Store.open(store.path) as again:
        assert again.stats().packs == 0
        assert verify(again).orphans == []


@pytest.mark.parametrize("known", [True, False])
def test_a_forked_child_cannot_continue_its_parents_array(store: Store, known: bool) -> None:
    array = random_rows(40_000)
    with store.npy_writer((len(array) if known else None, 160), "<i2") as writer:
        writer.append(array[:20_000])

        def child() -> None:
            with pytest.raises(StoreClosedError, match="parent"):
                writer.append(array[:1])
            writer.abandon()
            with store.npy_writer((len(array), 160), "<i2") as own:
                own.append(array)
            assert own.uri == store.store_npy(array)

        children.run(child).get()
        writer.append(array[20_000:])
    np.testing.assert_array_equal(store.load_npy(writer.uri), array)
    assert verify(store).clean


def test_several_writers_and_threads_do_not_mix_their_rows(quick: Store) -> None:
    arrays = [random_rows(30_000, seed) for seed in range(4)]
    uris: dict[int, str] = {}

    def write(number: int) -> None:
        with quick.npy_writer((30_000 if number % 2 else None, 160), "<i2") as writer:
            for start in range(0, 30_000, 1111):
                writer.append(arrays[number][start : start + 1111])
        uris[number] = writer.uri

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [uris[number] for number in range(4)] == [quick.store_npy(array) for array in arrays]


def test_blocks_of_several_threads_stay_whole(quick: Store) -> None:
    with quick.npy_writer((400 * 100, 64), "<i4") as writer:

        def write(number: int) -> None:
            for block in range(100):
                writer.append(np.full((100, 64), number * 100 + block, "<i4"))

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    stored = quick.load_npy(writer.uri).reshape(400, -1)
    assert (stored == stored[:, :1]).all()
    assert sorted(stored[:, 0]) == list(range(400))


def test_a_writer_says_what_it_is_and_closes_once(store: Store) -> None:
    writer = store.npy_writer((3, 2), "<f4")
    assert isinstance(writer, NpyWriter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer.append(np.ones((3, 2), "<f4"))
    assert "(3, 2) float32, 3 rows" in repr(writer)
    writer.close()
    uri = writer.uri
    writer.close()
    writer.abandon()
    assert writer.uri == uri
    assert store.exists(uri)
