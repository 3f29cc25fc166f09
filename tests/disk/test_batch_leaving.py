"""A full pack leaves its batch while the next one is written: known, readable, waited for, and its failure is the batch's."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
from kacas.disk.volume import Volume
from kacas.errors import KacasError, NoSpaceError, StoreClosedError, WriteError
from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind, chunk_digest
from kacas.model.pack_format import PayloadHeader
from tests.disk.full_batches import Disk, digest, entry, full_batch, names, payload


def test_what_is_in_a_full_pack_on_its_way_is_known_and_readable(volume: Volume, lookup: Lookup, disk: Disk) -> None:
    disk.hold()
    batch = full_batch(volume, lookup)
    batch.append([payload(4)])
    assert batch.known([digest(1), digest(4), digest(5)]) == {digest(1), digest(4)}
    assert batch.has_entries([entry(1).sha1, entry(2).sha1]) == {entry(1).sha1}
    assert [one.sha1 for one in batch.entries(entry(1).sha1)] == [entry(1).sha1]
    location = batch.pending([digest(1)])[digest(1)]
    disk.go_on()
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
    disk.hold()
    batch = full_batch(volume, lookup)
    assert batch.read(location) is None
    disk.go_on()
    batch.finish()


@pytest.mark.parametrize("end", [Batch.finish, Batch.discard])
def test_who_ends_a_batch_waits_for_its_full_pack(
    volume: Volume, lookup: Lookup, disk: Disk, end: Callable[[Batch], None]
) -> None:
    disk.hold()
    batch = full_batch(volume, lookup)
    disk.go_on()
    end(batch)
    assert [path.suffix for path in volume.packs.iterdir()] == [".pack"]


def test_one_pack_leaves_at_a_time_and_in_order(volume: Volume, lookup: Lookup, disk: Disk) -> None:
    disk.hold()
    batch = full_batch(volume, lookup)
    disk.go_on()
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
    disk.hold()
    batch = full_batch(volume, lookup)
    batch.append([payload(4)])
    assert disk.syncing.wait(10)
    disk.go_on()
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
    disk.hold()
    batch = full_batch(volume, lookup)
    location = batch.pending([digest(1)])[digest(1)]
    disk.go_on()
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
    disk.hold()
    batch = full_batch(volume, lookup)
    assert disk.syncing.wait(10)
    big = random.Random(0).randbytes(2 << 20)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", refuse)
        with pytest.raises(NoSpaceError):
            batch.append([(PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(big), len(big), chunk_digest(big)), big)])
    disk.go_on()
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
    disk.hold()
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
    disk.go_on()
    if failing:
        with pytest.raises(WriteError):
            batch.finish()
        assert names(volume) == []
    else:
        batch.finish()
        assert len(volume.list_packs()) == 2 == len(names(volume))
