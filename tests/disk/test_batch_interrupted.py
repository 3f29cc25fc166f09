"""Ctrl-C while a full pack leaves its batch: it is published or not, and nothing half of it is left."""

from __future__ import annotations

import itertools
import random
import signal
import threading
from types import FrameType

import pytest

from kacas.disk import batch as batch_module
from kacas.disk import leaving as leaving_module
from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
from kacas.disk.volume import Volume
from tests.disk.full_batches import Disk, digest, entry, full_batch, names, payload


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

    disk.hold()
    batch = Batch(volume, lookup, pack_size=1000)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            batch.append([payload(1), payload(2), payload(3)])
    disk.go_on()
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

    def end_in_a_moment() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        batch.discard()

    disk.hold()
    batch = full_batch(volume, lookup)
    assert disk.syncing.wait(10)
    old = signal.signal(signal.SIGALRM, come)
    try:
        with pytest.raises(KeyboardInterrupt):
            end_in_a_moment()
    finally:
        signal.signal(signal.SIGALRM, old)
    disk.go_on()
    batch.discard()
    assert len(volume.list_packs()) == 1 == len(names(volume))


FILES = {batch_module.__file__, leaving_module.__file__}


class Interrupter:
    """Ctrl-C at a random step of the code that lets packs go. Where files are made is not looked at here."""

    def __init__(self) -> None:
        self.steps: set[tuple[str, int]] = set()

    def __enter__(self) -> None:
        self._over = False
        self._old = signal.signal(signal.SIGALRM, self._come)
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 8e-3))

    def __exit__(self, *exc: object) -> None:
        self._over = True  # one that comes now must not order another, which pytest's own handler would get
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._old)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename in FILES and frame.f_code.co_name != "_open_writer":
            self.steps.add((frame.f_code.co_name, frame.f_lasti))
            raise KeyboardInterrupt
        if not self._over:
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
