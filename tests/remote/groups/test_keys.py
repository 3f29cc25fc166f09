"""The keys of a member: opened once, looked at again in time, never pickled, and the same after a fork."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from kacas_remote.errors import DamagedGroupError, GroupAccessError, GroupNotFoundError
from kacas_remote.groups import keys as module
from kacas_remote.groups import keys_of
from kacas_remote.groups.group import Group
from kacas_remote.groups.record import Version, group_text, signed
from kacas_remote.groups.verbs import add_members, create_group, join_group, remove_members
from kacas_remote.sealing.epoch_keys import EpochKeys, Keys
from kacas_remote.sealing.wrapping import wrap
from tests.remote.groups.people import Person


@pytest.fixture
def ana(tmp_path: Path) -> Person:
    return Person("ana", tmp_path / "ana")


@pytest.fixture
def ben(tmp_path: Path) -> Person:
    return Person("ben", tmp_path / "ben")


@pytest.fixture
def group(ana: Person, ben: Person, tmp_path: Path) -> Group:
    """Of ana and ben, who joined it, too."""
    at = str(tmp_path / "lab.group")
    made = create_group("lab", at=at, others=[ben.member()], environment=ana.environment)
    join_group("ours", group_text(made.joined.group_id), at=at, environment=ben.environment)
    return made


def test_a_group_is_opened_by_name_or_id_once_in_a_process(group: Group, ana: Person, ben: Person) -> None:
    keys: Keys = keys_of("lab", ana.environment)
    assert (keys.group_id, keys.group_name) == (group.joined.group_id, "lab")
    assert keys_of(group_text(group.joined.group_id), ana.environment) is keys
    bens = keys_of("ours", ben.environment)
    assert bens is not keys
    assert bens.group_name == "ours"
    assert bens.epochs() == keys.epochs()
    assert keys.epochs() is keys.epochs()
    with pytest.raises(GroupNotFoundError):
        keys_of("ours", ana.environment)


def test_nothing_is_opened_before_keys_are_asked_for(group: Group, ana: Person, tmp_path: Path) -> None:
    keys = keys_of("lab", ana.environment)
    (tmp_path / "lab.group").unlink()
    ana.seen_file(group.joined.group_id).unlink()
    with pytest.raises(GroupNotFoundError):
        keys.epochs()


def test_another_identity_has_other_keys(group: Group, ana: Person, tmp_path: Path) -> None:
    stranger = Person("eve", tmp_path / "eve")
    assert keys_of("lab", ana.environment).epochs()
    other = {
        **ana.environment,
        "KACAS_CLIENT_ID": stranger.public.hex(),
        "KACAS_PRIVATE_KEY": bytes(stranger.key).hex(),
    }
    with pytest.raises(GroupAccessError, match="Is it the right identity"):
        keys_of("lab", other).epochs()


def test_the_record_is_looked_at_again_after_a_while_or_when_asked(
    group: Group, ana: Person, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, other = ben.keys("ours"), ben.keys("ours")
    before = keys.epochs()
    other.epochs()
    add_members(group, [Person("cem", ana.home.parent / "cem").member()], ana.environment)
    remove_members(group, ["cem"], ana.environment)
    assert keys.epochs() == before
    assert keys.refresh()
    assert not keys.refresh()
    assert [one.epoch for one in keys.epochs()] == [2, 1]
    assert other.epochs() == before
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.0)
    assert [one.epoch for one in other.epochs()] == [2, 1]


def test_who_is_removed_has_no_keys_from_the_next_look_on(
    group: Group, ana: Person, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ben.keys("ours")
    keys.epochs()
    remove_members(group, ["ben"], ana.environment)
    with pytest.raises(GroupAccessError, match=r"ana .* removed you on"):
        keys.refresh()
    with pytest.raises(GroupAccessError, match=r"ana .* removed you on"):
        keys.epochs()  # not those of before
    add_members(group, [ben.member()], ana.environment)
    assert [one.epoch for one in keys.epochs()] == [2, 1]


def test_keys_are_not_pickled_and_another_process_opens_them_for_itself(group: Group, ana: Person) -> None:
    keys = keys_of("lab", ana.environment)
    secrets = [one.secret for one in keys.epochs()]
    pickled = pickle.dumps(keys)
    for what in [*secrets, bytes(ana.key)]:
        assert what not in pickled
        assert what.hex().encode() not in pickled
    code = f"import pickle; print([one.commitment.hex() for one in pickle.loads({pickled!r}).epochs()])"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **ana.environment}, stdout=-1, check=True)
    assert done.stdout.decode().strip() == str([one.commitment.hex() for one in keys.epochs()])
    for text in (repr(keys), str(keys), repr(vars(keys)), repr(keys.epochs())):
        assert not any(secret.hex() in text or repr(secret)[2:-1] in text for secret in [*secrets, bytes(ana.key)])


def test_a_fork_that_happens_while_keys_are_opened_can_open_them(group: Group, ana: Person) -> None:
    keys = ana.keys("lab")
    with keys._lock.get():  # as another thread would hold it
        child = multiprocessing.get_context("fork").Process(target=keys.epochs)
        child.start()
        child.join(30)
    assert child.exitcode == 0


def test_many_threads_open_them_once(group: Group, ana: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, looks, start = ana.keys("lab"), [], threading.Barrier(8)
    found: list[object] = []
    look = Group.look

    def counted(self: Group):  # type: ignore[no-untyped-def]
        looks.append(1)
        return look(self)

    monkeypatch.setattr(Group, "look", counted)

    def work() -> None:
        start.wait()
        found.append(keys.epochs())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) == 1
    assert len({id(one) for one in found}) == 1


def test_who_got_another_secret_than_the_others_is_told_by_whom(group: Group, ana: Person, ben: Person) -> None:
    chain, _ = group.look()
    cem = Person("cem", ana.home.parent / "cem")
    lie = EpochKeys(chain.group_id, 1, b"x" * 32)

    def edit(chain) -> Version:  # type: ignore[no-untyped-def]
        from kacas_remote.groups.edits import with_members

        honest = with_members(chain, ana.key, [cem.member()], "2026-11-27T01:30:00Z")
        members = tuple(replace(one, box=wrap(lie, one.key)) if one.name == "cem" else one for one in honest.members)
        return signed(replace(honest, members=members), ana.key)

    group.change(edit)
    join_group("lab", group_text(group.joined.group_id), at=group.joined.place, environment=cem.environment)
    with pytest.raises(DamagedGroupError, match=r"gives you no keys: .* announced .* signed by ana .*ask an admin"):
        cem.keys("lab").epochs()
    assert ben.keys("ours").epochs() == ana.keys("lab").epochs()
    remove_members(group, ["cem"], ana.environment)
    add_members(group, [cem.member()], ana.environment)
    assert cem.keys("lab").epochs() == ana.keys("lab").epochs()
