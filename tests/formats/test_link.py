"""Linking: what it keeps and what it refuses; a linked file is read like a stored one."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacas import (
    NotFoundError,
    SourceChangedError,
    Store,
    UnreadableSourceError,
)
from kacas.model.cuts import CHUNK_TARGET, PeriodicCutter
from kacas.model.entry import Kind
from kacas.model.source import BufferSource
from kacas.settings import Settings
from tests.formats.conftest import LARGE, SMALL, flip, gone, grown

MIB = 1 << 20
SIZES = [1, CHUNK_TARGET - 1, CHUNK_TARGET, CHUNK_TARGET + 1, 5 * MIB + 3]


# --- what it is --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_linked_file_of_any_size_is_read_and_none_of_its_bytes_is_stored(
    store: Store, tmp_path: Path, size: int
) -> None:
    data = random.Random(size).randbytes(size)
    path = tmp_path / "data.bin"
    path.write_bytes(data)
    uri = store.link_file(path)
    assert uri == f"sha1://{hashlib.sha1(data).hexdigest()}?label=data.bin"
    assert store.load_bytes(uri) == data
    assert store.load_file(uri).read_bytes() == data
    with store.open_file(uri) as file:
        assert file.read() == data
    assert store.exists(uri)
    assert next(store.history()).uri == uri
    found = store.describe(uri)
    assert found.adopted == (str(path),)
    assert (found.size, found.kind, [claim.label for claim in found.claims]) == (size, "file", ["data.bin"])
    packs = b"".join(pack.read_bytes() for pack in (store.path / "packs").iterdir())
    assert len(packs) < 3000
    with Store.open(tmp_path / "another") as other:
        assert other.describe(other.store_file(path)).root == found.root, "cut as store_file does"


def test_an_empty_file_and_one_that_says_it_is_empty_are_stored(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    uri = store.link_file(path)
    path.unlink()
    assert store.load_bytes(uri) == b""
    status = store.link_file("/proc/self/limits")
    assert store.load_bytes(status).startswith(b"Limit")
    assert store.describe(status).adopted == ()


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A store's path, a linked file's, its URI; most chunks are of the file, some also in packs."""
    place = tmp_path_factory.mktemp("linked")
    (place / "file").write_bytes(LARGE)
    own = replace(Settings.from_environment(), cache_directory=place / "cache")
    with Store.open(place / "store", settings=own) as store:
        uri = store.link_file(place / "file")
        store.store_bytes(LARGE[: 2 * CHUNK_TARGET])
    return place / "store", place / "file", uri


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(LARGE)), st.integers(0, len(LARGE))), min_size=1, max_size=4))
def test_any_range_of_a_linked_file_is_the_files(linked: tuple[Path, Path, str], ranges: list[tuple[int, int]]) -> None:
    place, _, uri = linked
    with Store.open(place) as store:
        for start, stop in ranges:
            assert store.load_bytes(uri, start, stop) == LARGE[start:stop]


@pytest.mark.parametrize("head", [0, 128])
@pytest.mark.parametrize("step", [100_000, 3_000, 40], ids=["no nodes", "nodes", "nodes of nodes"])
def test_a_chunk_is_found_in_the_file_through_head_and_nodes(store: Store, large: Path, step: int, head: int) -> None:
    uri = store.repository.put(
        BufferSource(LARGE[head:]), Kind.FILE, "x", cutter=PeriodicCutter(step), head=LARGE[:head],
        adopted_path=os.fsencode(large),
    ).uri  # fmt: skip
    for start in (0, 100, 130, 2 * MIB + 1, len(LARGE) - 100):
        assert store.load_bytes(uri, start, start + 90_001) == LARGE[start : start + 90_001]
    assert store.describe(uri).adopted


def test_a_linked_npy_file_is_an_array_to_be_sliced(store: Store, tmp_path: Path) -> None:
    array = np.arange(600_000, dtype=np.int32).reshape(-1, 6)
    np.save(tmp_path / "array.npy", array)
    uri = store.link_file(tmp_path / "array.npy")
    lazy = store.open_npy(uri)
    assert (lazy[70_000:70_010, 3] == array[70_000:70_010, 3]).all()
    assert (store.load_npy(uri) == array).all()
    assert store.describe(uri).shape == array.shape
    with Store.open(tmp_path / "another") as other:
        stored = {
            other.describe(again).root for again in (other.store_file(tmp_path / "array.npy"), other.store_npy(array))
        }
    assert stored == {store.describe(uri).root}, "cut between rows, as the stored file"


def test_a_name_of_any_bytes_is_kept(store: Store, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xffme \n.bin"))
    path.write_bytes(LARGE)
    uri = store.link_file(path)
    assert store.load_bytes(uri) == LARGE
    assert store.describe(uri).adopted == (str(path),)


# --- linking -----------------------------------------------------------------------------------


def test_a_file_is_synced_before_it_is_read(store: Store, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    fsync = os.fsync

    def record(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    store.link_file(large)
    assert synced[0] == large.stat().st_ino


def test_linking_the_same_file_again_adds_nothing(store: Store, large: Path) -> None:
    uri = store.link_file(large)
    before = store.stats()
    assert store.link_file(large) == uri
    assert store.stats() == before


def overwritten(path: Path) -> None:
    flip(path, 10)


def renamed_over(path: Path) -> None:
    shutil.copy(path, path.with_name("new"))
    path.with_name("new").replace(path)


@pytest.mark.parametrize("change", [grown, overwritten, renamed_over, gone])
def test_a_file_that_changes_while_it_is_linked_is_refused(
    tmp_path: Path, large: Path, change: Callable[[Path], None]
) -> None:
    stages = []

    def progress(stage: str, done: int, total: int | None) -> None:
        if not stages:
            change(large)
        stages.append(stage)

    with Store.open(tmp_path / "store", progress=progress) as store:
        with pytest.raises((SourceChangedError, UnreadableSourceError)) as caught:
            store.link_file(large)
        assert caught.value.path == str(large)
        assert set(stages) == {"linking"}
        assert list((store.path / "packs").iterdir()) == []


def test_what_is_no_regular_file_is_refused(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "missing"):
        with pytest.raises(UnreadableSourceError, match=str(path)):
            store.link_file(path)
    assert store.stats().packs == 0


def test_a_file_that_gives_less_than_it_says_is_refused(store: Store) -> None:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not path.exists() or path.stat().st_size == len(path.read_bytes()):
        pytest.skip("needs /sys")
    with pytest.raises(UnreadableSourceError, match="store a copy instead"):
        store.link_file(path)
    assert store.stats().packs == 0


def test_kacas_own_files_are_refused(store: Store, large: Path, tmp_path: Path) -> None:
    materialised = store.load_file(store.store_file(large))
    (tmp_path / "way").symlink_to(store.path)
    (tmp_path / "link").symlink_to(materialised)
    for path in (
        *(store.path / "packs").iterdir(), store.path / "kacas.toml", tmp_path / "way" / "kacas.toml", materialised,
        tmp_path / "link",
    ):  # fmt: skip
        with pytest.raises(UnreadableSourceError, match="which is kacas' own"):
            store.link_file(path)


def test_a_link_is_followed_but_directories_stay_as_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk7" / "run").mkdir(parents=True)
    (tmp_path / "disk7" / "file.bin").write_bytes(b"real")
    (tmp_path / "file.bin").write_bytes(b"another")
    (tmp_path / "data").symlink_to(tmp_path / "disk7" / "run")
    (tmp_path / "disk7" / "run" / "one.bin").write_bytes(b"one")
    (tmp_path / "latest").symlink_to(tmp_path / "data" / "one.bin")
    monkeypatch.chdir(tmp_path)

    def adopted(path: str) -> str:
        (found,) = store.describe(store.link_file(path)).adopted
        return found

    assert adopted("latest") == str(tmp_path / "disk7" / "run" / "one.bin")
    store.forget(store.link_file("latest"))
    assert adopted("data/one.bin") == str(tmp_path / "data" / "one.bin")
    assert adopted("data/../file.bin") == str(tmp_path / "disk7" / "file.bin")


# --- batches, forgetting -----------------------------------------------------------------------


def test_links_of_a_batch_are_published_together_or_not_at_all(store: Store, large: Path, small: Path) -> None:
    def one_is_missing() -> None:
        with store.batch():
            store.link_file(large)
            store.link_file(small.with_name("missing"))

    with pytest.raises(UnreadableSourceError):
        one_is_missing()
    with pytest.raises(NotFoundError):
        store.load_bytes(f"sha1://{hashlib.sha1(LARGE).hexdigest()}")
    with store.batch():
        uris = [store.link_file(large), store.link_file(small)]
    assert [store.load_bytes(uri) for uri in uris] == [LARGE, SMALL]
    assert store.stats().packs == 1


def test_forgetting_ends_the_link_and_linking_again_begins_a_new_one(store: Store, large: Path) -> None:
    uri = store.link_file(large)
    assert store.forget(uri).dropped == 1
    assert store.describe(uri).adopted == ()
    assert store.describe(uri).claims == ()
    assert store.load_bytes(uri) == LARGE, "readable until it is collected, as all that is forgotten"
    store.link_file(large)
    assert store.describe(uri).adopted == (str(large),)
    assert len(store.describe(uri).claims) == 1
