"""The store's verbs on small values: identities, round trips, wrong kinds, labels, lifetime."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacas import (
    InvalidLabelError,
    InvalidSettingError,
    InvalidUriError,
    NotFoundError,
    Store,
    StoreClosedError,
    StoreNotFoundError,
    UnsupportedDataError,
    WrongKindError,
)
from kacas.model.uri import MAX_LABEL_SIZE, parse_uri

on_one_store = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NOWHERE = "sha1://" + 40 * "0"


def sha1_of(uri: str) -> str:
    return parse_uri(uri).sha1.hex()


@pytest.fixture
def quick(tmp_path: Path) -> Store:
    """A store without syncs, for properties."""
    return Store.open(tmp_path / "quick", durability="relaxed")


def test_the_known_identities_of_the_ancestor_are_reproduced(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("test-content\n")
    small = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)
    assert sha1_of(store.store_text("example text")) == "d9e989f651cdd269d7f9bb8a215d024d8d283688"
    assert sha1_of(store.store_json({"example": "dict"})) == "d0d9555e376ff13a08c6d56072808e27ca32d54a"
    assert sha1_of(store.store_npy(small)) == "bb55205a2482c6db2ace544fc7d8397551110701"
    assert sha1_of(store.store_file(tmp_path / "file.txt")) == "b971c6ef19b1d70ae8f0feb989b106c319b36230"
    assert sha1_of(store.store_text("some-text " * 3)) == "cbb44480e2918cb41791366d748294bdbb874b52"


@on_one_store
@given(st.binary(max_size=2000))
def test_bytes_come_back_under_the_sha1_of_themselves(quick: Store, data: bytes) -> None:
    for given_as in (data, bytearray(data), memoryview(data)):
        uri = quick.store_bytes(given_as)
        assert uri == f"sha1://{hashlib.sha1(data).hexdigest()}"
        assert quick.load_bytes(uri) == data


def test_bytes_of_any_buffer_are_its_bytes(store: Store) -> None:
    array = np.arange(10, dtype=">i4")
    assert store.load_bytes(store.store_bytes(array.data)) == array.tobytes()
    assert store.load_bytes(store.store_bytes(memoryview(b"0123456789")[2:5])) == b"234"


@pytest.mark.parametrize("value", ["text", None, 5, [1, 2], memoryview(b"0123456789")[::2]], ids=repr)
def test_what_is_no_buffer_is_not_stored_as_bytes(store: Store, value: Any) -> None:
    with pytest.raises(UnsupportedDataError, match="store_bytes takes bytes"):
        store.store_bytes(value)


@on_one_store
@given(st.text(st.characters(codec="utf-8"), max_size=500))
def test_text_comes_back_as_utf_8(quick: Store, text: str) -> None:
    uri = quick.store_text(text)
    assert sha1_of(uri) == hashlib.sha1(text.encode()).hexdigest()
    assert quick.load_text(uri) == text


def test_text_that_is_not_unicode_or_no_text_is_refused(store: Store) -> None:
    with pytest.raises(UnsupportedDataError, match="position 3"):
        store.store_text("abc\ud800")
    with pytest.raises(UnsupportedDataError, match="takes str, not bytes"):
        store.store_text(b"abc")  # type: ignore[arg-type]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@on_one_store
@given(json_values)
def test_json_comes_back_equal_and_is_canonical(quick: Store, value: Any) -> None:
    uri = quick.store_json(value)
    data = quick.load_bytes(uri)
    assert data.decode("ascii") == simplejson.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    assert sha1_of(uri) == hashlib.sha1(data).hexdigest()
    assert quick.load_json(uri) == json.loads(data) == value


@on_one_store
@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=8), st.randoms())
def test_equal_values_have_equal_uris_whatever_their_order(quick: Store, value: dict[str, int], rng: Any) -> None:
    shuffled = dict(rng.sample(list(value.items()), len(value)))
    assert quick.store_json(value) == quick.store_json(shuffled)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), {"a": [1, float("nan")]}, np.float64("nan"), {float("nan"): 1},
     object(), {1, 2}, {"a": np.arange(3)}, {(1, 2): 3}, b"\xff"],
    ids=repr,
)  # fmt: skip
def test_what_json_cannot_say_is_refused_and_not_stored(store: Store, value: Any) -> None:
    with pytest.raises(UnsupportedDataError, match="cannot be written as JSON"):
        store.store_json(value)
    assert store.stats().packs == 0


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [{1: "a", "1": "b"}, [({"x": {True: 1, "true": 2}},)], {None: 1, "null": 2}, {-1.5: 1, "-1.5": 2}], ids=str
)
def test_json_that_would_lose_a_key_is_refused(store: Store, value: Any) -> None:
    with pytest.raises(UnsupportedDataError, match="twice, as text and not"):
        store.store_json(value)
    assert store.load_json(store.store_json({1: "a", "2": {None: "b", "c": 3}})) == {
        "1": "a",
        "2": {"null": "b", "c": 3},
    }


def test_json_may_be_nested_deeply_and_too_deep_is_refused_in_words(store: Store) -> None:
    value = nested(100)
    assert store.load_json(store.store_json(value)) == value
    with pytest.raises(UnsupportedDataError, match="cannot be written as JSON"):
        store.store_json(nested(100_000))
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(UnsupportedDataError):
        store.store_json(circle)
    with pytest.raises(WrongKindError, match="not JSON"):
        store.load_json(store.store_text("[" * 100_000))


def test_a_pickle_of_plain_data_and_arrays_comes_back_equal(store: Store) -> None:
    value = {"rates": np.arange(6.0).reshape(2, 3), "name": "unit 7", 5: (None, True, {1, 2}, b"x", 1j)}
    loaded = store.load_pkl(store.store_pkl(value))
    np.testing.assert_array_equal(loaded.pop("rates"), value.pop("rates"))
    assert loaded == value


def test_a_pickle_of_anything_else_is_refused_in_both_directions(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedDataError):
        store.store_pkl({"code": print})
    trap = tmp_path / "trap"
    hostile = b"cos\nsystem\n(S'touch %s'\ntR." % bytes(trap)
    with pytest.raises(WrongKindError):
        store.load_pkl(store.store_bytes(hostile))
    assert not trap.exists()


@pytest.mark.parametrize(
    "content, loaders",
    [
        (b"\xff\xfe\x00binary", ["load_text", "load_json", "load_npy", "load_pkl", "open_npy"]),
        (b"plain text", ["load_json", "load_npy", "load_pkl", "open_npy"]),
        (b"", ["load_json", "load_npy", "load_pkl", "open_npy"]),
        (b"[1,2", ["load_json"]),
        (b"NaN", ["load_json"]),
        (b"\x93NUMPY\x01\x00", ["load_npy", "open_npy"]),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<i2', 'fortran_order': False, 'shape': (3,), }", ["load_npy"]),
    ],
    ids=repr,
)
def test_content_of_another_kind_is_named_and_never_guessed(store: Store, content: bytes, loaders: list[str]) -> None:
    uri = store.store_bytes(content, label="thing")
    for name in loaders:
        with pytest.raises(WrongKindError, match="it was stored as bytes") as caught:
            getattr(store, name)(uri)
        assert uri in str(caught.value)
        assert caught.value.sha1 == sha1_of(uri)
    assert store.load_bytes(uri) == content


def test_the_same_bytes_stored_by_another_verb_have_the_same_identity_and_load_by_every_verb_that_fits(
    store: Store,
) -> None:
    uri = store.store_text('{"a":1}')
    assert store.store_json({"a": 1}) == store.store_bytes(b'{"a":1}') == uri
    assert (store.load_json(uri), store.load_text(uri), store.load_bytes(uri)) == ({"a": 1}, '{"a":1}', b'{"a":1}')
    assert {claim.kind for claim in store.describe(uri).claims} == {"text", "json", "bytes"}


LOADERS = ["load_file", "load_bytes", "load_text", "load_json", "load_npy", "load_pkl", "open_file", "open_npy"]


@pytest.mark.parametrize("name", [*LOADERS, "describe", "forget"])
def test_missing_content_raises_and_is_named(store: Store, name: str) -> None:
    with pytest.raises(NotFoundError, match="is not in the store") as caught:
        getattr(store, name)(NOWHERE + "?label=x.npy")
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.sha1 == 40 * "0"
    assert "label=x.npy" in str(caught.value)
    assert str(store.path) in str(caught.value)


@pytest.mark.parametrize("name", [*LOADERS, "describe", "forget", "exists", "find"])
def test_a_malformed_uri_is_refused_by_every_verb(store: Store, name: str) -> None:
    with pytest.raises(InvalidUriError):
        getattr(store, name)("sha1:/" + 40 * "a")


@on_one_store
@given(
    st.text(st.characters(codec="utf-8"), max_size=100)
    | st.binary(max_size=200).map(lambda b: b.decode("utf-8", "surrogateescape"))
)
def test_any_unicode_label_is_kept_and_does_not_change_the_identity(quick: Store, label: str) -> None:
    uri = quick.store_text("content", label=label)
    parsed = parse_uri(uri)
    assert (parsed.label, parsed.sha1) == (label, hashlib.sha1(b"content").digest())
    assert quick.load_text(uri) == "content"
    assert any(claim.label == label for claim in quick.describe(uri).claims)
    assert quick.load_file(uri).read_bytes() == b"content"


def test_a_label_that_cannot_be_kept_is_refused_and_nothing_is_stored(store: Store) -> None:
    longest = "é" * (MAX_LABEL_SIZE // 2)
    assert parse_uri(store.store_text("a", label=longest)).label == longest
    for label in (longest + "x", "\ud800", 5, b"name", Path("name")):
        with pytest.raises(InvalidLabelError):
            store.store_text("b", label=label)  # type: ignore[arg-type]
    assert not store.exists("sha1://" + hashlib.sha1(b"b").hexdigest())


def test_the_label_none_and_the_empty_label_are_the_same(store: Store) -> None:
    assert store.store_text("a", label="") == store.store_text("a") == "sha1://" + hashlib.sha1(b"a").hexdigest()


def verbs(uri: str) -> dict[str, Callable[[Store], Any]]:
    return {
        "store_file": lambda s: s.store_file(__file__), "store_bytes": lambda s: s.store_bytes(b""),
        "store_text": lambda s: s.store_text(""), "store_json": lambda s: s.store_json(1),
        "store_npy": lambda s: s.store_npy(1), "store_pkl": lambda s: s.store_pkl(1),
        **{name: lambda s, name=name: getattr(s, name)(uri) for name in LOADERS},
        **{name: lambda s, name=name: getattr(s, name)(uri) for name in ("exists", "find", "describe", "forget")},
        "history": lambda s: list(s.history()), "stats": lambda s: s.stats(),
        "batch": lambda s: s.batch().__enter__(), "rebuild_index": lambda s: s.rebuild_index(),
    }  # fmt: skip


@pytest.mark.parametrize("name", verbs(NOWHERE))
def test_a_closed_store_refuses_every_verb(store: Store, name: str) -> None:
    uri = store.store_text("content")
    store.close()
    store.close()
    with pytest.raises(StoreClosedError, match="was closed"):
        verbs(uri)[name](store)


def test_open_files_and_lazy_arrays_outlive_their_store(store: Store) -> None:
    array = np.arange(1_000_000, dtype=np.int32)
    uri = store.store_npy(array)
    file, lazy = store.open_file(uri), store.open_npy(uri)
    store.close()
    np.testing.assert_array_equal(lazy[900_000:], array[900_000:])
    file.seek(-8, 2)
    assert file.read() == array[-2:].tobytes()


def test_a_store_opened_again_has_everything(store: Store) -> None:
    uri = store.store_text("content", label="a.txt")
    store.close()
    with Store.open(store.path, create=False) as again:
        assert again.load_text(uri) == "content"
        assert again.store_id == store.store_id
        assert [item.uri for item in again.history()] == [uri]


def test_a_store_that_is_not_there_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        Store.open(tmp_path / "missing", create=False)
    assert not (tmp_path / "missing").exists()


def test_a_relaxed_store_keeps_what_it_was_given_and_says_what_it_is(tmp_path: Path) -> None:
    with Store.open(tmp_path / "relaxed", durability="relaxed") as store:
        uri = store.store_npy(np.arange(200_000))
        assert store.durability == store.stats().durability == "relaxed"
    with Store.open(tmp_path / "relaxed") as store:
        np.testing.assert_array_equal(store.load_npy(uri), np.arange(200_000))
    with pytest.raises(InvalidSettingError, match="relaxed"):
        Store.open(tmp_path / "relaxed", durability="full")


def test_a_pickled_store_opens_the_same_store(store: Store) -> None:
    uri = store.store_text("content")
    with pickle.loads(pickle.dumps(store)) as copy:
        assert copy.load_text(uri) == "content"
        assert copy.store_id == store.store_id


def test_the_progress_of_long_work_rises_to_its_total(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    with Store.open(tmp_path / "store", progress=lambda *step: seen.append(step)) as store:
        store.store_bytes(bytes(10 << 20))
    assert {stage for stage, _, _ in seen} == {"storing"}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1:] == (10 << 20, 10 << 20)


def test_two_processes_see_each_other_at_once_and_children_of_a_fork_work(store: Store) -> None:
    mine = store.store_text("from the parent")
    code = f"""
import os, kacas
with kacas.Store.open({str(store.path)!r}, create=False) as store:
    assert store.load_text({mine!r}) == "from the parent"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert store.load_text({mine!r}) == "from the parent"
            store.store_text("from the grandchild")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.load_text("sha1://{hashlib.sha1(b"from the grandchild").hexdigest()}") == "from the grandchild"
    print(store.store_text("from the child"))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert store.load_text(result.stdout.strip()) == "from the child"
    assert len(list(store.history())) == 3


def test_threads_may_share_a_store(store: Store) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(10):
                array = np.full((300, 500), number * 100 + i, np.int32)
                np.testing.assert_array_equal(store.load_npy(store.store_npy(array)), array)
                assert store.load_json(store.store_json([number, i])) == [number, i]
                shared = store.store_text(f"shared {i}")
                assert store.load_text(shared) == f"shared {i}"
        except BaseException as exc:  # noqa: BLE001
            failures.append(exc)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.stats().contents == 4 * 10 * 2 + 10
