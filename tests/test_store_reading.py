"""Reading parts: the right bytes through threads, forks, damage and the chunks that are kept decoded; mapped arrays."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kacas import DamagedPackError, Store, WrongKindError
from kacas.model.uri import parse_uri
from kacas.settings import LEAST_MEMORY, Settings

Array = np.ndarray[Any, Any]

SHAPE = (3000, 7, 50)
ARRAY: Array = np.random.default_rng(5).normal(0, 300, SHAPE).cumsum(axis=0).astype(np.int16)  # 2 MiB: 8 chunks
LARGE: Array = np.random.default_rng(6).integers(-99, 99, (80_000, 128)).astype(np.int16)  # 20 MiB


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store without syncs, for properties."""
    place = tmp_path_factory.mktemp("reading")
    own = replace(Settings.from_environment({}), cache_directory=place / "cache")
    return Store.open(place / "quick", durability="relaxed", settings=own)


def pack_of(store: Store) -> Path:
    (pack_id,) = store.repository.volume.list_packs()
    return store.repository.volume.pack_path(pack_id)


def damage(store: Store, uri: str, count: int | None = None) -> None:
    """Change bytes in the middle of the first `count` chunks of the content."""
    _, content = store.repository.resolve(parse_uri(uri))
    digests = [child.digest for child in content.chunks()][:count]
    path = pack_of(store)
    path.chmod(0o600)
    with path.open("r+b") as file:
        for location, *_ in store.repository.lookup.locate(digests).values():
            middle = location.stop - location.payload_size // 2
            old = os.pread(file.fileno(), 16, middle)
            os.pwrite(file.fileno(), bytes(byte ^ 1 for byte in old), middle)


def indices() -> st.SearchStrategy[Any]:
    masks = hnp.arrays(np.bool_, SHAPE[:1])
    lists = st.lists(st.integers(-SHAPE[0], SHAPE[0] - 1), max_size=5).map(lambda rows: np.array(rows, np.intp))
    last = hnp.basic_indices(SHAPE, allow_ellipsis=True, allow_newaxis=True)
    return last | lists | masks | st.tuples(lists, st.just(slice(None, None, -1)), st.integers(-50, 49))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(indices(), min_size=1, max_size=4), st.sampled_from(["delta-bits-lz4", "bits-lz4", "zstd", "raw"]))
def test_every_index_gives_what_numpy_gives_whatever_was_read_before(
    quick: Store, found: list[Any], codec: str
) -> None:
    # Another array for each codec: what is stored already is not stored again.
    array = ARRAY + np.int16(len(codec))
    lazy = quick.open_npy(quick.store_npy(array, codec=codec))
    for index in found:
        np.testing.assert_array_equal(lazy[index], array[index])


def test_many_threads_that_slice_one_array_get_the_right_rows_with_little_memory(store: Store) -> None:
    uri = store.store_npy(LARGE)
    small = Store.open(store.path, settings=replace(Settings.from_environment(), memory=LEAST_MEMORY))
    lazy = small.open_npy(uri)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for start in rng.integers(0, len(LARGE) - 20_000, 100):
            rows = int(rng.choice([1, 100, 2000, 20_000]))
            np.testing.assert_array_equal(lazy[start : start + rows], LARGE[start : start + rows])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    small.close()


def test_a_forked_child_reads_with_what_its_parent_had_open(store: Store) -> None:
    lazy = store.open_npy(store.store_npy(LARGE))
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            assert lazy[500:30_000].sum() == LARGE[500:30_000].sum()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                same = bool((lazy[:30_000] == LARGE[:30_000]).all() and (lazy[70_001] == LARGE[70_001]).all())
                os._exit(0 if same else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        reader.join()


def test_a_damaged_chunk_is_refused_each_time_and_never_kept(store: Store) -> None:
    uri = store.store_npy(ARRAY)
    damage(store, uri)
    lazy = store.open_npy(uri)
    for _ in range(3):
        for index in (5, slice(10, 20), slice(None)):
            with pytest.raises(DamagedPackError):
                lazy[index]
    with pytest.raises(DamagedPackError):
        store.open_file(uri).read(1000)
    with pytest.raises(DamagedPackError):
        store.load_npy(uri, mmap=True)


def test_what_was_read_in_part_is_decoded_once(store: Store) -> None:
    uri = store.store_npy(ARRAY)
    lazy = store.open_npy(uri)
    lazy[5]
    damage(store, uri)
    np.testing.assert_array_equal(lazy[6], ARRAY[6])
    np.testing.assert_array_equal(store.open_npy(uri)[7:9], ARRAY[7:9])
    with pytest.raises(DamagedPackError):
        lazy[-1]


def test_one_damaged_chunk_of_many_is_named_and_the_threads_go_on_to_serve(store: Store) -> None:
    uri = store.store_npy(LARGE)
    damage(store, uri, 1)
    lazy = store.open_npy(uri)
    for _ in range(3):
        with pytest.raises(DamagedPackError, match="chunk"):
            store.load_npy(uri)
        np.testing.assert_array_equal(lazy[2000:], LARGE[2000:])


def test_an_array_that_was_open_when_the_store_closed_is_read_on(store: Store) -> None:
    uri = store.store_npy(LARGE)
    lazy = store.open_npy(uri)
    store.close()
    np.testing.assert_array_equal(lazy[100:60_000], LARGE[100:60_000])


@pytest.mark.parametrize(
    "array",
    [
        ARRAY, np.asfortranarray(LARGE[:20_000]), np.zeros((0, 3)), np.float32(3), np.zeros(2, [("a", "i2"), ("b", ">f8")]),
        np.array(["a", "text"]), np.zeros(3, "S0"),
    ],
    ids=["C", "F", "empty", "0-d", "records", "text", "S0"],
)  # fmt: skip
def test_a_mapped_array_is_the_one_of_np_load_and_read_only(store: Store, array: Any) -> None:
    uri = store.store_npy(array, label="a.npy")
    mapped, expected = store.load_npy(uri, mmap=True), np.load(store.load_file(uri), mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert (mapped.dtype, mapped.shape, mapped.flags.c_contiguous) == (
        expected.dtype, expected.shape, expected.flags.c_contiguous,
    )  # fmt: skip
    np.testing.assert_array_equal(mapped, array)
    assert not mapped.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        mapped[...] = mapped


def test_a_mapped_array_outlives_its_file_in_the_cache(store: Store) -> None:
    mapped = store.load_npy(store.store_npy(ARRAY), mmap=True)
    shutil.rmtree(store.repository.cache / "files")
    np.testing.assert_array_equal(mapped, ARRAY)


def test_a_cached_file_that_was_touched_is_written_anew_before_it_is_mapped(store: Store) -> None:
    uri = store.store_npy(ARRAY)
    path = store.load_file(uri)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"abcd")
    np.testing.assert_array_equal(store.load_npy(uri, mmap=True), ARRAY)


def test_an_array_is_mapped_or_loaded_into_out_and_nothing_else_is_mapped(store: Store) -> None:
    uri = store.store_npy(ARRAY)
    with pytest.raises(ValueError, match="not both"):
        store.load_npy(uri, out=ARRAY.copy(), mmap=True)
    with pytest.raises(WrongKindError):
        store.load_npy(store.store_text("no array"), mmap=True)
    assert not list((store.repository.cache / "files").glob("*/*")), "nothing was written out for it"
