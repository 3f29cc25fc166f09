"""A full pack leaves its batch while the next one is written: known, readable, waited for, and its failure is the batch's."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest

from kacas.disk import batch as batch_module
from kacas.disk import leaving as leaving_module
from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
from kacas.disk.pack_writer import Payload
from kacas.disk.volume import Volume, open_volume
from kacas.errors import KacasError, NoSpaceError, StoreClosedError, WriteError
from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind, chunk_digest
from kacas.model.entry import Entry
from kacas.model.pack_format import PayloadHeader


class Disk:
    """Syncs of files end when they may, or fail."""

    def __init__(self, sync: Callable[[int], None]) -> None:
        self._sync = sync
        self.may_end, self.is_bad = threading.Event(), False
        self.may_end.set()
        self.syncing = threading.Event()

    def __call__(self, fd: int) -> None:
        self.syncing.set()
        assert self.may_end.wait(10)
        if self.is_bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._sync(fd)

    def slow(self) -> None:
        """Until `may_end`, or for a moment."""
        self.may_end.clear()
        threading.Timer(0.2, self.may_end.set).start()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(os.fsync)
    monkeypatch.setattr(os, "fsync", made)
    return made


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_volume(tmp_path / "store", create=True, durability="full")


@pytest.fixture
def lookup(volume: Volume, tmp_path: Path) -> Iterator[Lookup]:
    (tmp_path / "cache").mkdir()
    opened = Lookup(volume, tmp_path / "cache")
    yield opened
    opened.close()


def raw(i: int) -> bytes:
    return random.Random(i).randbytes(300)


def digest(i: int) -> bytes:
    return chunk_digest(raw(i))


def payload(i: int) -> Payload:
    return PayloadHeader(PayloadKind.CHUNK, Codec.RAW, 300, 300, digest(i)), raw(i)


def entry(i: int) -> Entry:
    return Entry(os.urandom(16), b"%020d" % i, digest(i), 300, 1000 + i, 0, b"me", b"label")


def full_batch(volume: Volume, lookup: Lookup) -> Batch:
    """One whose first pack is full, and on its way."""
    batch = Batch(volume, lookup, pack_size=1000)
    batch.add_entry(entry(1))
    batch.append([payload(1), payload(2), payload(3)])
    return batch


def names(volume: Volume) -> list[str]:
    return sorted(os.listdir(volume.packs))


def test_what_is_in_a_full_pack_on_its_way_is_known_and_readable(volume: Volume, lookup: Lookup, disk: Disk) -> None:
    disk.slow()
    batch = full_batch(volume, lookup)
    batch.append([payload(4)])
    assert not disk.may_end.is_set()  # nobody waited
    assert batch.known([digest(1), digest(4), digest(5)]) == {digest(1), digest(4)}
    assert batch.has_entries([entry(1).sha1, entry(2).sha1]) == {entry(1).sha1}
    assert [one.sha1 for one in batch.entries(entry(1).sha1)] == [entry(1).sha1]
    location = batch.pending([digest(1)])[digest(1)]
    assert batch.read(location) is None  # it is published by now
    assert disk.may_end.is_set()
    assert lookup.locate([digest(1)])[digest(1)][0].pack_id == location.pack_id
    assert [one.sha1 for one in batch.entries(entry(1).sha1)] == [entry(1).sha1]
    batch.finish()
    assert lookup.locate([digest(1), digest(4)]).keys() == {digest(1), digest(4)}


def test_who_reads_what_is_published_waits_for_no_other_pack(volume: Volume, lookup: Lookup, disk: Disk) -> None:
    first = Batch(volume, lookup)
    first.append([payload(9)])
    first.finish()
    ((location,),) = lookup.locate([digest(9)]).values()
    disk.slow()
    batch = full_batch(volume, lookup)
    assert batch.read(location) is None
    assert not disk.may_end.is_set()
    batch.finish()


@pytest.mark.parametrize("end", [Batch.finish, Batch.discard])
def test_who_ends_a_batch_waits_for_its_full_pack(
    volume: Volume, lookup: Lookup, disk: Disk, end: Callable[[Batch], None]
) -> None:
    disk.slow()
    end(full_batch(volume, lookup))
    assert [path.suffix for path in volume.packs.iterdir()] == [".pack"]


def test_one_pack_leaves_at_a_time_and_in_order(volume: Volume, lookup: Lookup, disk: Disk) -> None:
    disk.slow()
    batch = full_batch(volume, lookup)
    batch.append([payload(4), payload(5), payload(6)])  # the next is full, too: it waits for the first
    assert disk.may_end.is_set()
    assert lookup.locate([digest(1)])
    batch.discard()
    assert len(volume.list_packs()) == 2


def test_a_full_pack_that_cannot_be_published_fails_the_batch(volume: Volume, lookup: Lookup, disk: Disk) -> None:
    disk.is_bad = True
    batch = full_batch(volume, lookup)
    with pytest.raises(WriteError, match="Input/output error"):
        batch.finish()
    disk.is_bad = False
    with pytest.raises(WriteError, match="Input/output error"):
        batch.append([payload(4)])
    with pytest.raises(WriteError, match="Input/output error"):
        batch.finish()
    batch.discard()
    assert names(volume) == []


def test_no_later_pack_is_published_after_one_that_failed(volume: Volume, lookup: Lookup, disk: Disk) -> None:
    disk.is_bad = True
    disk.slow()
    batch = full_batch(volume, lookup)
    batch.append([payload(4)])
    assert disk.syncing.wait(10)
    with pytest.raises(WriteError, match="Input/output error"):
        batch.append([payload(5), payload(6)])  # full: waits for the first, whose failure it meets
    disk.is_bad = False
    refused: list[Callable[[], None]] = [
        lambda: batch.add_entry(entry(4)),
        lambda: batch.append([payload(7)]),
        batch.finish,
    ]
    for call in refused:
        with pytest.raises(WriteError, match="Input/output error"):
            call()
    batch.discard()
    assert names(volume) == []


def test_who_reads_of_a_full_pack_that_failed_is_told_why(volume: Volume, lookup: Lookup, disk: Disk) -> None:
    disk.is_bad = True
    disk.slow()
    batch = full_batch(volume, lookup)
    location = batch.pending([digest(1)])[digest(1)]
    with pytest.raises(WriteError, match="Input/output error"):
        batch.read(location)
    batch.discard()
    assert names(volume) == []


def test_the_first_failure_of_a_batch_is_the_one_that_is_told(
    volume: Volume, lookup: Lookup, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, parts: object, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk.is_bad = True
    disk.slow()
    batch = full_batch(volume, lookup)
    assert disk.syncing.wait(10)
    big = random.Random(0).randbytes(2 << 20)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", refuse)
        with pytest.raises(NoSpaceError):
            batch.append([(PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(big), len(big), chunk_digest(big)), big)])
    batch.discard()
    with pytest.raises(NoSpaceError):
        batch.append([payload(4)])
    assert names(volume) == []


def test_threads_that_meet_the_failure_of_a_full_pack_at_once_are_all_told_why(
    volume: Volume, lookup: Lookup, disk: Disk
) -> None:
    for _ in range(30):
        disk.is_bad = True
        disk.may_end.clear()
        batch = full_batch(volume, lookup)

        def put(i: int, batch: Batch = batch) -> str:
            for n in itertools.count():
                try:
                    batch._check_open()  # as a gathering batch asks, without the lock
                    batch.append([payload(i * 1000 + n)])
                except KacasError as exc:
                    return str(exc)
            return ""

        with ThreadPoolExecutor(4) as pool:
            told = pool.map(put, range(1, 5))
            disk.may_end.set()
            assert all("Input/output error" in one for one in told)
        batch.discard()
    assert names(volume) == []


def test_where_no_thread_can_be_had_the_packs_are_published_all_the_same(
    volume: Volume, lookup: Lookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    batch = full_batch(volume, lookup)
    for i in range(4, 30):
        batch.append([payload(i)])
    batch.add_entry(entry(29))
    assert len(volume.list_packs()) == 8
    batch.finish()
    assert len(volume.list_packs()) == 10
    assert lookup.locate(map(digest, range(1, 30))).keys() == {digest(i) for i in range(1, 30)}


def in_child(work: Callable[[], None]) -> int:
    """Exit code of a forked child that does the work."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(20)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("failing", [False, True])
def test_a_fork_while_a_pack_leaves_disturbs_neither(volume: Volume, lookup: Lookup, disk: Disk, failing: bool) -> None:
    disk.is_bad = failing
    disk.slow()
    batch = full_batch(volume, lookup)
    batch.append([payload(4)])
    assert disk.syncing.wait(10)
    there = names(volume)

    def misuse() -> None:
        refused: list[Callable[[], None]] = [
            lambda: batch.append([payload(5)]),
            lambda: batch.add_entry(entry(5)),
            batch.finish,
        ]
        for call in refused:
            try:
                call()
            except StoreClosedError:
                pass
            else:
                raise AssertionError("it was not refused")
        batch._fail(ValueError())  # as a gathering batch does with what it was refused
        batch.discard()
        assert names(volume) == there

    assert in_child(misuse) == 0
    if failing:
        with pytest.raises(WriteError):
            batch.finish()
        assert names(volume) == []
    else:
        batch.finish()
        assert len(volume.list_packs()) == 2 == len(names(volume))


@pytest.mark.parametrize("started", [False, True])
def test_after_ctrl_c_while_a_pack_begins_to_leave_it_is_waited_for(
    volume: Volume, lookup: Lookup, disk: Disk, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if started:
            start(thread)
            assert disk.syncing.wait(10)
        raise KeyboardInterrupt

    disk.may_end.clear()
    batch = Batch(volume, lookup, pack_size=1000)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            batch.append([payload(1), payload(2), payload(3)])
    disk.slow()
    batch.discard()
    assert disk.may_end.is_set()
    assert len(volume.list_packs()) == 1 == len(names(volume))


def test_after_ctrl_c_in_who_publishes_a_full_pack_himself_nothing_is_left(
    volume: Volume, lookup: Lookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr("kacas.disk.pack_writer.encode_table", interrupted)
    batch = full_batch(volume, lookup)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            batch.append([payload(4), payload(5), payload(6)])
    batch.discard()
    assert names(volume) == []


def test_ctrl_c_while_a_batch_ends_leaves_its_full_pack_to_the_thread(
    volume: Volume, lookup: Lookup, disk: Disk
) -> None:
    def come(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    disk.slow()
    batch = full_batch(volume, lookup)
    assert disk.syncing.wait(10)
    old = signal.signal(signal.SIGALRM, come)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            batch.discard()
    finally:
        signal.signal(signal.SIGALRM, old)
    assert not disk.may_end.is_set()
    batch.discard()
    assert len(volume.list_packs()) == 1 == len(names(volume))


FILES = {batch_module.__file__, leaving_module.__file__}


class Interrupter:
    """Ctrl-C at a random step of the code that lets packs go. Where files are made is not looked at here."""

    def __init__(self) -> None:
        self.steps: set[tuple[str, int]] = set()

    def __enter__(self) -> None:
        self._old = signal.signal(signal.SIGALRM, self._come)
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 8e-3))

    def __exit__(self, *exc: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._old)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename in FILES and frame.f_code.co_name != "_open_writer":
            self.steps.add((frame.f_code.co_name, frame.f_lasti))
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 1e-5)


def test_after_ctrl_c_at_any_step_no_temporary_is_left_and_nobody_waits_for_ever(
    volume: Volume, lookup: Lookup
) -> None:
    interrupter = Interrupter()
    numbers = itertools.count()
    for _ in range(400):
        batch = Batch(volume, lookup, pack_size=1000)
        stored: list[int] = []
        try:
            with interrupter:
                for i in itertools.islice(numbers, 8):
                    batch.append([payload(i)])
                    batch.add_entry(entry(i))
                    stored.append(i)
                    for location in batch.pending([digest(i)]).values():
                        batch.read(location)
                batch.finish()
        except KeyboardInterrupt:
            pass
        else:
            assert all(lookup.entries(entry(i).sha1) for i in stored)
        batch.discard()
        assert all(name.endswith(".pack") for name in names(volume))
        for i in stored:
            assert not lookup.entries(entry(i).sha1) or lookup.confirmed([digest(i)])
    assert len(interrupter.steps) > 10
