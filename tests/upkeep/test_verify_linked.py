"""Verify and linked files: what cannot be loaded any more is named by path, what can be loaded is no problem."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kacas import Store
from kacas.upkeep.verify import VerifyReport, verify


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(1_000_000))
    return path


def adopted(report: VerifyReport) -> list[str]:
    """The paths that problems name; there must be no other problem."""
    assert {problem.kind for problem in report.problems} <= {"adopted"}
    return [problem.message.partition(" ")[0] for problem in report.problems]


def test_a_store_of_linked_files_is_clean_and_they_are_read(store: Store, large: Path) -> None:
    store.link_file(large)
    report = verify(store)
    assert report.clean
    assert report.checked_size == store.stats().pack_size + 1_000_000
    for cheap in (verify(store, quick=True), verify(store, linked=False)):
        assert cheap.clean
        assert cheap.checked_size == store.stats().pack_size


def test_a_missing_one_is_named_however_one_looks(store: Store, large: Path) -> None:
    uri = store.link_file(large)
    large.unlink()
    for report in (verify(store), verify(store, quick=True), verify(store, linked=False)):
        assert adopted(report) == [str(large)]
        assert report.problems[0].uris == (uri,)


def test_a_changed_one_is_named_when_it_is_read(store: Store, large: Path) -> None:
    store.link_file(large)
    with open(large, "r+b") as file:
        file.write(b"changed")
    assert adopted(verify(store)) == [str(large)]
    assert verify(store, linked=False).clean
    os.truncate(large, 10)
    assert adopted(verify(store, linked=False)) == [str(large)]


def test_what_is_in_packs_or_at_another_place_as_well_is_no_problem(store: Store, large: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    shutil.copy(large, other)
    store.link_file(large)
    store.link_file(other)
    large.unlink()
    assert verify(store).clean
    store.store_file(other)
    other.unlink()
    for report in (verify(store), verify(store, quick=True), verify(store, linked=False)):
        assert report.clean


def test_whoever_forgot_a_link_may_delete_the_file(store: Store, large: Path) -> None:
    store.forget(store.link_file(large))
    large.unlink()
    assert verify(store).clean
    assert verify(store, quick=True).clean


def test_a_damaged_outboard_is_a_problem_of_its_pack(store: Store, large: Path) -> None:
    uri = store.link_file(large)
    (pack,) = (store.path / "packs").iterdir()
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    for report in (verify(store), verify(store, linked=False)):
        assert {problem.kind for problem in report.problems} == {"damaged"}
        assert {other for problem in report.problems for other in problem.uris} == {uri}
