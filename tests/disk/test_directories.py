"""Directories of records: found without looking up what is not there, made once, and never taken for another."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kacas.disk import records
from kacas.disk.records import BEGINNING, Record, RecordKind, Sequence, Sequences
from kacas.disk.volume import Volume, open_volume
from kacas.errors import StoreError
from tests.faults import children

NAME = "refs/@a/@b/key"


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_volume(tmp_path / "store", create=True)


def open_sequence(volume: Volume, name: str = NAME) -> Sequence:
    return Sequences(volume).sequence(name, RecordKind.MUTABLE)


@pytest.fixture
def sequence(volume: Volume) -> Sequence:
    return open_sequence(volume)


def fill(sequence: Sequence) -> Record:
    return sequence.append(b"x")


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_modes_do_not_depend_on_the_umask(volume: Volume, umask: int) -> None:
    sequence = open_sequence(volume)
    fill(sequence)
    assert stat.S_IMODE((sequence.directory / "1").stat().st_mode) == 0o444
    for part in ("refs", "refs/@a", "refs/@a/@b", NAME):
        assert stat.S_IMODE((volume.path / part).stat().st_mode) == 0o755


def test_a_directory_that_another_makes_meanwhile_serves(volume: Volume) -> None:
    sequences = Sequences(volume)
    assert sequences.names("refs/@a") == []
    fill(open_sequence(volume))
    fill(sequences.sequence("refs/@a/@b/other", RecordKind.MUTABLE))
    assert sorted(sequences.names("refs/@a/@b")) == ["key", "other"]


@pytest.mark.parametrize("holds", [(), ("1",)], ids=["empty", "filled"])
def test_a_directory_of_another_user_serves_though_it_makes_no_way(
    tmp_path: Path, volume: Volume, holds: tuple[str, ...]
) -> None:
    volume.path.chmod(0o755)
    for part in (tmp_path, *tmp_path.parents):
        if part.stat().st_uid == os.getuid() and part != Path("/"):
            part.chmod(part.stat().st_mode | 0o055)
    (volume.path / "refs").mkdir()
    (volume.path / "refs").chmod(0o1777)
    there = volume.path / "refs" / "@a"
    there.mkdir()
    there.chmod(0o777)
    for name in holds:
        (there / name).write_bytes(b"")

    def make() -> list[str]:
        children.become_nobody(tmp_path)
        sequences = Sequences(volume)
        sequences._make_exactly(there, "refs")  # as if the other had made it after our listing
        sequences.sequence("refs/@a/key", RecordKind.MUTABLE).append(b"x")
        return sequences.names("refs")

    assert children.run(make).get() == ["@a"]
    assert sorted(os.listdir(there)) == sorted([*holds, "key"])


def ignore_cases(monkeypatch: pytest.MonkeyPatch, below: Path) -> None:
    """Below a directory, lead to what is there as a file system does that keeps cases and ignores them."""

    def found(path: str | bytes | Path) -> str:
        name = os.fsdecode(path)
        if not Path(name).is_relative_to(below):
            return name
        place = str(below)
        for part in Path(name).relative_to(below).parts:
            there = {name.casefold(): name for name in os.listdir(place)} if os.path.isdir(place) else {}
            place = os.path.join(place, there.get(part.casefold(), part))
        return place

    rename, lstat = os.rename, os.lstat
    monkeypatch.setattr(os, "rename", lambda source, target: rename(found(source), found(target)))
    monkeypatch.setattr(os, "lstat", lambda path: lstat(found(path)))


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("everywhere", [True, False], ids=["file system", "directory"])
@pytest.mark.parametrize("network", [True, False], ids=["network", "local"])
def test_where_a_file_system_does_not_tell_names_apart_the_second_is_refused_in_words(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, filled: bool, everywhere: bool, network: bool
) -> None:
    volume = replace(volume, network=network)
    fill(open_sequence(volume, "refs/@Lab/key"))
    fill(open_sequence(volume, "refs/@1/key"))
    if not filled:
        shutil.rmtree(volume.path / "refs/@Lab/key")
    ignore_cases(monkeypatch, volume.path if everywhere else volume.path / "refs")
    sequences = Sequences(volume)
    fill(sequences.sequence("refs/@2/key", RecordKind.MUTABLE))
    for _ in range(2):
        sequence = sequences.sequence("refs/@lab/key", RecordKind.MUTABLE)
        assert sequence.numbers() == []
        with pytest.raises(StoreError, match="'@Lab'"):
            sequence.append(b"x")
    assert sorted(os.listdir(volume.path / "refs")) == ["@1", "@2", "@Lab"]


@pytest.mark.parametrize("network", [True, False], ids=["network", "local"])
def test_a_new_sequence_costs_the_same_however_many_are_beside_it(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    sequences = Sequences(replace(volume, network=network))
    fill(sequences.sequence("refs/@a/first", RecordKind.MUTABLE))
    fill(sequences.sequence("refs/@a/second", RecordKind.MUTABLE))
    listed: list[str] = []
    names = Sequences.names

    def listing(self: Sequences, directory: str) -> list[str]:
        listed.append(directory)
        return names(self, directory)

    monkeypatch.setattr(Sequences, "names", listing)
    fill(sequences.sequence("refs/@a/third", RecordKind.MUTABLE))
    # A network file system is asked once what is there: it may be what another host has made just now.
    assert [name for name in listed if name != "refs/@a/third"] == (["refs/@a"] if network else [])


@pytest.mark.parametrize("name", [NAME, "refs/@a/@b", "refs/@a"])
def test_a_directory_that_made_way_for_nothing_is_made_anew(volume: Volume, name: str) -> None:
    """One that another put in the place of ours, and that went before we could use it."""
    sequences = Sequences(volume)
    sequences.make(NAME)
    shutil.rmtree(volume.path / name)
    record = sequences.sequence(NAME, RecordKind.MUTABLE).create(BEGINNING, b"x")
    assert record == open_sequence(volume).newest()


@pytest.mark.parametrize("call", ["link", "fchmod"])
def test_what_an_nfs_client_calls_stale_is_tried_again(
    sequence: Sequence, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    fill(sequence)
    # More often than the publishing of one file bears.
    real, failures = getattr(os, call), [OSError(errno.ESTALE, "Stale file handle")] * 6

    def failing(*arguments: object) -> None:
        if failures:
            raise failures.pop()
        real(*arguments)

    monkeypatch.setattr(os, call, failing)
    assert fill(sequence).number == 2
    assert sorted(os.listdir(sequence.directory)) == ["1", "2"]


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_lost_reply_while_a_directory_is_made_is_no_error(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)

    def repeated(*arguments: object) -> None:
        real(*arguments)
        real(*arguments)

    monkeypatch.setattr(os, call, repeated)
    assert fill(open_sequence(volume))
    assert os.listdir(volume.path / "refs/@a/@b") == ["key"]


def test_long_names_leave_room_for_those_of_temporaries(volume: Volume) -> None:
    sequence = open_sequence(volume, "refs/@" + "𝄞" * 63 + "/" + "x" * 255)
    assert fill(sequence) == sequence.newest()


def test_a_file_in_the_place_of_a_directory_is_a_typed_error(volume: Volume, sequence: Sequence) -> None:
    (volume.path / "refs").write_bytes(b"")
    with pytest.raises(StoreError, match="a directory belongs there: move it away"):
        sequence.append(b"x")


def test_on_a_network_no_name_is_looked_up_that_no_listing_showed(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: set[str] = {str(volume.path)}
    real_list, real_open, real_stat = os.listdir, open, os.stat

    def listing(path: Path | int) -> list[str]:
        path = path if isinstance(path, Path) else Path(f"/proc/self/fd/{path}").readlink()
        assert str(path) in shown, f"{path} was listed, but nothing showed it"
        names = real_list(path)
        shown.update(os.path.join(path, name) for name in names)
        return names

    def opening(path: Path, *arguments: object, **more: object) -> object:
        assert str(path) in shown, f"{path} was opened, but nothing showed it"
        return real_open(path, *arguments, **more)  # type: ignore[call-overload]

    fill(open_sequence(volume, "refs/@a/@b/neighbour"))
    monkeypatch.setattr(os, "listdir", listing)
    monkeypatch.setattr(records, "open", opening, raising=False)
    volume = replace(volume, network=True)
    assert open_sequence(volume).newest() is None
    fill(open_sequence(volume, "refs/@a/@b/neighbour"))
    assert open_sequence(volume, "refs/@a/@b/neighbour").newest() is not None
    assert os.stat is real_stat
