"""What a host has seen of a group: an older or another record is noticed, and it does when the place is away."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from kacas.errors import StoreError
from kacas_remote.errors import DamagedGroupError, GroupAccessError, GroupNotFoundError, RemoteNotFoundError
from kacas_remote.groups.joined import groups_path, read_groups
from kacas_remote.groups.verbs import add_members, move_group, remove_members
from tests.remote.groups.people import MakePerson, joined, know_bucket, new_group


def saved(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "kacas.toml"}


def restore(directory: Path, files: dict[Path, bytes]) -> None:
    for path in saved(directory):
        path.unlink()
    for path, data in files.items():
        path.write_bytes(data)


def test_an_older_record_that_is_put_back_is_noticed_by_who_saw_the_newer(
    person: MakePerson, place: str, tmp_path: Path
) -> None:
    ana, ben, cem = person("ana"), person("ben"), person("cem")
    group = new_group(ana, place)
    add_members(group, [ben.member(), cem.member()], ana.environment)
    joined(ben, group, place)
    cems = joined(cem, group, place)
    older = saved(tmp_path / "place")
    remove_members(group, ["ben"], ana.environment)
    ana.keys("lab").epochs()
    newer = saved(tmp_path / "place")
    restore(tmp_path / "place", older)
    for look in (
        ana.keys("lab").epochs,
        group.look,
        lambda: add_members(group, [cem.member(admin=True)], ana.environment),
    ):
        with pytest.raises(
            DamagedGroupError, match=r"rolled back: version 2 is .* seen version 3 of .*, by ana"
        ) as caught:
            look()
        assert str(ana.seen_file(group.joined.group_id)) in str(caught.value)
    assert cems.look()[0].number == 2  # who has seen no newer one cannot know
    restore(tmp_path / "place", newer)
    assert [one.epoch for one in ana.keys("lab").epochs()] == [2, 1]
    assert cems.look()[0].number == 3


def test_a_history_that_an_admin_rewrote_is_noticed_by_who_saw_the_other(
    person: MakePerson, place: str, tmp_path: Path
) -> None:
    ana, ben = person("ana"), person("ben")
    group = new_group(ana, place)
    older = saved(tmp_path / "place")
    add_members(group, [ben.member()], ana.environment)
    joined(ben, group, place).look()
    restore(tmp_path / "place", older)
    ana.seen_file(group.joined.group_id).unlink()
    add_members(group, [person("eve").member()], ana.environment)
    with pytest.raises(
        DamagedGroupError, match=r"rewritten: another version 2 is there, .* seen version 2 of .*, by ana"
    ):
        ben.keys("lab").epochs()


def test_any_member_restores_what_they_have_seen_or_moves_it(person: MakePerson, place: str, tmp_path: Path) -> None:
    ana, ben = person("ana"), person("ben")
    group = new_group(ana, place)
    older = saved(tmp_path / "place")
    add_members(group, [ben.member()], ana.environment)
    joined(ben, group, place)
    newer = ben.keys("lab").epochs()
    for lost in (older, {}):
        restore(tmp_path / "place", lost)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is gone
            move_group("lab", at=place, environment=ben.environment)
        assert group.look_there().number == 2
    move_group("lab", at=str(tmp_path / "elsewhere.group"), environment=ben.environment)
    remove_members(group, ["ben"], ana.environment)
    assert ben.keys("lab").epochs() == newer
    joined(ben, group, place)
    with pytest.raises(GroupAccessError, match="removed you"):
        ben.keys("lab").epochs()


def test_who_has_seen_nothing_restores_nothing(person: MakePerson, tmp_path: Path) -> None:
    ana, place = person("ana"), str(tmp_path / "lab.group")
    group = new_group(ana, place)
    (tmp_path / "lab.group").unlink()
    ana.seen_file(group.joined.group_id).unlink()
    with pytest.raises(GroupNotFoundError):
        move_group("lab", at=place, environment=ana.environment)


@pytest.mark.parametrize("gone", ["place", "record"])
def test_what_was_seen_does_when_the_place_is_away(person: MakePerson, place: str, tmp_path: Path, gone: str) -> None:
    ana, ben = person("ana"), person("ben")
    group = new_group(ana, place)
    know_bucket(ben, place)
    before = ana.keys("lab").epochs()
    if gone == "place":
        (tmp_path / "place").rename(tmp_path / "away")
    else:
        restore(tmp_path / "place", {})
    with pytest.warns(RuntimeWarning, match=r"cannot be looked at \(.*\)\. Version 1 of .* is used"):
        assert ana.keys("lab").epochs() == before
    with pytest.raises((StoreError, GroupNotFoundError, RemoteNotFoundError)):
        add_members(group, [ben.member()], ana.environment)
    with pytest.raises((StoreError, GroupNotFoundError, RemoteNotFoundError)):
        joined(ben, group, place)
    assert read_groups(groups_path(ben.environment)) == ()


def test_a_remote_that_is_not_known_any_more_is_a_place_that_is_away(person: MakePerson, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    ana = person("ana")
    new_group(ana, "lab-bucket")
    (ana.home / "config" / "kacas" / "remotes.toml").unlink()
    with pytest.warns(RuntimeWarning, match="no remote 'lab-bucket'"):
        assert len(ana.keys("lab").epochs()) == 1


def test_who_cannot_note_what_was_seen_is_told_and_goes_on(person: MakePerson, tmp_path: Path) -> None:
    ana = person("ana")
    (ana.home / "state").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="will not be noticed"):
        new_group(ana, str(tmp_path / "lab.group"))
    with pytest.warns(RuntimeWarning, match="will not be noticed"):
        assert len(ana.keys("lab").epochs()) == 1


def test_what_was_seen_is_believed_only_as_it_was_signed(person: MakePerson, tmp_path: Path) -> None:
    ana = person("ana")
    group = new_group(ana, str(tmp_path / "lab.group"))
    seen = ana.seen_file(group.joined.group_id)
    whole = seen.read_bytes()
    for data in (
        b"",
        whole[:-1],
        whole[:50],
        b"x" + whole,
        whole + whole,
        whole.replace(b'"version":1', b'"version":2'),
    ):
        seen.write_bytes(data)
        if data:
            with pytest.raises(DamagedGroupError, match=f"{seen} is not what .* Move {seen} away"):
                ana.keys("lab").epochs()
        else:
            assert ana.keys("lab").epochs()
