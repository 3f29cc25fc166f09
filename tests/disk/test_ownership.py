"""Users, groups and modes in words."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from kacas.disk.ownership import closed_to_group, group_name, joined_group, user_name, whose, why_refused
from kacas.errors import InvalidSettingError
from tests.faults.children import NOBODY, become_nobody, run

NOBODY_HAS_IT = 3_999_999_999


def test_who_has_no_name_is_called_by_number() -> None:
    assert user_name() == pwd.getpwuid(os.geteuid()).pw_name
    assert user_name(NOBODY_HAS_IT) == f"uid {NOBODY_HAS_IT}"
    assert group_name(os.getegid()) == grp.getgrgid(os.getegid()).gr_name
    assert group_name(NOBODY_HAS_IT) == f"gid {NOBODY_HAS_IT}"


def test_a_group_that_one_is_in_is_known_by_name_and_by_number() -> None:
    gid = os.getegid()
    assert joined_group(group_name(gid)) == joined_group(str(gid)) == gid


@pytest.mark.parametrize("name", ["no such group", "", "٣", "-1", "a\0b"])
def test_a_group_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InvalidSettingError, match="there is no group"):
        joined_group(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives up its rights")
@pytest.mark.parametrize("uid, gid", [(NOBODY_HAS_IT, 0), (NOBODY, NOBODY_HAS_IT), (NOBODY_HAS_IT, NOBODY_HAS_IT)])
def test_who_or_what_has_no_name_is_not_put_into_a_command(uid: int, gid: int) -> None:
    def ask() -> str:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(uid)
        with pytest.raises(InvalidSettingError) as caught:
            joined_group(str(gid))
        return str(caught.value)

    words = run(ask).get()
    assert "usermod" not in words
    assert f"makes the user {uid} a member of the group {gid}" in words


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives up its rights")
def test_a_command_to_join_names_user_and_group_also_if_the_group_was_given_by_number(tmp_path: Path) -> None:
    def ask() -> str:
        become_nobody(tmp_path)
        with pytest.raises(InvalidSettingError) as caught:
            joined_group("0")
        return str(caught.value)

    names = f"{group_name(0)} {user_name(NOBODY)}"
    assert run(ask).get().endswith(f"usermod -aG {names}")


def test_whose_a_place_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o2750)
    assert whose(tmp_path) == f"{user_name()}'s, of the group {group_name(os.getegid())}, drwxr-s---"


def test_a_place_that_is_not_there_is_explained_by_the_one_above(tmp_path: Path) -> None:
    assert str(tmp_path) in why_refused(tmp_path / "not" / "there", writing=True)
    assert why_refused(Path("/"), writing=True)
    assert why_refused(Path("/not/there"), writing=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives things away")
@pytest.mark.parametrize("owner, asked", [(NOBODY_HAS_IT, "an administrator (uid "), (0, "root")])
def test_whom_to_ask_is_somebody_who_has_a_name(open_place: Path, owner: int, asked: str) -> None:
    os.chown(open_place, owner, owner)
    open_place.chmod(0o755)

    def ask() -> str:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return why_refused(open_place / "new", writing=True)

    assert f"ask {asked}" in run(ask).get()


def test_directories_that_a_group_cannot_enter_are_found_whatever_others_may(tmp_path: Path) -> None:
    path = tmp_path / "open" / "closed" / "groups" / "store"
    path.mkdir(parents=True)
    group = os.getegid()
    for name, mode in [("open", 0o711), ("open/closed", 0o700), ("open/closed/groups", 0o750)]:
        (tmp_path / name).chmod(mode)
    found = [place for place in closed_to_group(path, group) if place.is_relative_to(tmp_path / "open")]
    assert found == [tmp_path / "open" / "closed"]
    (tmp_path / "open").chmod(0o701)  # the group's own bits count for the group
    found = [place for place in closed_to_group(path, group) if place.is_relative_to(tmp_path / "open")]
    assert found == [tmp_path / "open", tmp_path / "open" / "closed"]
