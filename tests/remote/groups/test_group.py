"""Groups: several people over each kind of place; an older record that somebody put back; what does when a place is away."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from kacas.errors import InvalidSettingError, NewerFormatError, ReadOnlyStoreError
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from kacas_remote.errors import DamagedGroupError, GroupAccessError, GroupNotFoundError
from kacas_remote.groups.edits import with_members
from kacas_remote.groups.joined import JoinedGroup, groups_path, read_groups
from kacas_remote.groups.places import FilePlace
from kacas_remote.groups.record import group_text
from kacas_remote.groups.verbs import (
    add_members,
    forget_group,
    join_group,
    open_group,
    remove_members,
    usual_name,
)
from tests.remote.groups.people import MakePerson, joined, new_group
from tests.remote.web_server import web_server


def test_people_come_and_go(person: MakePerson, place: str) -> None:
    ana, ben = person("ana"), person("ben")
    group = new_group(ana, place)
    bens = joined(ben, group, place, "their-lab")
    with pytest.raises(GroupAccessError, match=r"are no member of the group their-lab .*admins are ana"):
        ben.keys("their-lab").epochs()
    add_members(group, [ben.member()], ana.environment)
    assert [one.epoch for one in ben.keys("their-lab").epochs()] == [1]
    with pytest.raises(GroupAccessError, match=r"are no admin .*: ana"):
        remove_members(bens, ["ana"], ben.environment)
    remove_members(group, ["ben"], ana.environment)
    assert [one.epoch for one in ana.keys("lab").epochs()] == [2, 1]
    with pytest.raises(
        GroupAccessError, match=r"any more: ana \(ed25519:[0-9a-f]{64}\) removed you on .*, in version 3"
    ):
        ben.keys("their-lab").epochs()
    add_members(group, [ben.member()], ana.environment)
    assert ben.keys("their-lab").epochs() == ana.keys("lab").epochs()
    assert [one.number for one in bens.look()[0].changes] == [1, 2, 3, 4]


def test_no_secret_lies_on_a_disk(person: MakePerson, place: str, tmp_path: Path) -> None:
    ana, ben = person("ana"), person("ben")
    group = new_group(ana, place)
    joined(ben, group, place)
    add_members(group, [ben.member()], ana.environment)
    for _ in range(3):
        remove_members(group, ["ben"], ana.environment)
        add_members(group, [ben.member()], ana.environment)
    secrets = {one.secret for who in (ana, ben) for one in who.keys("lab").epochs()}
    assert len(secrets) == 4
    seen = 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            seen += len(data)
            assert not any(secret in data or secret.hex().encode() in data.lower() for secret in secrets)
    assert seen > 10_000
    for who in (ana, ben):
        mode = stat.S_IMODE(who.seen_file(group.joined.group_id).stat().st_mode)
        assert mode == 0o600


def test_an_altered_byte_at_the_place_is_never_believed(person: MakePerson, tmp_path: Path) -> None:
    ana = person("ana")
    path = tmp_path / "lab.group"
    group = new_group(ana, str(path))
    add_members(group, [person("ben").member()], ana.environment)
    whole, seen = path.read_bytes(), ana.seen_file(group.joined.group_id)
    for at in range(0, len(whole), 3):
        seen.unlink(missing_ok=True)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((DamagedGroupError, NewerFormatError)):
            group.look()


def test_a_record_of_a_newer_kacas_says_what_it_needs(person: MakePerson, tmp_path: Path) -> None:
    ana = person("ana")
    path = tmp_path / "lab.group"
    group = new_group(ana, str(path))
    with open(path, "ab") as file:
        file.write(b'{"format":2,"anything":{}}\nsigned otherwise\n')
    with pytest.raises(NewerFormatError, match=r"version 2 of the record .*upgrade kacas") as caught:
        group.look()
    assert caught.value.needed == 2


def test_the_record_of_another_group_is_none_of_this_one(person: MakePerson, tmp_path: Path) -> None:
    ana, ben = person("ana"), person("ben")
    path = tmp_path / "lab.group"
    group = new_group(ana, str(path))
    with pytest.raises(InvalidSettingError, match="holds the record of another group"):
        new_group(ben, str(path))
    with pytest.raises(DamagedGroupError, match=r"is of another group.* Is that the place of this group"):
        join_group("lab", "ag_" + "ab" * 16, at=str(path), environment=ben.environment)
    with pytest.raises(GroupNotFoundError, match="no record of the group lab"):
        join_group("lab", group_text(group.joined.group_id), at=str(tmp_path / "l.group"), environment=ben.environment)
    assert read_groups(groups_path(ben.environment)) == ()


def test_names_are_not_given_twice(person: MakePerson, tmp_path: Path) -> None:
    ana = person("ana")
    group = new_group(ana, str(tmp_path / "lab.group"))
    other = new_group(ana, str(tmp_path / "other.group"), "other")
    with pytest.raises(InvalidSettingError, match="have an access group lab already"):
        new_group(ana, str(tmp_path / "third.group"))
    assert not (tmp_path / "third.group").exists()
    with pytest.raises(InvalidSettingError, match="you have another access group lab"):
        joined(ana, other, str(tmp_path / "other.group"))
    with pytest.raises(InvalidSettingError, match="already, as lab"):
        joined(ana, group, str(tmp_path / "lab.group"), "lab2")
    joined(ana, group, str(tmp_path / "lab.group"))
    forget_group("other", ana.environment)
    assert [one.name for one in read_groups(groups_path(ana.environment))] == ["lab"]
    with pytest.raises(
        GroupNotFoundError, match=f"{group_text(other.joined.group_id)} is no access group that you joined"
    ):
        open_group(group_text(other.joined.group_id), ana.environment)
    with pytest.raises(GroupNotFoundError, match="no access group 'other'; you have lab"):
        open_group("other", ana.environment)


@pytest.mark.parametrize(
    "text",
    [
        "no toml [",
        "",
        "format = 1\nmore = 1\n",
        "format = 1\n[groups.lab]\n",
        'format = 1\n[groups.lab]\nid = "ag_1"\nplace = "file:/x"\n',
        'format = 1\n[groups.lab]\nid = "ag_' + "ab" * 16 + '"\nplace = "nowhere"\n',
        "format = 1\ngroups = 3\n",
    ],
)
def test_a_file_of_groups_that_is_damaged_is_named_and_left_as_it_is(
    person: MakePerson, tmp_path: Path, text: str
) -> None:
    ana = person("ana")
    path = groups_path(ana.environment)
    path.write_text(text)
    for act in (
        lambda: open_group("lab", ana.environment),
        lambda: new_group(ana, str(tmp_path / "lab.group")),
    ):
        with pytest.raises(InvalidSettingError, match=f"{path} cannot be read"):
            act()
    assert path.read_text() == text
    path.write_text("format = 2\n")
    with pytest.raises(NewerFormatError):
        open_group("lab", ana.environment)


def test_who_has_no_identity_is_told_how_to_make_one(person: MakePerson, tmp_path: Path) -> None:
    ana, ben = person("ana"), person("ben")
    group = new_group(ana, str(tmp_path / "lab.group"))
    joined(ben, group, str(tmp_path / "lab.group"))
    (ben.home / "config" / "kacas" / "identity.toml").unlink()
    for act in (
        lambda: new_group(ben, str(tmp_path / "b.group"), "b"),
        lambda: joined(ben, group, str(tmp_path / "lab.group"), "c"),
        lambda: add_members(open_group("lab", ben.environment), [ben.member()], ben.environment),
        lambda: ben.keys("lab").epochs(),
    ):
        with pytest.raises(InvalidSettingError, match="kacas identity create"):
            act()


@pytest.mark.parametrize("given", ["nowhere", "", "store:", "remote:nowhere"])
def test_what_is_no_place_is_refused_with_what_one_is(person: MakePerson, given: str) -> None:
    with pytest.raises(InvalidSettingError):
        new_group(person("ana"), given)


def test_somebody_is_called_by_their_owner_or_key() -> None:
    assert usual_name("Ana Müller", b"") == "Ana-M-ller"
    assert usual_name("-- ana", b"") == "ana"
    assert usual_name("Ωμέγα", b"\xab" * 32) == "ab" * 4


_ADDER = """
import os, sys
from kacas_remote.groups.edits import NewMember
from kacas_remote.groups.verbs import add_members, open_group, remove_members
from kacas_remote.signing import new_private_key, public_key
who = sys.argv[1]
group = open_group("lab")
for n in range(4):
    add_members(group, [NewMember(public_key(new_private_key()), f"{who}{n}")])
remove_members(group, [f"{who}0"])
"""


def test_admins_who_change_a_group_at_once_lose_nothing(person: MakePerson, place: str) -> None:
    ana, ben = person("ana"), person("ben")
    group = new_group(ana, place)
    joined(ben, group, place)
    add_members(group, [ben.member(admin=True)], ana.environment)
    running = [
        subprocess.Popen([sys.executable, "-c", _ADDER, f"{who.name}{one}-"], env={**os.environ, **who.environment})
        for who in (ana, ben)
        for one in range(2)
    ]
    assert [one.wait(timeout=120) for one in running] == [0] * 4
    chain, is_now = group.look()
    assert is_now
    assert chain.number == 2 + 4 * 5
    added = {f"{who}{one}-{n}" for who in ("ana", "ben") for one in range(2) for n in (1, 2, 3)}
    assert {one.name for one in chain.newest.members} == {"ana", "ben"} | added
    assert chain.newest.epoch == 5
    assert ana.keys("lab").epochs() == ben.keys("lab").epochs()


def test_whoever_is_killed_leaves_the_old_or_the_new_record(person: MakePerson, place: str) -> None:
    ana = person("ana")
    group = new_group(ana, place)
    number = 1
    for one in range(5):
        running = subprocess.Popen([sys.executable, "-c", _ADDER, f"x{one}-"], env={**os.environ, **ana.environment})
        while group.look()[0].number == number and running.poll() is None:
            pass  # until it is at work
        running.kill()
        running.wait()
        chain = group.look()[0]
        assert chain.number > number
        added = add_members(group, [person(f"y{one}").member()], ana.environment)
        assert added.number == chain.number + 1
        number = added.number
    assert ana.keys("lab").epochs()


def test_a_record_is_read_from_a_web_server_and_not_changed_there(person: MakePerson, tmp_path: Path) -> None:
    ana, ben = person("ana"), person("ben")
    (tmp_path / "place").mkdir()
    group = new_group(ana, "lab-bucket")
    add_members(group, [ben.member(admin=True)], ana.environment)
    with web_server(tmp_path / "place") as server:
        remotes = Path(ben.environment["XDG_CONFIG_HOME"]) / "kacas" / "remotes.toml"
        change_remotes(lambda there: [RemoteConfiguration("web", server.url)], remotes)
        bens = joined(ben, group, "web")
        assert ben.keys("lab").epochs() == ana.keys("lab").epochs()
        with pytest.raises(ReadOnlyStoreError, match="Change the group where you can write"):
            remove_members(bens, ["ana"], ben.environment)


def test_who_is_slower_looks_again_and_repeats(person: MakePerson, place: str) -> None:
    ana, ben, cem = person("ana"), person("ben"), person("cem")
    group = new_group(ana, place)
    looked: list[int] = []

    def slowly(chain):  # type: ignore[no-untyped-def]
        looked.append(chain.number)
        if len(looked) == 1:
            add_members(group, [ben.member()], ana.environment)
        return with_members(chain, ana.key, [cem.member()], "2026-11-27T01:30:00Z")

    chain = group.change(slowly)
    assert looked == [1, 2]
    assert {one.name for one in chain.newest.members} == {"ana", "ben", "cem"}


def test_a_group_in_memory_of_the_file_is_found_by_id(person: MakePerson, tmp_path: Path) -> None:
    ana = person("ana")
    group = new_group(ana, str(tmp_path / "lab.group"))
    by_id = open_group(group_text(group.joined.group_id), ana.environment)
    assert by_id.joined == JoinedGroup("lab", group.joined.group_id, f"file:{tmp_path / 'lab.group'}")
    assert isinstance(by_id.place(), FilePlace)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert by_id.look()[0].number == 1
