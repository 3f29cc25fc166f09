"""Leases: one holder at a time, found dead by its silence; whoever lost one knows; nothing of them is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kacas.disk import leases
from kacas.disk.leases import Lease, Leases
from kacas.disk.records import Record, RecordKind, Sequences
from kacas.disk.volume import Volume, open_volume
from kacas.errors import LeaseLostError, LeaseUnusableError
from tests.faults.children import become_nobody, fork, run

NAME = "fetch-0000"


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_volume(tmp_path / "store", create=True)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder is given up after a second."""
    monkeypatch.setattr(leases, "LEASE_S", 1.0)
    monkeypatch.setattr(leases, "RENEW_S", 0.2)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens because time has passed, however slow the machine is."""
    monkeypatch.setattr(leases, "LEASE_S", 1e6)
    monkeypatch.setattr(leases, "RENEW_S", 1e6)


def never() -> bool:
    return False


def left(volume: Volume) -> list[str]:
    place = volume.path / "leases"
    return sorted(os.listdir(place)) if place.exists() else []


def numbers(volume: Volume) -> list[int]:
    return Sequences(volume).sequence(f"leases/{NAME}", RecordKind.LEASE).numbers()


def taken(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


def until_held(volume: Volume) -> None:
    """By its first record: the directory is there a moment before, and anybody may be faster then."""
    while not numbers(volume):
        time.sleep(0.01)


def test_a_lease_that_nobody_holds_is_had_at_once_and_nothing_of_it_is_left(volume: Volume) -> None:
    with Leases(volume).turn(NAME, never) as lease:
        taken(lease).check()
        assert left(volume) == [NAME]
        assert numbers(volume) == [1]
    assert left(volume) == []


def test_who_waits_is_told_who_holds_it_and_has_it_when_that_one_ends(volume: Volume) -> None:
    def hold() -> None:
        with Leases(volume).turn(NAME, never):
            time.sleep(0.5)

    child = fork(hold)
    until_held(volume)
    told: list[str] = []
    with Leases(volume).turn(NAME, never, told.append) as lease:
        taken(lease).check()
    child.wait().get()
    assert f"process {child.pid} on " in told[0]


def test_what_somebody_else_has_done_needs_no_lease(volume: Volume) -> None:
    done = volume.path / "done"

    def work() -> None:
        with Leases(volume).turn(NAME, never):
            time.sleep(0.3)
            done.touch()

    child = fork(work)
    until_held(volume)
    with Leases(volume).turn(NAME, done.exists) as lease:
        assert lease is None
    child.wait().get()
    assert left(volume) == []


def test_what_was_done_between_the_look_and_the_lease_is_not_done_again(volume: Volume) -> None:
    """Somebody may have had the lease, done it all and gone, after we had asked whether it is done."""
    answers = iter([False, True])
    with Leases(volume).turn(NAME, lambda: next(answers)) as lease:
        assert lease is None
    assert left(volume) == []


@pytest.mark.usefixtures("patient")
def test_of_many_that_want_it_one_has_it_at_a_time(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hardly pause: each ends its lease, directory and all, while others begin theirs."""
    monkeypatch.setattr(leases, "_FIRST_PAUSE_S", 0.0003)
    monkeypatch.setattr(leases, "_LONGEST_PAUSE_S", 0.001)
    place = tmp_path / "inside"

    def enter() -> None:
        for _ in range(50):
            with Leases(volume).turn(NAME, never) as lease:
                taken(lease)
                place.mkdir()  # fails if somebody is inside
                place.rmdir()

    for child in [fork(enter) for _ in range(10)]:
        child.wait(3600).get()  # a busy machine takes minutes
    assert left(volume) == []


@pytest.mark.usefixtures("hasty")
def test_who_was_stopped_does_not_end_the_lease_of_another(volume: Volume) -> None:
    def stop() -> None:
        with Leases(volume).turn(NAME, never):
            os.kill(os.getpid(), 19)

    child = fork(stop)
    os.waitpid(child.pid, os.WUNTRACED)
    with Leases(volume).turn(NAME, never):
        pass
    with Leases(volume).turn(NAME, never) as lease:
        assert numbers(volume) == [1]  # as many as the one that was stopped
        os.kill(child.pid, 18)
        child.wait().get()
        assert numbers(volume)
        taken(lease).confirm()


@pytest.mark.usefixtures("hasty")
def test_a_holder_that_lives_keeps_it_however_long_it_takes(volume: Volume) -> None:
    def hold() -> float:
        with Leases(volume).turn(NAME, never) as lease:
            time.sleep(3)
            taken(lease).check()
            return time.monotonic()

    child = fork(hold)
    until_held(volume)
    with Leases(volume).turn(NAME, never):
        had = time.monotonic()
    assert had >= child.wait().get()


@pytest.mark.usefixtures("patient")
def test_the_records_of_a_long_lease_do_not_pile_up(volume: Volume) -> None:
    with Leases(volume).turn(NAME, never) as lease:
        for _ in range(20):
            taken(lease).confirm()
        assert numbers(volume) == [20, 21]


@pytest.mark.usefixtures("hasty")
def test_the_lease_of_a_holder_that_was_killed_is_taken_over_soon(volume: Volume) -> None:
    def die() -> None:
        with Leases(volume).turn(NAME, never):
            os.kill(os.getpid(), 9)

    assert run(die).killed_by == "SIGKILL"
    begun = time.monotonic()
    with Leases(volume).turn(NAME, never) as lease:
        taken(lease).check()
    assert time.monotonic() - begun >= 1
    assert left(volume) == []


@pytest.mark.usefixtures("hasty")
def test_of_many_that_take_a_dead_lease_over_one_wins(volume: Volume, tmp_path: Path) -> None:
    def die() -> None:
        with Leases(volume).turn(NAME, never):
            os.kill(os.getpid(), 9)

    run(die)
    place = tmp_path / "done"

    def work() -> bool:
        with Leases(volume).turn(NAME, place.exists) as lease:
            if lease is not None:
                time.sleep(0.3)
                place.mkdir()
            return lease is not None

    children = [fork(work) for _ in range(6)]
    assert sum(child.wait().get() for child in children) == 1


@pytest.mark.usefixtures("hasty")
def test_a_holder_that_was_stopped_for_too_long_knows_that_it_has_lost(volume: Volume) -> None:
    def stop() -> str:
        with Leases(volume).turn(NAME, never) as lease:
            os.kill(os.getpid(), 19)
            try:
                taken(lease).check()
            except LeaseLostError as exc:
                return str(exc)
            return "not lost"

    child = fork(stop)
    os.waitpid(child.pid, os.WUNTRACED)
    with Leases(volume).turn(NAME, never) as lease:
        os.kill(child.pid, 18)
        assert "silent for 1 s" in child.wait().get()
        taken(lease).confirm()  # what it ended was not ours
        assert numbers(volume)


@pytest.mark.usefixtures("hasty")
def test_a_holder_that_was_stopped_beyond_the_life_of_another_knows_it_too(volume: Volume) -> None:
    """The lease of the other ended, and a third began one of the same name, and the same numbers."""

    def stop() -> None:
        with Leases(volume).turn(NAME, never) as lease:
            os.kill(os.getpid(), 19)
            with pytest.raises(LeaseLostError):
                taken(lease).confirm()

    child = fork(stop)
    os.waitpid(child.pid, os.WUNTRACED)
    with Leases(volume).turn(NAME, never):
        pass
    assert left(volume) == []
    with Leases(volume).turn(NAME, never) as lease:
        os.kill(child.pid, 18)
        child.wait().get()
        taken(lease).confirm()


@pytest.mark.usefixtures("hasty")
def test_a_holder_that_was_stopped_and_that_nobody_replaced_goes_on(volume: Volume) -> None:
    def stop() -> None:
        with Leases(volume).turn(NAME, never) as lease:
            os.kill(os.getpid(), 19)
            taken(lease).check()

    child = fork(stop)
    os.waitpid(child.pid, os.WUNTRACED)
    time.sleep(1.5)
    os.kill(child.pid, 18)
    child.wait().get()


def test_a_forked_child_has_no_lease_and_does_not_end_its_parents(volume: Volume) -> None:
    with Leases(volume).turn(NAME, never) as lease:

        def use() -> None:
            with pytest.raises(LeaseLostError, match="forked"):
                taken(lease).confirm()
            taken(lease).release()

        run(use).get()
        taken(lease).confirm()


@pytest.mark.usefixtures("hasty")
def test_a_record_that_is_damaged_is_taken_over_after_a_while(volume: Volume) -> None:
    Sequences(volume).make(f"leases/{NAME}")
    (volume.path / "leases" / NAME / "7").write_bytes(b"nothing")
    with Leases(volume).turn(NAME, never) as lease:
        taken(lease).confirm()
        assert numbers(volume)[-1] == 9
    assert left(volume) == []


@pytest.mark.usefixtures("hasty")
def test_a_record_of_a_newer_kacas_is_taken_over_when_it_stays_the_newest(volume: Volume) -> None:
    Sequences(volume).make(f"leases/{NAME}")
    newer = bytearray(Record(RecordKind.LEASE, 7, 0, bytes(16), bytes(16), bytes(32), b"{}").encode())
    newer[8] = 9  # the version
    (volume.path / "leases" / NAME / "7").write_bytes(newer)
    told: list[str] = []
    with Leases(volume).turn(NAME, never, told.append) as lease:
        taken(lease).confirm()
        assert numbers(volume)[-1] == 9
    assert "format version 9" in told[0]
    assert left(volume) == []


def test_what_dead_holders_left_an_hour_ago_goes_when_somebody_releases_one(volume: Volume) -> None:
    for name in ("fetch-old", "fetch-young"):
        Sequences(volume).make(f"leases/{name}")
        (volume.path / "leases" / name / "3").write_bytes(b"")
    an_hour_ago = time.time() - 3700
    os.utime(volume.path / "leases" / "fetch-old", (an_hour_ago, an_hour_ago))
    with Leases(volume).turn(NAME, never):
        pass
    assert left(volume) == ["fetch-young"]


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives up its rights")
def test_who_may_not_write_to_the_store_is_told_so(open_place: Path) -> None:
    volume = open_volume(open_place / "store", create=True)
    volume.path.chmod(0o755)

    def take() -> None:
        become_nobody(open_place)
        with (
            pytest.raises(LeaseUnusableError, match="leases cannot be used by nobody: permission denied"),
            Leases(volume).turn(NAME, never),
        ):
            pass

    run(take).get()


@pytest.mark.usefixtures("hasty")
def test_a_lease_that_nobody_has_any_more_is_not_renewed_for_ever(volume: Volume) -> None:
    """As after Ctrl-C just when it was handed out."""
    lease = Leases(volume)._take(NAME, leases.BEGINNING)
    taken(lease)
    del lease
    with Leases(volume).turn(NAME, never) as other:
        taken(other).check()


def test_a_link_among_the_leases_is_not_followed_and_nothing_is_removed_where_it_leads(
    volume: Volume, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "thesis"
    elsewhere.mkdir()
    for name in ("1", "chapter"):
        (elsewhere / name).write_text("years of work")
    long_ago = time.time() - 7200
    os.utime(elsewhere, (long_ago, long_ago))
    place = volume.path / "leases"
    with Leases(volume).turn("other", never):
        (place / NAME).symlink_to(elsewhere)
        os.utime(place / NAME, (long_ago, long_ago), follow_symlinks=False)
    # Who released a lease cleaned up, and has looked at the link.
    assert sorted(os.listdir(elsewhere)) == ["1", "chapter"]
    with (
        pytest.raises(LeaseUnusableError, match=f"{NAME} is a file or a symbolic link"),
        Leases(volume).turn(NAME, never),
    ):
        pass
    assert not leases.remove_old(place / NAME)
    assert sorted(os.listdir(elsewhere)) == ["1", "chapter"]
