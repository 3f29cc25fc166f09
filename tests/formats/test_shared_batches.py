"""A batch that threads and writers share: whoever ends it finds all that was handed to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kacas
from kacas.formats.array_source import FrontSource
from kacas.upkeep.verify import verify


def test_what_waits_in_a_batch_is_not_lost_to_a_writer_that_is_open_at_its_end(store: kacas.Store) -> None:
    for _ in range(10):
        with store.batch():
            uris = [store.store_bytes(os.urandom(500)) for _ in range(400)]
            writer = store.npy_writer((10,), "f8")
        writer.abandon()
        assert all(store.exists(uri) for uri in uris)
    assert verify(store).clean


def test_threads_that_flush_one_batch_lose_nothing(store: kacas.Store) -> None:
    uris: list[str] = []

    def put() -> None:
        for number in range(100):
            uris.append(store.store_bytes(os.urandom(300)))
            if number % 10 == 0:
                uris.append(store.store_npy(np.full(40_000, number) + np.random.default_rng().random()))

    with store.batch():
        threads = [threading.Thread(target=copy_context().run, args=(put,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        put()
        for thread in threads:
            thread.join()
    assert len(uris) == 440
    assert all(store.exists(uri) for uri in uris)
    assert verify(store).clean


@pytest.mark.parametrize("codec", ["auto", "fast", "small", "delta-bits-lz4"])
def test_an_array_of_long_rows_that_are_not_contiguous_is_sampled(store: kacas.Store, codec: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, (2, 2_400_000), "<i8")[:, ::2]
    uri = store.store_npy(array, codec=codec)
    assert np.array_equal(store.load_npy(uri), array)
    if codec != "fast":
        assert store.describe(uri).ratio > 3, "samples were taken"


class Lying:
    """An array whose chunks are not those of its shape."""

    def __init__(self, chunks: Any) -> None:
        self.array = np.zeros((40_000, 100))
        self.shape, self.dtype, self.ndim, self.chunks = self.array.shape, self.array.dtype, 2, chunks

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.array


@pytest.mark.parametrize(
    "chunks",
    [((50, 50), (100,)), ((50, 30_000), (50, 50)), ((0, 0), (100,)), ("a", "b"), (None, None), (0, 100)],
    ids=str,
)
def test_chunks_that_are_not_those_of_the_shape_are_not_believed(store: kacas.Store, chunks: Any) -> None:
    lying = Lying(chunks)
    assert store.store_npy(lying) == store.store_npy(lying.array)


def test_an_array_of_which_less_comes_than_it_says_is_not_stored(store: kacas.Store) -> None:
    with pytest.raises(kacas.ArrayStreamError), store.npy_writer((4000, 100), "f8") as writer:
        writer.append(np.zeros((10, 100)))
    assert store.stats().contents == 0


THREAD = """
import sys, threading, time
import numpy as np, kacas
def acquire():
    with kacas.Store.open(sys.argv[1]) as store:
        with store.npy_writer((20, 10_000), "f8") as writer:
            for number in range(20):
                time.sleep(0.1 if number != 10 else 1.2)
                writer.append(np.full((1, 10_000), number, "f8"))
        assert (store.load_npy(writer.uri)[:, 0] == range(20)).all()
        with store.batch():
            uris = [store.store_bytes(bytes([number]) * 9000) for number in range(250)]
        assert all(map(store.exists, uris))
        print("stored", flush=True)
kacas.Store, kacas.NpyWriter  # imported while Python lets modules begin
threading.Thread(target=acquire).start()
"""


def test_a_writer_in_a_thread_outlives_the_code_of_the_main_thread(tmp_path: Path) -> None:
    command = [sys.executable, "-c", THREAD, str(tmp_path / "store")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.stdout, ended.stderr) == ("stored\n", "")


def test_tiles_stand_in_for_a_linked_file_that_is_gone(store: kacas.Store, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 100, (600, 1000), "<i4")
    np.save(tmp_path / "x.npy", array)
    data = (tmp_path / "x.npy").read_bytes()
    uri = store.link_file(tmp_path / "x.npy")
    store.store_npy(array, chunks=(100, 100))
    (tmp_path / "x.npy").unlink()
    assert store.load_bytes(uri) == data
    assert np.array_equal(store.load_npy(uri), array)
    assert store.load_file(uri, dest=tmp_path / "y.npy").read_bytes() == data


def test_a_source_that_gave_less_than_it_announced_is_not_believed() -> None:
    data = memoryview(bytes(1000))

    def readinto(buffer: memoryview) -> int:
        nonlocal data
        count = min(len(buffer), len(data))
        buffer[:count], data = data[:count], data[count:]
        return count

    source = FrontSource(readinto, 1200, 8)
    assert len(source.sample(0, 80)) == 80
    while source.readinto(memoryview(bytearray(300))):
        pass
    with pytest.raises(kacas.ArrayStreamError, match="1,000 bytes of data came, 1,200 were announced"):
        source.check_unchanged()
