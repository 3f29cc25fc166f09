"""Verify reads every record of mutables and feeds, and names what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from kacas import Store
from kacas.upkeep.verify import Problem, VerifyReport, verify
from kacas_remote.groups.places import StorePlace


@pytest.fixture
def uri(store: Store) -> str:
    """Of a feed with three batches, beside a mutable with three generations."""
    for value in ("one", "two", "three"):
        store.set_mutable("@a/key", value)
    uri = store.create_feed()
    for number in range(3):
        store.load_feed(uri).append_message({"n": number})
    return uri


def place_of(store: Store, uri: str) -> Path:
    return store.path / "feeds" / uri[-32:]


def change(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.chmod(0o644)
    path.write_bytes(edit(path.read_bytes()))


def the_problem(report: VerifyReport) -> Problem:
    (problem,) = report.problems
    assert not report.clean
    return problem


def test_what_is_sound_is_counted(store: Store, uri: str) -> None:
    store.delete_mutable("@a/key")
    report = verify(store)
    assert report.clean
    assert report.records == 8
    assert verify(store, quick=True).records == 8


@pytest.mark.parametrize("number", [1, 3])
def test_a_damaged_generation_is_named(store: Store, uri: str, number: int) -> None:
    change(store.path / "refs/@a/key" / str(number), lambda data: data[:-1] + b"x")
    problem = the_problem(verify(store))
    assert (problem.kind, problem.record, problem.uris) == ("damaged", f"refs/@a/key/{number}", ())


def test_a_damaged_batch_is_named_with_its_feed(store: Store, uri: str) -> None:
    change(place_of(store, uri) / "2", lambda data: data.replace(b'{"n":0}', b'{"n":7}'))
    problem = the_problem(verify(store))
    assert (problem.kind, problem.record, problem.uris) == ("damaged", f"feeds/{uri[-32:]}/2", (uri,))


def test_a_batch_that_is_missing_is_named(store: Store, uri: str) -> None:
    os.unlink(place_of(store, uri) / "3")
    problem = the_problem(verify(store))
    assert (problem.kind, problem.record, problem.uris) == ("missing", f"feeds/{uri[-32:]}/3", (uri,))


def test_a_batch_that_was_altered_with_its_check_is_noticed(store: Store, uri: str) -> None:
    def forge(data: bytes) -> bytes:
        body = data[:-16].replace(b'{"n":0}', b'{"n":7}')
        return body + blake3(body).digest(16)

    change(place_of(store, uri) / "2", forge)
    problem = the_problem(verify(store))
    assert problem.record == f"feeds/{uri[-32:]}/3"
    assert "the one before it" in problem.message


def test_a_record_of_a_newer_kacas_is_no_damage(store: Store, uri: str) -> None:
    change(store.path / "refs/@a/key/3", lambda data: data[:8] + b"\x09" + data[9:])
    assert the_problem(verify(store)).kind == "newer"


def test_a_file_among_the_mutables_is_named_and_the_rest_is_checked(store: Store, uri: str) -> None:
    (store.path / "refs" / "stray").touch()
    (store.path / "feeds" / ("ab" * 16)).touch()
    change(store.path / "refs/@a/key/2", lambda data: data[:-1] + b"x")
    change(place_of(store, uri) / "2", lambda data: data[:-1] + b"x")
    report = verify(store)
    assert {problem.record for problem in report.problems} == {
        "refs/stray", "feeds/" + "ab" * 16, "refs/@a/key/2", f"feeds/{uri[-32:]}/2",
    }  # fmt: skip


@pytest.fixture
def group(store: Store) -> Path:
    """Three records as those of access groups: what they say, and who signed it, is not asked here."""
    place = StorePlace(store.path, b"g" * 16)
    for number in (1, 2, 3):
        assert place.create(number, b"version %d" % number)
    return store.path / "groups" / (b"g" * 16).hex()


def test_records_of_access_groups_are_read_too(store: Store, group: Path) -> None:
    (group.parent / "stray").touch()  # nobody's business
    report = verify(store)
    assert (report.clean, report.records) == (True, 3)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_damaged_version_of_a_group_is_named(store: Store, group: Path, number: int) -> None:
    change(group / str(number), lambda data: data.replace(b"version", b"Version"))
    problem = the_problem(verify(store))
    assert (problem.kind, problem.record, problem.uris) == ("damaged", f"groups/{group.name}/{number}", ())


def test_a_version_that_is_missing_is_named(store: Store, group: Path) -> None:
    os.unlink(group / "2")
    problem = the_problem(verify(store))
    assert (problem.kind, problem.record) == ("missing", f"groups/{group.name}/2")


def test_a_version_that_was_exchanged_with_its_check_is_noticed(store: Store, group: Path) -> None:
    def forge(data: bytes) -> bytes:
        body = data[:-16].replace(b"version", b"Version")
        return body + blake3(body).digest(16)

    change(group / "2", forge)
    assert the_problem(verify(store)).record == f"groups/{group.name}/3"


def test_folders_may_be_deeper_than_the_stack_of_python(store: Store, uri: str) -> None:
    folder = store.path / "refs"
    for _ in range(1100):
        folder = folder / "@a"
        folder.mkdir(exist_ok=True)
    try:
        assert verify(store).clean
        assert store.list_mutables() == ["@a/key"]
    finally:  # what empties the directories of tests is not as patient
        while folder != store.path / "refs" / "@a":
            folder.rmdir()
            folder = folder.parent
