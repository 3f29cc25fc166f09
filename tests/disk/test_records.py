"""Sequences of records: created once, in one order, and never taken for another."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacas.disk.records import BEGINNING, Mark, Record, RecordKind, Sequence, Sequences, behind_damage
from kacas.disk.volume import Volume, open_volume
from kacas.errors import DamagedRecordError, NewerFormatError
from kacas.model.record import MAX_NUMBER
from tests.faults import children

NAME = "refs/@a/@b/key"
HOUR_NS = 3600 * 10**9


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_volume(tmp_path / "store", create=True)


@pytest.fixture
def sequence(volume: Volume) -> Sequence:
    return open_sequence(volume)


def open_sequence(volume: Volume, name: str = NAME) -> Sequence:
    return Sequences(volume).sequence(name, RecordKind.MUTABLE)


def fill(sequence: Sequence, count: int) -> list[Record]:
    return [sequence.append(b"%d" % i) for i in range(1, count + 1)]


def make_older(sequence: Sequence, hours: float, *numbers: int) -> None:
    for number in numbers:
        path = sequence.directory / str(number)
        when = path.stat().st_mtime_ns - int(hours * HOUR_NS)
        os.utime(path, ns=(when, when))


def test_a_sequence_that_is_not_there_is_empty_and_asking_makes_nothing(volume: Volume, sequence: Sequence) -> None:
    assert sequence.numbers() == []
    assert sequence.newest() is None
    assert sorted(os.listdir(volume.path)) == ["kacas.toml", "packs"]


def test_records_follow_each_other_and_are_found_by_listing(volume: Volume, sequence: Sequence) -> None:
    made = fill(sequence, 12)
    other = open_sequence(volume)
    assert other.numbers() == list(range(1, 13))
    assert [other.read(n) for n in other.numbers()] == made
    assert other.newest() == made[-1]
    assert made[0].previous == BEGINNING.digest
    assert [record.previous for record in made[1:]] == [record.digest for record in made[:-1]]


def test_a_number_is_created_once(sequence: Sequence) -> None:
    first = sequence.create(BEGINNING, b"one")
    assert first is not None
    assert sequence.create(BEGINNING, b"another") is None
    assert sequence.newest() == first
    assert os.listdir(sequence.directory) == ["1"]


def test_names_that_are_no_numbers_are_not_looked_at(sequence: Sequence) -> None:
    fill(sequence, 2)
    for name in ("0", "03", "-1", "1.5", "x", "٣", ".3.tmp.host.1.ab", "9" * 19):
        (sequence.directory / name).write_bytes(b"")
    assert sequence.numbers() == [1, 2]


def test_a_flipped_bit_is_named_and_never_believed(sequence: Sequence) -> None:
    fill(sequence, 1)
    path = sequence.directory / "1"
    good = path.read_bytes()
    for at in range(len(good)):
        path.chmod(0o644)
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises((DamagedRecordError, NewerFormatError)) as caught:
            sequence.newest()
        assert str(path) in str(caught.value)


def test_a_record_of_another_place_is_refused(volume: Volume, sequence: Sequence) -> None:
    fill(sequence, 1)
    other = open_sequence(volume, "refs/@a/@b/other")
    fill(other, 1)
    os.unlink(other.directory / "1")
    shutil.copy(sequence.directory / "1", other.directory / "1")
    shutil.copy(sequence.directory / "1", sequence.directory / "2")
    for place, number in ((other, 1), (sequence, 2)):
        with pytest.raises(DamagedRecordError, match="another place") as caught:
            place.newest()
        assert caught.value.number == number


def test_a_file_that_is_too_long_is_refused_before_it_is_read(sequence: Sequence) -> None:
    fill(sequence, 1)
    os.truncate(sequence.directory / "1", 1 << 40)
    with pytest.raises(DamagedRecordError, match="too long"):
        sequence.newest()


@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "loop"])
def test_what_is_no_file_is_refused_at_once(sequence: Sequence, kind: str) -> None:
    fill(sequence, 1)
    path = sequence.directory / "2"
    if kind in ("link", "loop"):
        path.symlink_to("/dev/zero" if kind == "link" else path)
    else:
        {"pipe": os.mkfifo, "directory": os.mkdir}[kind](path)
    with pytest.raises(DamagedRecordError, match="it is not a file") as caught:
        sequence.newest()
    assert str(path) in str(caught.value)
    assert sequence.create(behind_damage(caught.value.number), b"x")


def test_a_file_with_the_last_number_ends_the_sequence_in_words(sequence: Sequence) -> None:
    fill(sequence, 1)
    (sequence.directory / str(MAX_NUMBER)).write_bytes(b"")
    with pytest.raises(DamagedRecordError, match=r"no number is left .* remove that file"):
        sequence.create(behind_damage(MAX_NUMBER), b"x")


def test_behind_damage_the_chain_begins_anew(sequence: Sequence) -> None:
    fill(sequence, 2)
    os.truncate(sequence.directory / "2", 5)
    with pytest.raises(DamagedRecordError) as caught:
        sequence.append(b"x")
    record = sequence.create(behind_damage(caught.value.number), b"new")
    assert record is not None
    assert sequence.newest() == record


def test_many_threads_create_one_order_without_loss(volume: Volume) -> None:
    def work(worker: int) -> None:
        sequence = open_sequence(volume)
        for i in range(15):
            sequence.append(b"%d %d" % (worker, i))

    threads = [threading.Thread(target=work, args=[i]) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sequence = open_sequence(volume)
    found = [sequence.read(n) for n in sequence.numbers()]
    bodies = [record.body for record in found if record]
    assert sorted(bodies) == sorted(b"%d %d" % (w, i) for w in range(6) for i in range(15))
    for worker in range(6):
        mine = [body for body in bodies if body.startswith(b"%d " % worker)]
        assert mine == [b"%d %d" % (worker, i) for i in range(15)]


def test_who_looked_an_hour_ago_does_not_win_a_number_that_was_pruned(volume: Volume, sequence: Sequence) -> None:
    made = fill(sequence, 5)
    stale = made[2].mark  # what a stale lister takes for the newest
    make_older(sequence, 2, 1, 2, 3, 4, 5)
    newest = sequence.append(b"now")
    assert sequence.prune(1, newest) == 5
    assert sequence.create(stale, b"late") is None
    assert sequence.numbers() == [6]
    assert sequence.create(BEGINNING, b"late") is None
    assert sequence.newest() == newest


def test_a_stale_creator_beside_its_old_neighbour_loses_too(sequence: Sequence) -> None:
    made = fill(sequence, 5)
    make_older(sequence, 2, 1, 2, 3)
    newest = sequence.append(b"now")
    sequence.prune(1, newest)
    assert sequence.numbers() == [4, 5, 6]
    assert sequence.create(made[1].mark, b"late") is None
    assert sequence.numbers() == [4, 5, 6]


def test_a_stale_creator_behind_another_stale_one_loses_too(sequence: Sequence) -> None:
    """What it followed seems to be there, but is what another sleeper has made, and has not withdrawn yet."""
    made = fill(sequence, 5)
    make_older(sequence, 2, 1, 2, 3, 4, 5)
    newest = sequence.append(b"now")
    sequence.prune(1, newest)
    other = replace(made[2], write_id=bytes(16), body=b"late")
    (sequence.directory / "3").write_bytes(other.encode())
    assert sequence.create(made[2].mark, b"late") is None
    assert sequence.numbers() == [3, 6]
    assert sequence.newest() == newest


def test_pruning_takes_no_record_whose_predecessor_stays(sequence: Sequence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who creates a record relies on it: while the one before is there, no later one was removed."""
    made = fill(sequence, 5)
    make_older(sequence, 2, 1, 2, 3, 4)
    unlink = os.unlink

    def refusing(path: Path) -> None:
        if path.name == "2":
            raise PermissionError(1, "somebody else's")
        unlink(path)

    monkeypatch.setattr(os, "unlink", refusing)
    assert sequence.prune(1, made[-1]) in (0, 1)
    assert sequence.numbers() == [2, 3, 4, 5]


@pytest.mark.parametrize("hidden, pruned", [("1", 0), ("3", 2)])
def test_a_listing_that_is_not_complete_does_not_change_the_order_of_pruning(
    sequence: Sequence, monkeypatch: pytest.MonkeyPatch, hidden: str, pruned: int
) -> None:
    made = fill(sequence, 6)
    make_older(sequence, 2, 1, 2, 3, 4, 5)
    names = Sequences.names
    monkeypatch.setattr(Sequences, "names", lambda self, directory: sorted({*names(self, directory)} - {hidden}))
    assert sequence.prune(1, made[-1]) == pruned
    monkeypatch.setattr(Sequences, "names", names)
    assert sequence.numbers() == list(range(pruned + 1, 7))


def test_who_knows_what_is_there_creates_without_listing(sequence: Sequence, monkeypatch: pytest.MonkeyPatch) -> None:
    record = sequence.append(b"first")

    def listing(self: Sequences, directory: str) -> list[str]:
        raise AssertionError(f"{directory} was listed")

    monkeypatch.setattr(Sequences, "names", listing)
    for number in range(3):
        following = sequence.create(record.mark, b"%d" % number)
        assert following is not None
        record = following


def test_who_was_followed_at_once_has_won_all_the_same(sequence: Sequence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between creating and looking again, another goes on from our record."""
    confirm = Sequence._is_confirmed
    followers: list[Record | None] = []

    def meanwhile(self: Sequence, record: Record) -> bool:
        monkeypatch.setattr(Sequence, "_is_confirmed", confirm)
        followers.append(self.create(record.mark, b"follower"))
        return confirm(self, record)

    monkeypatch.setattr(Sequence, "_is_confirmed", meanwhile)
    record = sequence.create(BEGINNING, b"first")
    assert record is not None
    assert sequence.newest() == followers[0]


def test_only_what_is_an_hour_older_is_pruned_and_never_the_newest(sequence: Sequence) -> None:
    made = fill(sequence, 6)
    make_older(sequence, 0.9, 1, 2, 3, 4, 5)
    assert sequence.prune(1, made[-1]) == 0
    make_older(sequence, 0.2, 1, 2, 4, 5)
    assert sequence.prune(1, made[-1]) == 2
    assert sequence.numbers() == [3, 4, 5, 6]
    make_older(sequence, 5, 3)
    assert sequence.prune(2, made[-1]) == 2
    assert sequence.numbers() == [5, 6]
    assert sequence.prune(0, made[-1]) == 1
    assert sequence.numbers() == [6]


def test_temporaries_of_killed_writers_go_after_an_hour(sequence: Sequence) -> None:
    made = fill(sequence, 1)
    for name in (".2.tmp.host.1.young", ".2.tmp.host.1.old"):
        (sequence.directory / name).write_bytes(b"part")
    make_older(sequence, 2, *())
    old = sequence.directory / ".2.tmp.host.1.old"
    os.utime(old, ns=(old.stat().st_mtime_ns - 2 * HOUR_NS,) * 2)
    sequence.prune(1, made[0])
    assert sorted(os.listdir(sequence.directory)) == [".2.tmp.host.1.young", "1"]


def test_who_may_not_remove_prunes_nothing(tmp_path: Path, volume: Volume, sequence: Sequence) -> None:
    made = fill(sequence, 3)
    make_older(sequence, 2, 1, 2)
    volume.path.chmod(0o755)
    for part in (tmp_path, *tmp_path.parents):
        if part.stat().st_uid == os.getuid() and part != Path("/"):
            part.chmod(part.stat().st_mode | 0o055)

    def prune() -> int:
        children.become_nobody(tmp_path)
        return sequence.prune(1, made[-1])

    assert children.run(prune).get() == 0
    assert sequence.numbers() == [1, 2, 3]


steps = st.lists(st.sampled_from(["append", "stale", "age", "prune"]), max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_whatever_happens_the_newest_is_what_was_last_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    volume = open_volume(tmp_path_factory.mktemp("volume"), create=True, durability="relaxed")
    sequence = open_sequence(volume)
    known: list[Mark] = [BEGINNING]
    last: Record | None = None
    for number, step in enumerate(steps):
        if step == "append":
            last = sequence.append(b"%d" % number)
            known.append(last.mark)
        elif step == "stale":
            assert sequence.create(known[number % len(known[:-1])], b"stale") is None if len(known) > 1 else True
        elif step == "age":
            make_older(sequence, 0.6, *sequence.numbers()[:-1])
        elif last is not None:
            last = sequence.append(b"%d" % number)
            known.append(last.mark)
            sequence.prune(1, last)
        assert sequence.newest() == last
    numbers = sequence.numbers()
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else True
