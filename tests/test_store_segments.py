"""Segments: whatever is held by them is found as it was by the index, on this host and on others, and nothing else is."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kacas import NotFoundError, Store
from kacas.disk import pack_reader, segment_reader
from kacas.disk.alone import alone
from kacas.disk.holding import LOCK_NAME
from kacas.disk.pack_reader import PackReader
from kacas.disk.segments import SegmentSet, list_segments
from kacas.model.merging import MergeRule
from kacas.model.segment_rule import SegmentRule
from kacas.settings import Settings
from kacas.upkeep.verify import verify

Open = Callable[..., Store]
NEVER = SegmentRule(rows=1 << 60, packs=1 << 60)
ALWAYS = SegmentRule(rows=1, packs=1)
NO_MERGING = MergeRule(fan_in=1 << 30, max_size=1)  # nothing is small


@pytest.fixture
def open_host(tmp_path: Path) -> Iterator[Open]:
    """Opens one store, each time with the cache of the host that is named."""
    opened: list[Store] = []

    def open_one(
        host: str = "a", rule: SegmentRule = NEVER, merging: MergeRule = NO_MERGING, owner: str = "me"
    ) -> Store:
        settings = replace(Settings.from_environment(), cache_directory=tmp_path / f"cache {host}", owner=owner)
        store = Store.open(tmp_path / "store", settings=settings)
        store.repository.segment_maker.rule = rule
        store.repository.segment_maker.patience_s = 60
        store.repository.lookup.rule = merging
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def tables_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the packs whose tables are read from now on."""
    names: list[str] = []
    original = PackReader.read_table

    def counted(self: PackReader) -> object:
        names.append(self.name)
        return original(self)

    monkeypatch.setattr(pack_reader.PackReader, "read_table", counted)
    return names


def content(i: int) -> bytes:
    return random.Random(i).randbytes(600 + i)


def fill(store: Store, numbers: range) -> dict[str, bytes]:
    return {store.store_bytes(content(i), label=f"{i}.bin"): content(i) for i in numbers}


def check(store: Store, contents: dict[str, bytes]) -> None:
    for uri, expected in contents.items():
        assert store.load_bytes(uri) == expected
    with pytest.raises(NotFoundError):
        store.load_bytes("sha1://" + "12" * 20)


def test_a_fresh_host_reads_no_table_of_what_segments_hold(open_host: Open, tables_read: list[str]) -> None:
    store = open_host()
    contents = fill(store, range(20))
    big = np.random.default_rng(1).integers(0, 9, (300, 5000))
    uri = store.store_npy(big)
    store.merge_segments()
    tables_read.clear()
    other = open_host("b")
    check(other, contents)
    assert (other.load_npy(uri) == big).all()
    assert [item.uri for item in other.history()] == [uri, *reversed(contents)]
    assert other.repository.lookup.load() == (0, 0)
    assert not tables_read


def test_the_index_drops_what_segments_hold_and_everything_is_found_as_before(open_host: Open) -> None:
    store, beside = open_host(), open_host()
    contents = fill(store, range(20))
    check(beside, contents)
    some_pack = next(iter(store.repository.volume.list_packs()))
    (digest,) = store.repository.lookup.packs.get(some_pack).read_table().records["digest"].tolist()
    store.merge_segments()
    assert store.repository.lookup.load() == (0, 0)
    # Without a look at packs/: the index says that segments have what it has no more.
    assert beside.repository.lookup.locate([digest])
    for one in (store, beside):
        assert all(one.repository.lookup.entries(bytes.fromhex(uri[7:47])) for uri in contents)
    check(store, contents)
    check(beside, contents)
    contents |= fill(beside, range(20, 30))
    check(store, contents)
    assert store.repository.lookup.load() == (20, 10)


def test_a_segment_is_made_when_it_is_due_without_being_asked(open_host: Open) -> None:
    contents: dict[str, bytes] = {}
    for start in range(0, 40, 10):
        with open_host(rule=SegmentRule(rows=10, packs=1 << 30)) as store:
            contents |= fill(store, range(start, start + 10))
    assert list_segments(store.repository.volume)
    with open_host("b") as other:
        check(other, contents)
        assert other.repository.lookup.load()[0] < 30


def test_segments_are_merged_into_larger_ones_that_replace_them(open_host: Open) -> None:
    store = open_host()
    contents: dict[str, bytes] = {}
    for start in range(0, 30, 10):
        contents |= fill(store, range(start, start + 10))
        store.merge_segments()
    assert len(list_segments(store.repository.volume)) == 5
    other = open_host("b")
    assert len(other.repository.lookup.segments.current.segments) == 1
    check(other, contents)


def test_what_is_large_is_not_written_again_for_little_that_is_new(open_host: Open) -> None:
    store = open_host()
    contents = fill(store, range(40))
    store.merge_segments()
    (large,) = list_segments(store.repository.volume)
    for number in range(40, 46):
        contents |= fill(store, range(number, number + 1))
        held = store.merge_segments()
        assert 1 < held.segments <= 3
        assert held.packs == len(contents)
        assert store.merge_segments() == held, "nothing is new"
    assert large in {segment.id for segment in store.repository.lookup.segments.current.segments}
    assert held.replaced_size < held.size
    check(open_host("b"), contents)
    contents |= fill(store, range(46, 60))
    held = store.merge_segments()
    assert held.segments == 1
    files = list(store.repository.volume.segments.iterdir())
    assert held.size + held.replaced_size == sum(path.stat().st_size for path in files)
    check(open_host("c"), contents)


def test_nothing_is_stored_twice_that_a_segment_knows(open_host: Open) -> None:
    store = open_host()
    contents = fill(store, range(10))
    store.merge_segments()
    other = open_host("b")
    before = len(other.repository.volume.list_packs())
    assert list(fill(other, range(10))) == list(contents)
    assert len(other.repository.volume.list_packs()) == before


def test_what_was_forgotten_stays_forgotten(open_host: Open) -> None:
    store = open_host()
    uri = store.store_text("a text")
    store.merge_segments()
    store.forget(uri)
    store.merge_segments()
    other = open_host("b")
    assert [item.forgotten for item in other.history()] == [True]
    assert not other.describe(uri).claims


def test_damage_that_a_load_finds_is_healed_by_storing_again(open_host: Open) -> None:
    store = open_host()
    (uri,) = fill(store, range(1))
    store.merge_segments()
    (pack,) = store.repository.volume.packs.glob("*.pack")
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[200] ^= 1
    pack.write_bytes(data)
    store = open_host("b")
    assert verify(store).problems
    assert store.store_bytes(content(0)).split("?")[0] == uri.split("?")[0]
    assert store.load_bytes(uri) == content(0)
    store.merge_segments()
    assert store.load_bytes(uri) == content(0)


def test_a_pack_that_is_gone_takes_its_entries_along(open_host: Open) -> None:
    store = open_host()
    (uri,) = fill(store, range(1))
    kept = fill(store, range(1, 5))
    store.merge_segments()
    pack_id = store.repository.lookup.entries(bytes.fromhex(uri[7:47]))[0][1]
    store.repository.volume.pack_path(pack_id).unlink()
    for host in "ab":
        other = open_host(host)
        check(other, kept)
        with pytest.raises(NotFoundError):
            other.load_bytes(uri)
        assert len(list(other.history())) == 4


@pytest.mark.parametrize("call", ["open", "pread"])
@pytest.mark.parametrize("failures", [1, 1000])
def test_a_segment_that_the_system_fails_to_read_serves_again(
    open_host: Open, monkeypatch: pytest.MonkeyPatch, call: str, failures: int
) -> None:
    contents = fill(open_host(), range(5))
    open_host().merge_segments()
    store = open_host("b")
    if call == "open":
        store.repository.lookup.segments.current = SegmentSet((), frozenset())
    real = getattr(os, call)
    left = failures

    def fails(*told: Any) -> Any:
        nonlocal left
        if left and str(told[0]).endswith("seg" if call == "open" else ""):
            left -= 1
            raise OSError(errno.EMFILE if call == "open" else errno.ESTALE, "of the system")
        return real(*told)

    monkeypatch.setattr(segment_reader, "os", SimpleNamespace(**{**vars(os), call: fails}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store.repository.lookup.look_for_segments()
        store.rebuild_index()
        check(store, contents)
    said = [str(one.message) for one in caught if ".seg: " in str(one.message)]
    if failures == 1:
        assert not said
    else:
        assert said
        assert "tried again soon" in said[0]
        assert "Move it out" not in said[0]
        assert store.repository.lookup.load() == (10, 5)
        left = 0
        segments = store.repository.lookup.segments
        segments._aside = dict.fromkeys(segments._aside, 0)  # half a minute later
    assert store.repository.lookup.look_for_segments().segments
    check(store, contents)


def test_small_packs_are_held_when_they_have_been_merged(open_host: Open, tables_read: list[str]) -> None:
    rule = MergeRule(fan_in=3, max_rows=12)
    store = open_host(merging=rule)
    contents = fill(store, range(20))
    store.merge_segments()
    held = store.repository.lookup.segments.current
    assert held.held
    assert held.covered()
    assert not held.covered() & held.held
    contents |= fill(store, range(20, 40))
    tables_read.clear()
    other = open_host("b", merging=rule)
    check(other, contents)
    assert len(list(other.history())) == 40
    assert not {f"{pack_id.hex()}.pack" for pack_id in held.spared()} & set(tables_read)
    # Without the merged pack, its sources count again.
    for pack_id in held.held:
        other.repository.volume.pack_path(pack_id).unlink()
    for host in "abc":
        check(open_host(host, merging=rule), contents)


def test_what_a_merged_pack_with_a_damaged_table_covers_counts_again(open_host: Open) -> None:
    store = open_host(merging=MergeRule(fan_in=3, max_rows=5))
    contents = fill(store, range(3))
    store.merge_segments()
    (merged,) = store.repository.lookup.segments.current.held
    path = store.repository.volume.pack_path(merged)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-140] ^= 1
    path.write_bytes(data)
    other = open_host("b", merging=MergeRule(fan_in=3, max_rows=5))
    assert [problem.pack for problem in verify(other).problems] == [merged.hex()]
    for uri in contents:
        packs = {pack_id for _, pack_id in other.repository.lookup.entries(bytes.fromhex(uri[7:47]))}
        assert packs
        assert merged not in packs
    check(other, contents)


@pytest.fixture
def many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows are so many that they go into a segment at once, and no pack is small, as soon as a store is opened."""
    monkeypatch.setattr("kacas.disk.lookup.RULE", NO_MERGING)
    monkeypatch.setattr("kacas.disk.lookup._IMPORT_RECORDS", 5)


@pytest.mark.usefixtures("many_at_once")
def test_a_first_host_of_a_large_store_makes_segments_instead_of_filling_its_index(open_host: Open) -> None:
    contents = fill(open_host(), range(20))
    other = open_host("b")
    check(other, contents)
    assert other.repository.lookup.load()[0] <= 5
    other.repository.segment_maker.close()  # so many small segments are merged, though nothing else is due
    assert len(list_segments(other.repository.volume)) == 7
    assert len(open_host("c").repository.lookup.segments.current.segments) == 1
    assert other.rebuild_index() <= 5
    check(other, contents)


@pytest.mark.usefixtures("many_at_once")
def test_while_another_makes_segments_the_index_takes_all(open_host: Open, tmp_path: Path) -> None:
    store = open_host()
    contents = fill(store, range(20))
    cache = store.repository.volume.cache_directory(tmp_path / "cache b")
    with alone(cache / LOCK_NAME) as is_alone:
        assert is_alone
        other = open_host("b")
    check(other, contents)
    assert other.repository.lookup.load() == (40, 20)
    assert not list_segments(other.repository.volume)


@pytest.mark.usefixtures("many_at_once")
def test_a_store_that_cannot_take_segments_fills_the_index(open_host: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_host()
    contents = fill(store, range(20))
    (store.path / "segments").write_text("a file is in the way")
    check(open_host("b"), contents)
    monkeypatch.setattr("kacas.disk.holding.LEFT_FREE", 1 << 60)
    (store.path / "segments").unlink()
    other = open_host("c")
    check(other, contents)
    assert other.repository.lookup.load() == (40, 20)


def test_the_independent_reader_needs_no_segments(open_host: Open, tmp_path: Path) -> None:
    contents = fill(open_host(), range(3))
    open_host().merge_segments()
    reader = Path(__file__).resolve().parent.parent / "docs" / "independent_reader.py"
    subprocess.run([sys.executable, reader, tmp_path / "store", tmp_path / "out"], check=True, capture_output=True)
    assert sorted(path.read_bytes() for path in (tmp_path / "out").iterdir()) == sorted(contents.values())
