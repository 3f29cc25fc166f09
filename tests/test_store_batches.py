"""Batches: their URIs bind at the end, all at once or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from kacas import NotFoundError, Store, UnsupportedDataError
from kacas.model.cuts import CHUNK_TARGET


def packs(store: Store) -> list[str]:
    return os.listdir(store.path / "packs")


def test_a_batch_publishes_one_pack_for_many_puts(store: Store) -> None:
    with store.batch():
        uris = [store.store_json({"trial": i}) for i in range(300)]
        array = store.store_npy(np.arange(200_000))
    assert len(packs(store)) == 1
    assert [store.load_json(uri) for uri in uris] == [{"trial": i} for i in range(300)]
    np.testing.assert_array_equal(store.load_npy(array), np.arange(200_000))
    assert [item.uri for item in store.history()] == [array, *uris[::-1]]


def test_what_is_pending_in_a_batch_raises_not_found_until_it_ends(store: Store) -> None:
    with store.batch():
        uri = store.store_text("pending", label="a.txt")
        for load in (store.load_text, store.load_bytes, store.load_file, store.open_file, store.describe, store.forget):
            with pytest.raises(NotFoundError):
                load(uri)
        assert not store.exists(uri)
        assert store.find(uri) is None
        assert list(store.history()) == []
    assert store.load_text(uri) == "pending"


def test_what_was_there_before_can_be_loaded_inside_a_batch(store: Store) -> None:
    uri = store.store_text("before")
    with store.batch():
        store.store_text("pending")
        assert store.load_text(uri) == "before"
        assert store.store_text("before") == uri


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_publishes_nothing_and_leaves_nothing(store: Store, error: type[BaseException]) -> None:
    kept = store.store_text("kept")
    before = packs(store)
    uris = []

    def fail() -> None:
        with store.batch():
            uris.append(store.store_text("lost"))
            uris.append(store.store_bytes(os.urandom(3 << 20)))
            raise error

    with pytest.raises(error):
        fail()
    assert packs(store) == before
    assert not any(store.exists(uri) for uri in uris)
    assert store.load_text(kept) == "kept"
    assert store.load_text(store.store_text("lost")) == "lost", "the next put is none of that batch"


def test_a_put_that_fails_inside_a_batch_and_is_caught_does_not_end_it(store: Store, tmp_path: Path) -> None:
    with store.batch():
        first = store.store_text("first")
        with pytest.raises(UnsupportedDataError):
            store.store_json(float("nan"))
        with pytest.raises(OSError):
            store.store_file(tmp_path / "missing")
        second = store.store_text("second")
    assert (store.load_text(first), store.load_text(second)) == ("first", "second")


def test_an_inner_batch_joins_the_outer(store: Store) -> None:
    with store.batch():
        outer = store.store_text("outer")
        with store.batch():
            inner = store.store_text("inner")
        assert not store.exists(inner), "only the end of the outer one publishes"
    assert len(packs(store)) == 1
    assert (store.load_text(outer), store.load_text(inner)) == ("outer", "inner")


def test_an_exception_in_the_outer_batch_takes_the_inner_with_it(store: Store) -> None:
    inner = []

    def fail() -> None:
        with store.batch():
            with store.batch():
                inner.append(store.store_text("inner"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not store.exists(inner[0])
    assert packs(store) == []


def test_chunks_are_shared_within_a_batch(store: Store) -> None:
    chunk = np.frombuffer(os.urandom(CHUNK_TARGET), np.uint8)
    with store.batch():
        store.store_npy(np.append(chunk, np.uint8(1)))
        store.store_npy(np.append(chunk, np.uint8(2)))
        for _ in range(50):
            store.store_text("the same")
    stats = store.stats()
    assert stats.raw_size < CHUNK_TARGET + 1000
    assert (stats.entries, stats.contents) == (3, 3)


def test_an_empty_batch_and_one_that_stores_what_is_there_publish_nothing(store: Store) -> None:
    store.store_text("there", label="a")
    before = packs(store)
    with store.batch():
        pass
    with store.batch():
        store.store_text("there", label="a")
    assert packs(store) == before
    with store.batch():
        store.store_text("there", label="b")
    assert len(packs(store)) == 2, "another label is another claim"


def test_a_forget_in_a_batch_takes_effect_at_its_end(store: Store) -> None:
    uri = store.store_text("content")
    with store.batch():
        assert store.forget(uri).dropped == 1
        assert len(store.describe(uri).claims) == 1
    assert store.describe(uri).claims == ()


def test_what_is_stored_again_after_a_forget_in_the_same_batch_is_kept(store: Store) -> None:
    uri = store.store_text("content")
    with store.batch():
        store.forget(uri)
        store.store_text("content")
    assert len(store.describe(uri).claims) == 1


def test_a_batch_belongs_to_its_thread(store: Store) -> None:
    bound: list[str] = []
    with store.batch():
        pending = store.store_text("in the batch")
        thread = threading.Thread(target=lambda: bound.append(store.store_text("beside it")))
        thread.start()
        thread.join()
        assert store.load_text(bound[0]) == "beside it"
        assert not store.exists(pending)
    assert store.load_text(pending) == "in the batch"


def test_large_content_in_a_batch_is_one_with_the_rest(store: Store) -> None:
    data = os.urandom(9 << 20)
    with store.batch():
        small = store.store_text("small")
        large = store.store_bytes(data)
        after = store.store_text("after")
        assert not store.exists(large)
    assert store.load_bytes(large) == data
    assert store.load_text(small) + store.load_text(after) == "smallafter"
