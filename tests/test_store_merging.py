"""Stores whose small packs are merged: nothing is lost, nothing is there twice, and verify tells what matters."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas import Store
from kacas.disk.pack_writer import PackWriter
from kacas.model.merging import MergeRule, merged_entry, merged_pack_id, tier_of
from kacas.upkeep.verify import verify

MISSING = "sha1://" + "00" * 20
TINY = MergeRule(fan_in=2, max_size=20_000, max_rows=12)


def merging(path: Path, rule: MergeRule = TINY) -> Store:
    store = Store.open(path, durability="relaxed")
    store.repository.lookup.rule = rule
    return store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Every three small packs are merged."""
    with merging(tmp_path / "store", MergeRule(fan_in=3)) as opened:
        yield opened


def merged_packs(store: Store) -> set[Path]:
    return {path for path in (store.path / "packs").glob("*.pack") if tier_of(bytes.fromhex(path.stem))}


def flip(pack: Path, at: int) -> None:
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[at] ^= 0x20
    pack.write_bytes(data)


def forget_index(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


STEPS = st.one_of(
    st.tuples(st.just("text"), st.integers(0, 9)),
    st.tuples(st.just("bytes"), st.sampled_from([0, 1, 3000, 25_000])),
    st.tuples(st.just("batch"), st.integers(1, 8)),
    st.tuples(st.just("forget"), st.integers(0, 30)),
    st.tuples(st.just("reopen"), st.booleans()),
    st.tuples(st.just("elsewhere"), st.integers(0, 9)),
)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(STEPS, max_size=25), rule=st.sampled_from([TINY, MergeRule(fan_in=3), MergeRule(fan_in=2)]))
def test_any_sequence_of_puts_keeps_every_uri(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], rule: MergeRule
) -> None:
    """reopen: with or without the index. elsewhere: put by a host with an index of its own."""
    place = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KACAS_CACHE_DIR", str(place / "cache"))
        store = merging(place / "store", rule)
        data: dict[str, bytes] = {}

        def put(where: Store, content: bytes, kind: str) -> str:
            uri = where.store_text(content.decode()) if kind == "text" else where.store_bytes(content)
            data[uri] = content
            return uri

        for number, (step, value) in enumerate(steps):
            if step == "text":
                put(store, b"text %d" % value, "text")
            elif step == "bytes":
                put(store, os.urandom(value), "bytes")
            elif step == "batch":
                with store.batch():
                    for i in range(value):
                        put(store, b"step %d content %d" % (number, i), "text")
            elif step == "forget" and data:
                store.forget(sorted(data)[value % len(data)])
            elif step == "reopen":
                store.close()
                if value:
                    forget_index(place)
                store = merging(place / "store", rule)
            elif step == "elsewhere":
                patch.setenv("KACAS_CACHE_DIR", str(place / "other cache"))
                with merging(place / "store", rule) as other:
                    put(other, b"from elsewhere %d" % value, "text")
                patch.setenv("KACAS_CACHE_DIR", str(place / "cache"))
        for _ in range(2):
            for uri, content in data.items():
                assert store.load_bytes(uri) == content
                claims = store.describe(uri).claims
                assert len(claims) <= 2  # one of each kind at most
                assert len({claim.entry_id for claim in claims}) == len(claims)
            assert not store.exists(MISSING)
            report = verify(store)
            assert report.problems == report.redundant == report.orphans == []
            history = [(item.uri, item.time_s) for item in store.history()]
            assert len(set(history)) == len(history)
            assert {uri for uri, _ in history} == data.keys()
            assert store.stats().contents == len(data)
            store.close()
            forget_index(place)
            store = merging(place / "store", rule)
        store.close()


def test_what_is_merged_is_counted_and_listed_once(store: Store, tmp_path: Path) -> None:
    uris = [store.store_text(f"text {i}") for i in range(9)]
    store.forget(uris[0])
    assert len(merged_packs(store)) >= 3
    for _ in range(2):
        stats = store.stats()
        assert (stats.chunks, stats.entries, stats.contents) == (9, 10, 9)
        assert stats.raw_size == 9 * len("text 0")
        assert stats.packs == len(list((store.path / "packs").glob("*.pack")))
        assert stats.pack_size == sum(path.stat().st_size for path in (store.path / "packs").glob("*.pack"))
        assert [item.uri for item in store.history()] == uris[::-1]
        assert [item.forgotten for item in store.history()] == [False] * 8 + [True]
        assert [len(store.describe(uri).claims) for uri in uris] == [0] + [1] * 8
        store.rebuild_index()
    assert [store.forget(uri).dropped for uri in uris] == [0] + [1] * 8


def test_content_that_was_merged_is_not_stored_again(store: Store) -> None:
    data = os.urandom(5000)
    store.store_bytes(data)
    for i in range(2):
        store.store_text(f"text {i}")
    assert len(merged_packs(store)) == 1
    before = sorted(path.name for path in (store.path / "packs").iterdir())
    store.store_bytes(data)
    assert sorted(path.name for path in (store.path / "packs").iterdir()) == before
    store.store_bytes(data, label="another")
    (pack,) = [path for path in (store.path / "packs").iterdir() if path.name not in before]
    assert pack.stat().st_size < 1000


def test_another_store_object_and_a_forked_child_merge_too(store: Store) -> None:
    uris = [store.store_text("first")]
    again: Store = pickle.loads(pickle.dumps(store))
    with again:
        again.repository.lookup.rule = MergeRule(fan_in=3)
        uris += [again.store_text("second"), store.store_text("third")]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for i in range(4):
                store.store_text(f"of the child {i}")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(merged_packs(store)) >= 2
    assert [store.load_text(uri) for uri in uris] == ["first", "second", "third"]
    assert verify(store).clean


# --- damage -----------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_in_a_merged_pack_costs_no_content(tmp_path: Path, store: Store) -> None:
    uris = {store.store_text(f"text {i} " * (i * 40 + 1)): f"text {i} " * (i * 40 + 1) for i in range(3)}
    store.close()
    (pack,) = merged_packs(store)
    good = pack.read_bytes()
    for at in range(0, len(good), 7):
        flip(pack, at)
        for fresh in (False, True):
            if fresh:
                forget_index(tmp_path)
            with Store.open(store.path) as opened:
                assert {uri: opened.load_text(uri) for uri in uris} == uris, at
                assert opened.stats().contents == 3, at
        pack.write_bytes(good)


@pytest.mark.parametrize("at", [70, 140, -1, -200])
def test_damage_in_what_was_merged_is_told_and_touches_nothing(store: Store, tmp_path: Path, at: int) -> None:
    before: set[Path] = set()
    uris = []
    for i in range(3):
        uris.append(store.store_text(f"text {i}"))
        before |= set((store.path / "packs").iterdir()) - merged_packs(store)
    pack = sorted(before)[0]
    flip(pack, at % pack.stat().st_size)
    report = verify(store)
    assert report.clean
    assert [(problem.pack, problem.kind) for problem in report.redundant] == [(pack.stem, "damaged")]
    assert not store.exists(MISSING)
    assert [store.load_text(uri) for uri in uris] == [f"text {i}" for i in range(3)]
    # Without the merged pack it matters.
    (merged,) = merged_packs(store)
    merged.unlink()
    report = verify(store)
    assert not report.clean
    assert report.redundant == []
    assert {problem.pack for problem in report.problems} >= {pack.stem}


@pytest.mark.parametrize("at", [64 + 64 + 2, 64 + 20, -1, -200])
def test_damage_in_a_merged_pack_is_a_problem(store: Store, at: int) -> None:
    uris = [store.store_text(f"text {i}") for i in range(3)]
    (merged,) = merged_packs(store)
    flip(merged, at % merged.stat().st_size)
    report = verify(store)
    assert not report.clean
    assert {(problem.pack, problem.uris) for problem in report.problems} == {(merged.stem, ())}
    assert report.redundant == []
    assert [store.load_text(uri) for uri in uris] == [f"text {i}" for i in range(3)]
    for i in range(3):
        assert store.store_text(f"text {i}") == uris[i]
    assert [store.load_text(uri) for uri in uris] == [f"text {i}" for i in range(3)]


def test_damage_in_a_merged_pack_and_in_a_source_is_two_problems(store: Store) -> None:
    uri = store.store_text("text 0")
    (source,) = (store.path / "packs").iterdir()
    for i in (1, 2):
        store.store_text(f"text {i}")
    (merged,) = merged_packs(store)
    for pack in (merged, source):
        data = pack.read_bytes()
        flip(pack, data.index(b"text 0"))
    report = verify(store)
    assert {problem.pack for problem in report.problems} == {merged.stem, source.stem}
    assert {uri.split("?")[0] for problem in report.problems for uri in problem.uris} == {uri}
    assert report.redundant == []


def test_a_merged_pack_that_lacks_what_it_says_it_holds_is_named(store: Store) -> None:
    store.store_text("one")
    (source,) = store.repository.volume.list_packs()
    writer = PackWriter(store.repository.volume, pack_id=merged_pack_id(1, os.urandom(14)))
    writer.finish([merged_entry(os.urandom(16), 1, [source]).encode()])
    (problem,) = [problem for problem in verify(store).problems if source.hex() in problem.message]
    assert problem.pack == writer.pack_id.hex()
    assert "does not hold all" in problem.message


def test_a_store_from_before_is_merged_little_by_little(tmp_path: Path) -> None:
    with merging(tmp_path / "store", MergeRule(fan_in=1000)) as store:
        uris = [store.store_text(f"text {i}") for i in range(30)]
    with merging(tmp_path / "store", MergeRule(fan_in=5)) as store:
        for i in range(6):
            store.store_text(f"later {i}")
            assert len(merged_packs(store)) == i + 1
        assert [store.load_text(uri) for uri in uris] == [f"text {i}" for i in range(30)]
        assert verify(store).clean


def test_the_default_rule_merges_32_texts(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", durability="relaxed") as store:
        for i in range(31):
            store.store_text(f"text {i}")
        assert merged_packs(store) == set()
        store.store_text("text 31")
        assert len(merged_packs(store)) == 1
        assert store.stats().packs == 33
        assert store.stats().contents == 32
