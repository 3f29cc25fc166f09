"""Segments under faults: whatever happens to one, or while one is made, costs time and never an answer."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import kacas
from kacas.disk.segment_writer import TableRun, write_segment
from kacas.model.entry import Entry, Kind
from kacas.model.merging import MergeRule
from kacas.model.pack_format import FOOTER_SIZE, Footer, Table, decode_table, encode_table
from kacas.settings import Settings
from kacas.upkeep.verify import verify
from tests.faults import strace

NOTHING_IS_SMALL = MergeRule(fan_in=1 << 30, max_size=1)
MISSING = "sha1://" + "12" * 20
STEPS = {
    "directory": "mkdir,mkdirat",
    "write": "pwritev,pwritev2",
    "sync": "fsync",
    "link": "link,linkat",
    "unlink": "unlink,unlinkat",
    "index write": "pwrite64",
}


def content(i: int) -> bytes:
    return random.Random(i).randbytes(300 + i)


@contextmanager
def opened(base: Path, host: str = "a") -> Iterator[kacas.Store]:
    settings = replace(Settings.from_environment(), cache_directory=base / f"cache-{host}", threads=2)
    with kacas.Store.open(base / "store", settings=settings) as store:
        store.repository.lookup.rule = NOTHING_IS_SMALL
        yield store


def fill(base: Path, numbers: range) -> dict[str, bytes]:
    with opened(base) as store:
        return {store.store_bytes(content(i)): content(i) for i in numbers}


def check(store: kacas.Store, contents: dict[str, bytes]) -> None:
    for uri, expected in contents.items():
        assert store.load_bytes(uri) == expected
    assert not store.exists(MISSING)
    assert {item.uri for item in store.history()} == contents.keys()


def merge(base: Path) -> None:
    with opened(base) as store:
        store.merge_segments()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A store with one segment, and packs that it does not hold yet."""
    base = tmp_path_factory.mktemp("template")
    contents = fill(base, range(5))
    merge(base)
    return base, contents | fill(base, range(5, 9))


@pytest.mark.parametrize("calls", STEPS.values(), ids=STEPS)
def test_a_kill_at_any_step_of_making_a_segment_costs_nothing(
    tmp_path: Path, template: tuple[Path, dict[str, bytes]], calls: str
) -> None:
    first, contents = template
    for n in itertools.count(1):
        base = tmp_path / str(n)
        shutil.copytree(first, base, symlinks=True)
        outcome = strace.attach(lambda base=base: merge(base), strace.inject(calls, f"signal=SIGKILL:when={n}"))
        for host in "ab":
            with opened(base, host) as store:
                check(store, contents)
                assert verify(store).clean
        merge(base)
        with opened(base, "c") as store:
            check(store, contents)
            assert store.repository.lookup.load() == (0, 0)
        shutil.rmtree(base)
        if not outcome.killed_by:
            assert n > 1 or "mkdir" in calls
            return


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("calls", [STEPS[name] for name in ("write", "sync", "link")])
def test_an_error_while_a_segment_is_made_is_typed_and_leaves_the_store_as_it_was(
    tmp_path: Path, template: tuple[Path, dict[str, bytes]], calls: str, error: str
) -> None:
    first, contents = template

    def attempt(base: Path) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an index that cannot be written either
            try:
                merge(base)
            except kacas.StoreError as exc:
                return type(exc).__name__
        return ""

    for n in itertools.count(1):
        base = tmp_path / str(n)
        shutil.copytree(first, base, symlinks=True)
        failed = strace.attach(lambda base=base: attempt(base), strace.inject(calls, f"error={error}:when={n}")).get()
        assert not [name for name in os.listdir(base / "store" / "segments") if ".tmp." in name]
        with opened(base, "b") as store:
            check(store, contents)
        shutil.rmtree(base)
        if not failed and n > 2:  # the first link may be the index's own
            return


def damaged(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def check_damaged(base: Path, contents: dict[str, bytes], host: str) -> list[str]:
    """Every answer is right. Returns what `verify` calls the damage."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with opened(base, host) as store:
            check(store, contents)
            report = verify(store)
            assert report.clean
        shutil.rmtree(base / f"cache-{host}")
    assert all("segment" in str(one.message) for one in caught)
    return [problem.kind for problem in report.redundant]


def test_a_flipped_bit_anywhere_in_a_segment_is_never_a_wrong_answer_and_verify_names_it(tmp_path: Path) -> None:
    contents = fill(tmp_path, range(3))
    merge(tmp_path)
    (path,) = (tmp_path / "store" / "segments").iterdir()
    whole = path.read_bytes()
    rng = random.Random(5)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << rng.randrange(8)
        damaged(path, bytes(changed))
        named = check_damaged(tmp_path, contents, "b")
        assert named == ["damaged"] or (named == ["newer"] and position in (8, 9)), position


def test_a_segment_that_is_cut_short_is_done_without(tmp_path: Path) -> None:
    contents = fill(tmp_path, range(3))
    merge(tmp_path)
    (path,) = (tmp_path / "store" / "segments").iterdir()
    whole = path.read_bytes()
    for size in [0, 1, 63, 64, 191, 192, *range(200, len(whole), 97), len(whole) - 1]:
        damaged(path, whole[:size])
        assert check_damaged(tmp_path, contents, "b") == ["damaged"], size
    damaged(path, whole + b"\0")
    assert check_damaged(tmp_path, contents, "b") == ["damaged"]


def test_damage_to_a_segment_in_use_costs_nothing_on_a_host_whose_index_dropped_its_rows(tmp_path: Path) -> None:
    contents = fill(tmp_path, range(5))
    merge(tmp_path)
    (path,) = (tmp_path / "store" / "segments").iterdir()
    with opened(tmp_path) as store:
        damaged(path, bytes(path.stat().st_size))
        with pytest.warns(RuntimeWarning, match=r"segment .* checksum .* Move it out"):
            check(store, contents)
        assert store.repository.lookup.load() == (10, 5)
    with pytest.warns(RuntimeWarning, match="does not begin as a segment"):
        merge(tmp_path)  # another takes its place
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with opened(tmp_path, "b") as store:
            check(store, contents)
            assert store.repository.lookup.load() == (0, 0)


def test_a_segment_of_a_later_version_is_done_without_and_named(tmp_path: Path) -> None:
    contents = fill(tmp_path, range(3))
    merge(tmp_path)
    (path,) = (tmp_path / "store" / "segments").iterdir()
    changed = bytearray(path.read_bytes())
    changed[8] = 9
    damaged(path, bytes(changed))
    with pytest.warns(RuntimeWarning, match=r"format version 9, .* upgrade kacas"):
        kinds = look(tmp_path, contents)
    assert kinds == ["newer"]


def look(base: Path, contents: dict[str, bytes]) -> list[str]:
    """Everything is there. Returns what `verify` calls redundant."""
    with opened(base, "b") as store:
        check(store, contents)
        report = verify(store)
    assert report.clean
    return [problem.kind for problem in report.redundant]


def test_two_hosts_that_make_the_same_segment_at_once_do_no_harm(tmp_path: Path) -> None:
    contents = fill(tmp_path, range(6))
    with opened(tmp_path, "a") as one, opened(tmp_path, "b") as other:
        volume = one.repository.volume
        tables = [
            (pack_id, one.repository.lookup.packs.get(pack_id).read_table()) for pack_id in sorted(volume.list_packs())
        ]
        write_segment(volume, [TableRun(tables[:4])], volume.list_packs())
        write_segment(volume, [TableRun(tables[2:])], volume.list_packs())
        for store in (one, other):
            check(store, contents)
    with opened(tmp_path, "c") as store:
        check(store, contents)
        assert store.segment_stats().chunks in (8, 6)  # they are due to be merged, and may have been
        assert store.merge_segments().chunks == 6
        check(store, contents)
        assert verify(store).redundant == []


def lying(table: Table, **changes: object) -> Table:
    records = table.records.copy()
    records["offset"] += 1
    entries = b"".join(entry._replace(**changes).encode() for entry in table.entries())
    data = encode_table([row.tobytes() for row in records], [entries])
    footer = Footer(
        b"p" * 16, 1 << 40, len(data), len(records), table.entry_count, (1 << 40) + len(data) + FOOTER_SIZE, b""
    )
    return decode_table(data, footer)


def test_a_segment_that_lies_about_places_is_proved_wrong_by_the_packs_and_named_by_verify(tmp_path: Path) -> None:
    contents = fill(tmp_path, range(3))
    with opened(tmp_path) as store:
        volume = store.repository.volume
        tables = [(pack_id, store.repository.lookup.packs.get(pack_id).read_table()) for pack_id in volume.list_packs()]
    write_segment(volume, [TableRun([(pack_id, lying(table)) for pack_id, table in tables])], volume.list_packs())
    with opened(tmp_path, "b") as store:
        check(store, contents)
        before = len(volume.list_packs())
        store.store_bytes(content(0))
        assert len(volume.list_packs()) == before + 1, "a place that was not seen was relied on"
        report = verify(store)
        assert [problem.kind for problem in report.problems] == ["contradicting"]
        assert "move it out of segments/" in report.problems[0].message


def test_an_entry_that_only_a_segment_has_is_named_by_verify(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    with opened(tmp_path) as store:
        volume = store.repository.volume
        ((pack_id, table),) = [
            (pack_id, store.repository.lookup.packs.get(pack_id).read_table()) for pack_id in volume.list_packs()
        ]
    made_up = Entry(b"e" * 16, b"1" * 20, bytes(32), 5, 1, Kind.TEXT, b"nobody", b"")
    more = Table(table.records, bytes(table.entries_data) + made_up.encode(), table.entry_count + 1)
    write_segment(volume, [TableRun([(pack_id, more)])], volume.list_packs())
    with opened(tmp_path, "b") as store:
        assert [problem.kind for problem in verify(store).problems] == ["contradicting"]


def test_a_damaged_table_of_a_pack_that_is_held_hides_nothing(tmp_path: Path) -> None:
    contents = fill(tmp_path, range(3))
    merge(tmp_path)
    with opened(tmp_path) as store:
        (uri, data), *_ = contents.items()
        pack_id = store.repository.lookup.entries(bytes.fromhex(uri[7:47]))[0][1]
        path = store.repository.volume.pack_path(pack_id)
    changed = bytearray(path.read_bytes())
    changed[-200] ^= 1  # in the table
    damaged(path, bytes(changed))
    with opened(tmp_path, "b") as store:
        check(store, contents)
        assert [problem.pack for problem in verify(store).problems] == [pack_id.hex()]
        check(store, contents)  # the segment tells what the table said
        store.store_bytes(data)  # what only a damaged table claims is not relied on
        path.unlink()
        store.repository.lookup.refresh()
        check(store, contents)


def test_segments_of_other_stores_are_refused(tmp_path: Path) -> None:
    contents = {name: fill(tmp_path / name, range(2)) for name in "xy"}
    for name in "xy":
        merge(tmp_path / name)
    (foreign,) = (tmp_path / "x" / "store" / "segments").iterdir()
    shutil.copy(foreign, tmp_path / "y" / "store" / "segments")
    with pytest.warns(RuntimeWarning, match="belongs to the store"):
        assert look(tmp_path / "y", contents["y"]) == ["damaged"]
