"""Packs that segments hold go, come, or are damaged: nothing relies on what is not there, and nothing that is there is missed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kacas import Store
from kacas.disk import identities, segments
from kacas.disk.identities import sync_source
from kacas.disk.index import Index
from kacas.disk.lookup import Lookup
from kacas.disk.pack_reader import PackReader
from kacas.disk.segments import list_segments
from kacas.disk.volume import Volume
from kacas.model.merging import MergeRule
from kacas.model.segment_rule import SegmentRule
from kacas.settings import Settings
from kacas.upkeep.verify import verify

HOUR_NS = 3600 * 10**9

Open = Callable[..., Store]


@pytest.fixture
def open_host(tmp_path: Path) -> Iterator[Open]:
    """Opens one store, each time with the cache of the host that is named."""
    opened: list[Store] = []

    def open_one(host: str = "a") -> Store:
        settings = replace(Settings.from_environment(), cache_directory=tmp_path / f"cache {host}", owner="me")
        store = Store.open(tmp_path / "store", settings=settings)
        store.repository.segment_maker.rule = SegmentRule(rows=1 << 60, packs=1 << 60)
        store.repository.lookup.rule = MergeRule(fan_in=1 << 30, max_size=1)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files that were written just now are remembered: the cache's clock is an hour ahead."""
    monkeypatch.setattr(identities, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + HOUR_NS))
    (tmp_path / "probe").write_bytes(b"")
    with open(tmp_path / "probe", "rb") as probe:
        if sync_source(probe.fileno()) is None:
            pytest.skip("the file system of the tests does not tell of writes through mappings")


def content(i: int) -> bytes:
    return random.Random(i).randbytes(600 + i)


def fill(store: Store, numbers: range) -> dict[str, bytes]:
    return {store.store_bytes(content(i), label=f"{i}.bin"): content(i) for i in numbers}


def sha1_of(uri: str) -> bytes:
    return bytes.fromhex(uri[7:47])


def pack_of(store: Store, uri: str) -> Path:
    """Of the content's entry."""
    return store.repository.volume.pack_path(store.repository.lookup.entries(sha1_of(uri))[0][1])


def count_packs(store: Store) -> int:
    return len(store.repository.volume.list_packs())


def in_two_packs(store: Store, path: Path) -> Path:
    """Stores a file whose front was stored before. Returns the pack of the front."""
    front = random.Random(1).randbytes(3_000_000)
    first = store.store_bytes(front)
    path.write_bytes(front + random.Random(2).randbytes(3_000_000))
    store.store_file(path)
    return pack_of(store, first)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("host", ["a", "fresh"])
@pytest.mark.parametrize("merged_again", [False, True])
@pytest.mark.parametrize("reopened", [False, True])
def test_an_unchanged_file_is_stored_again_when_a_pack_of_its_chunks_that_a_segment_holds_is_gone(
    open_host: Open, tmp_path: Path, host: str, merged_again: bool, reopened: bool
) -> None:
    path = tmp_path / "file"
    store = open_host()
    lost = in_two_packs(store, path)
    store.merge_segments()
    store = open_host(host)
    store.store_file(path)
    store.store_file(path)
    root = store.repository.lookup.entries(sha1_of(store.store_file(path)))[0][0].root
    store.repository.lookup.mark_whole({root})
    lost.unlink()
    if merged_again:  # then no segment that serves names the pack
        other = open_host("other")
        fill(other, range(3))
        other.merge_segments()
    if reopened:
        store.close()
        store = open_host(host)
    store.repository.lookup.refresh()
    assert not store.repository.lookup.whole({root})
    uri = store.store_file(path)
    assert open_host("last").load_bytes(uri) == path.read_bytes()


def test_a_pack_that_a_segment_holds_and_whose_table_was_found_damaged_is_not_relied_on_by_later_processes(
    open_host: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_host()
    contents = fill(store, range(3))
    uri = next(iter(contents))
    path = pack_of(store, uri)
    store.merge_segments()
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[-200] ^= 1  # in the table
    path.chmod(0o644)
    path.write_bytes(damaged)
    beside = open_host()  # found out by another process
    assert not beside.repository.lookup.tables.problems
    with open_host() as finder:
        finder.repository.lookup.tables.read_whole(bytes.fromhex(path.stem))
    assert not beside.repository.lookup.entries(sha1_of(uri))
    store = open_host()
    assert store.repository.lookup.tables.problems.keys() == {bytes.fromhex(path.stem)}
    path.write_bytes(good)  # it is as good as ever when it was replaced
    beside.repository.lookup.refresh()
    assert not beside.repository.lookup.tables.problems
    assert beside.repository.lookup.entries(sha1_of(uri))
    assert not open_host().repository.lookup.tables.problems
    assert path.name not in _read_when_opened(open_host, monkeypatch)  # nor is it looked at for ever
    path.write_bytes(damaged)
    with open_host() as finder:
        assert verify(finder).problems
    store = open_host()
    before = count_packs(store)
    assert sha1_of(store.store_bytes(contents[uri], label="0.bin")) == sha1_of(uri)
    assert count_packs(store) == before + 1
    path.unlink()
    for host in "ab":
        assert {one: open_host(host).load_bytes(one) for one in contents} == contents


def _read_when_opened(open_host: Open, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the packs whose tables are."""
    names: list[str] = []
    original = PackReader.read_table

    def counted(self: PackReader) -> object:
        names.append(self.name)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(PackReader, "read_table", counted)
        open_host()
    return names


def test_a_pack_that_appears_while_segments_are_looked_for_is_found(
    open_host: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = fill(open_host(), range(3))
    store, beside, other = open_host(), open_host(), open_host("b")
    done = threading.Event()

    def late(volume: Volume) -> set[bytes]:
        if not done.is_set():
            done.set()
            contents.update(fill(beside, range(3, 4)))
            other.merge_segments()
        return list_segments(volume)

    monkeypatch.setattr(segments, "list_segments", late)
    store.repository.lookup.look_for_segments()
    assert done.is_set()
    uri = list(contents)[-1]
    for _ in range(2):
        assert {item.uri for item in store.history()} == contents.keys()
        assert store.repository.lookup.proved_entries(sha1_of(uri))
    assert store.forget(uri).dropped == 1


def test_the_log_is_complete_though_rows_go_into_a_segment_while_it_is_read(
    open_host: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kacas.disk.lookup._PROVED_LOG", 5)  # more are read from the index
    store = open_host()
    contents = fill(store, range(20))
    beside = open_host()
    done = threading.Event()
    original = Index.log

    def log(self: Index, owner: bytes, before: bytes | None = None, count: int = 1000) -> object:
        if not done.is_set():
            done.set()
            beside.merge_segments()
        return original(self, owner, before, count)

    monkeypatch.setattr(Index, "log", log)
    assert [item.uri for item in store.history()] == list(reversed(contents))
    assert done.is_set()


def test_the_segments_and_what_the_index_dropped_for_them_are_looked_up_as_one(open_host: Open) -> None:
    store, beside = open_host(), open_host()
    lookup: Lookup = store.repository.lookup
    (uri,) = fill(store, range(1))
    old = lookup.serving()
    beside.merge_segments()
    assert lookup.serving().sheds == old.sheds + 1
    # A look that began before the rows were dropped ends after one that saw them dropped.
    lookup.segments.current = old
    assert lookup.entries(sha1_of(uri))
    assert {item.uri for item in store.history()} == {uri}
