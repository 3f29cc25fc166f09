"""Directories that get their name when they are complete."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import kacas
from kacas.disk import abandoned
from kacas.disk.place import Place, StagedPlace, stage, sweep


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Place]:
    place = Place(os.open(tmp_path, os.O_RDONLY), os.fsencode(tmp_path), fresh=False)
    yield place
    place.close()


def staged(parent: Place, name: str = "sub") -> StagedPlace:
    place = stage(parent.fd, os.path.join(parent.path, name.encode()))
    assert place is not None
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=place.fd))
    return place


def leave_behind(parent: Place, tmp_path: Path) -> Path:
    """What a killed process leaves: the directory, and no lock."""
    place = staged(parent)
    (path,) = tmp_path.glob(".kacas.tmp.*")
    place._temporary = None
    place.close()
    return path


def test_it_has_its_name_when_it_is_complete_and_not_before(parent: Place, tmp_path: Path) -> None:
    place = staged(parent)
    assert not (tmp_path / "sub").exists()
    place.complete()
    place.close()
    assert [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*"))] == [Path("sub"), Path("sub/file")]


def test_one_that_is_given_up_leaves_nothing(parent: Place, tmp_path: Path) -> None:
    staged(parent).close()
    assert list(tmp_path.iterdir()) == []


def test_one_that_nobody_noted_leaves_nothing(parent: Place, tmp_path: Path) -> None:
    """As when Ctrl-C came just after it was made."""
    gc.collect()  # of what other tests left
    before = len(os.listdir("/proc/self/fd"))
    staged(parent)
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_forked_child_leaves_it_to_its_parent(parent: Place, tmp_path: Path) -> None:
    place = staged(parent)
    pid = os.fork()
    if not pid:
        try:
            place.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    place.complete()
    place.close()
    assert (tmp_path / "sub" / "file").exists()


def test_a_name_that_was_taken_meanwhile_is_refused_and_kept(parent: Place, tmp_path: Path) -> None:
    place = staged(parent)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other").touch()
    with pytest.raises(kacas.DestinationError, match="sub"):
        place.complete()
    place.close()
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["sub"]


def test_leftovers_are_swept_and_what_somebody_fills_is_not(parent: Place, tmp_path: Path) -> None:
    left = leave_behind(parent, tmp_path)
    filled = staged(parent, "other")
    (tmp_path / ".kacas.tmp.file").touch()
    sweep(parent, ())
    assert not left.exists()
    filled.complete()
    filled.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".kacas.tmp.file", "other"]


def test_on_a_network_file_system_only_what_is_an_hour_old_is_swept(
    parent: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There another host may have a lock that this one does not see.
    monkeypatch.setattr(abandoned, "is_network", lambda path: True)
    left = leave_behind(parent, tmp_path)
    sweep(parent, ())
    assert left.exists()
    os.utime(left, (0, 0))
    sweep(parent, ())
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_swept_while_its_process_was_stopped_is_never_completed(
    parent: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abandoned, "lock", lambda fd: True)  # as on another host
    filled = staged(parent)
    sweep(parent, ())
    with pytest.raises(kacas.DestinationError, match="sub"):
        filled.complete()
    filled.close()
    assert list(tmp_path.iterdir()) == []


def test_what_belongs_there_is_not_swept(parent: Place, tmp_path: Path) -> None:
    left = leave_behind(parent, tmp_path)
    sweep(parent, {os.fsencode(left.name)})
    assert (left / "file").exists()


def test_a_directory_that_got_its_name_before_it_was_locked_is_no_prey(
    parent: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave_behind(parent, tmp_path)
    real = os.fstat

    def renamed_meanwhile(fd: int) -> os.stat_result:
        if left.exists():
            left.rename(tmp_path / "sub")
        return real(fd)

    monkeypatch.setattr("kacas.disk.place.os.fstat", renamed_meanwhile)
    sweep(parent, ())
    assert (tmp_path / "sub" / "file").exists()


def test_directories_in_it_are_never_removed(parent: Place, tmp_path: Path) -> None:
    left = leave_behind(parent, tmp_path)
    (left / "deep").mkdir()
    (left / "deep" / "file").touch()
    sweep(parent, ())
    assert (left / "deep" / "file").exists()
