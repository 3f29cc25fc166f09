"""Making segments: nothing waits for it, whatever goes wrong is said and harmless, and what is damaged is made anew."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kacas import NotFoundError, Store
from kacas.disk import segment_maker, segment_writer
from kacas.disk.alone import alone
from kacas.disk.holding import LOCK_NAME
from kacas.disk.segment_maker import SegmentMaker
from kacas.disk.segment_writer import TableRun, write_segment
from kacas.disk.volume import Volume
from kacas.errors import NoSpaceError, WriteError
from kacas.model.merging import MergeRule
from kacas.model.segment_rule import SegmentRule
from tests.faults import children


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as directory, Store.open(Path(directory) / "store") as opened:
        opened.repository.segment_maker.patience_s = 60
        opened.repository.lookup.rule = MergeRule(fan_in=1 << 30, max_size=1)
        yield opened


def maker_of(store: Store) -> SegmentMaker:
    maker = store.repository.segment_maker
    maker.rule = SegmentRule(rows=1, packs=1)
    maker.patience_s = 60
    return maker


def test_closing_abandons_a_merge_that_takes_long_and_short_lived_processes_do_not_begin_it_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = store.repository.segment_maker
    uris = []
    for part in range(2):
        uris.append(store.store_text(f"text {part}"))
        write_segment(store.repository.volume, [TableRun(next(maker._runs(store.repository.lookup.in_no_segment(), lambda: None)))],
                      store.repository.volume.list_packs())  # fmt: skip
        store.repository.lookup.look_for_segments()
    before = set(os.listdir(store.path / "segments"))
    begun = []
    append = segment_writer._SegmentWriter._append

    def waits_for_close(self: Any, *told: Any) -> None:
        begun.append(self.id)
        while maker._until == math.inf:
            time.sleep(0.001)
        append(self, *told)

    monkeypatch.setattr(segment_writer._SegmentWriter, "_append", waits_for_close)
    maker.patience_s = 0
    maker.make_if_due()
    maker.close()
    assert begun
    assert set(os.listdir(store.path / "segments")) == before
    monkeypatch.undo()

    costs = sum(SegmentRule.cost(1, 1) for _ in before)
    maker.rule = SegmentRule(most=costs)
    assert not maker._is_due(), "all is begun again"
    maker.rule = SegmentRule(most=costs << 3)
    assert maker._is_due(), "small ones are merged"
    maker.rule = SegmentRule(most=costs)
    os.utime(store.repository.lookup.cache / "segments.abandoned", (0, 0))
    assert maker._is_due()
    maker.patience_s, maker._not_before = 60, 0
    maker.make_if_due()
    maker.close()
    assert store.segment_stats().segments == 1
    assert [store.load_text(uri) for uri in uris] == ["text 0", "text 1"]


def test_the_end_of_a_program_that_does_not_close_abandons_too(store: Store) -> None:
    program = """
import sys, threading, time
import kacas
from kacas.disk import segment_writer
from kacas.model.merging import MergeRule
from kacas.model.segment_rule import SegmentRule
append = segment_writer._SegmentWriter._append
begun = threading.Event()
def waits_for_the_end(self, *told):
    begun.set()
    while threading.main_thread().is_alive():
        time.sleep(0.001)
    append(self, *told)
segment_writer._SegmentWriter._append = waits_for_the_end
store = kacas.Store.open(sys.argv[1])
store.repository.lookup.rule = MergeRule(fan_in=1 << 30, max_size=1)
store.repository.segment_maker.rule = SegmentRule(rows=1, packs=1)
store.repository.segment_maker.patience_s = 0
print(store.store_text("a text"))
assert begun.wait(60)
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", program, store.path],
        check=True, timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    assert store.load_text(ended.stdout.strip()) == "a text"
    assert not ended.stderr
    assert not os.listdir(store.path / "segments")


def test_a_segment_that_cannot_be_made_fails_no_put_and_is_said_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = maker_of(store)
    store.path.joinpath("segments").write_text("a file is in the way")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        uris = [store.store_text(f"text {i}") for i in range(5)]
        maker.close()
    assert [str(one.message)[:27] for one in caught] == ["no segment could be made of"]
    assert [store.load_text(uri) for uri in uris] == [f"text {i}" for i in range(5)]
    with pytest.raises(WriteError):
        store.merge_segments()


def test_a_put_succeeds_when_no_thread_can_be_started(store: Store) -> None:
    """In a process of its own, with a limit: this one may run as root, for whom there is none."""
    program = """
import sys, threading
import kacas
from kacas.model.segment_rule import SegmentRule
with kacas.Store.open(sys.argv[1]) as store:
    store.repository.segment_maker.rule = SegmentRule(rows=1, packs=1)
    threading.stack_size(1 << 46)  # more than there is to address
    uri = store.store_text("a text")
    threading.stack_size(0)
    assert store.load_text(uri) == "a text"
    store.merge_segments()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program, store.path], check=True)


def test_merging_ends_when_the_segment_that_was_made_cannot_be_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [store.store_text("a text")]
    store.merge_segments()
    uris.append(store.store_text("another text"))
    there = set(os.listdir(store.path / "segments"))

    def unreadable_when_merged(volume: Volume, *told: Any) -> bytes:
        made = write_segment(volume, *told)
        if told[2]:
            volume.segment_path(made).chmod(0o644)
            volume.segment_path(made).write_bytes(b"nothing")
        return made

    monkeypatch.setattr(segment_maker, "write_segment", unreadable_when_merged)
    with pytest.warns(RuntimeWarning), pytest.raises(WriteError, match="was made, but cannot be read"):
        store.merge_segments()
    assert len(set(os.listdir(store.path / "segments")) - there) == 2
    assert [store.load_text(uri) for uri in uris] == ["a text", "another text"]


def damage_a_bucket(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[64 + 10] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_damaged_segment_that_is_due_to_be_merged_is_made_anew_from_the_tables(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_maker, "_RUN_ROWS", 5)  # several segments take its place
    maker = store.repository.segment_maker
    uris = []
    for part in range(2):
        uris += [store.store_text(f"text {part} {i}") for i in range(8)]
        maker.make_all()
    largest = max(store.repository.lookup.segments.current.segments, key=lambda one: one.rows)
    uris += [store.store_text(f"new {i}") for i in range(6)]
    damage_a_bucket(store.path / "segments" / largest.name)
    with pytest.warns(RuntimeWarning, match="checksum of a bucket") as caught:
        maker.make_all()
    assert len([one for one in caught if "segment" in str(one.message)]) == 1
    assert store.segment_stats().packs == len(uris)
    assert store.segment_stats().segments == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Store.open(store.path) as again:
            again.rebuild_index()
            assert again.repository.lookup.load() == (0, 0)
            assert [item.uri for item in again.history()] == uris[::-1]
            again.merge_segments()


def test_merging_beside_another_process_that_makes_segments_is_refused(store: Store) -> None:
    with alone(store.repository.lookup.cache / LOCK_NAME), pytest.raises(WriteError, match="another process"):
        store.merge_segments()
    store.merge_segments()


def test_a_forked_child_holds_no_lock_for_a_parent_that_died(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from kacas.disk.alone import alone
with alone(Path(sys.argv[1])) as is_alone:
    assert is_alone
    child = os.fork()
    if not child:
        os.close(1)
        signal.pause()
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "lock"], stdout=subprocess.PIPE, timeout=20, check=False
    )
    child = int(parent.stdout)
    try:
        with alone(tmp_path / "lock") as is_alone:
            assert is_alone
    finally:
        os.kill(child, signal.SIGKILL)


def test_what_does_not_fit_into_one_segment_stays_in_several(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = store.repository.segment_maker
    monkeypatch.setattr(segment_writer, "MAX_BUCKET_SIZE", 400)
    monkeypatch.setattr(segment_writer, "entry_bits", lambda count: 0)  # as if all were of one SHA-1
    for part in range(4):
        store.store_text(f"text {part}")
        store.merge_segments()
    assert store.segment_stats().packs == 4
    assert store.segment_stats().segments > 1
    maker.rule = SegmentRule(most=SegmentRule.cost(4, 4))
    assert not maker._is_due(), "it is begun again and again"


def test_a_segment_is_not_begun_on_a_disk_that_is_nearly_full(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.store_text("a text")
    monkeypatch.setattr("kacas.disk.segment_maker.LEFT_FREE", 1 << 60)
    with pytest.raises(NoSpaceError, match="bytes of the disk are free"):
        store.merge_segments()
    assert not list((store.path).glob("segments/*"))


def test_a_forked_child_makes_its_own_segments(store: Store) -> None:
    maker = maker_of(store)
    uri = store.store_text("of the parent")

    def child() -> str:
        maker.make_if_due()
        own = store.store_text("of the child")
        maker.close()
        assert store.load_text(uri) == "of the parent"
        return own

    own = children.run(child).get()
    maker.close()
    assert store.load_text(own) == "of the child"
    store.merge_segments()
    assert store.segment_stats().packs == 2
    with pytest.raises(NotFoundError):
        store.load_text("sha1://" + "12" * 20)
