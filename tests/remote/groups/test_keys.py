"""The keys of a member: opened once, looked at again in time, never pickled, and the same after a fork."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from kacas_remote.errors import DamagedGroupError, GroupAccessError, GroupNotFoundError
from kacas_remote.groups import keys as module
from kacas_remote.groups import keys_of
from kacas_remote.groups.chain import Chain
from kacas_remote.groups.edits import NewMember, without_members
from kacas_remote.groups.group import Group
from kacas_remote.groups.record import Version, group_text, signed
from kacas_remote.groups.verbs import add_members, create_group, join_group, remove_members
from kacas_remote.sealing.epoch_keys import EpochKeys, Keys
from kacas_remote.sealing.wrapping import wrap
from kacas_remote.signing import PrivateKey, public_key
from tests.remote.groups.people import MakePerson, Person, joined, new_group


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
    keys = ben.keys("ours")
    before = keys.epochs()
    for cem in (Person(name, ana.home.parent / name) for name in ("cem", "cem2")):
        add_members(group, [cem.member()], ana.environment)
        remove_members(group, [cem.name], ana.environment)
        assert keys.epochs() == before
        if cem.name == "cem":
            assert keys.refresh()
            assert not keys.refresh()
            before = keys.epochs()
            assert [one.epoch for one in before] == [2, 1]
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.0)
    assert [one.epoch for one in keys.epochs()] == [3, 2, 1]


def test_what_one_process_of_a_user_changes_or_learns_counts_in_all_of_them_at_once(
    group: Group, ana: Person, ben: Person
) -> None:
    (anas, same), (bens, other) = ([one.keys(name) for _ in range(2)] for one, name in ((ana, "lab"), (ben, "ours")))
    for keys in (anas, same, bens, other):
        assert [one.epoch for one in keys.epochs()] == [1]
    add_members(group, [Person("cem", ana.home.parent / "cem").member()], ana.environment)
    remove_members(group, ["cem"], ana.environment)
    assert [keys.epochs()[0].epoch for keys in (anas, same, bens, other)] == [2, 2, 1, 1]
    bens.refresh()
    assert [keys.epochs()[0].epoch for keys in (bens, other)] == [2, 2]
    remove_members(group, ["ben"], ana.environment)
    with pytest.raises(GroupAccessError):
        bens.refresh()
    with pytest.raises(GroupAccessError):
        other.epochs()


def test_keys_are_given_or_refused_while_other_threads_look(group: Group, ana: Person, ben: Person) -> None:
    """Never none at all."""
    keys, ended = ben.keys("ours"), threading.Event()
    found: list[int] = []

    def ask() -> None:
        while not ended.is_set():
            try:
                found.append(len(keys.epochs()))
            except GroupAccessError:
                continue

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            remove_members(group, ["ben"], ana.environment)
            with pytest.raises(GroupAccessError):
                keys.refresh()
            add_members(group, [ben.member()], ana.environment)
            keys.refresh()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert min(found) > 0


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


def test_who_is_removed_has_no_keys_either_where_nothing_can_be_noted(group: Group, ana: Person, ben: Person) -> None:
    shutil.rmtree(ben.home / "state")
    (ben.home / "state").write_text("in the way")
    keys = ben.keys("ours")
    with pytest.warns(RuntimeWarning, match="will not be noticed"):
        keys.epochs()
    remove_members(group, ["ben"], ana.environment)
    with pytest.warns(RuntimeWarning, match="will not be noticed"), pytest.raises(GroupAccessError):
        keys.refresh()
    (ana.home.parent / "lab.group").unlink()
    with pytest.raises(GroupNotFoundError):
        keys.epochs()  # not those of before


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


def test_an_admin_who_publishes_rings_that_nobody_opens_locks_out_no_older_member_and_can_be_removed(
    group: Group, ana: Person, ben: Person
) -> None:
    dan, eve = (Person(name, ana.home.parent / name) for name in ("dan", "eve"))
    add_members(
        group,
        [eve.member(admin=True), *(NewMember(public_key(PrivateKey(bytes([n]) * 32)), f"x{n}") for n in (1, 2))],
        ana.environment,
    )
    group_id, at = group_text(group.joined.group_id), group.joined.place
    eves, _ = join_group("lab", group_id, at=at, environment=eve.environment)
    first = ben.keys("ours").epochs()
    for gone in ("x1", "x2"):

        def edit(chain: Chain, gone: str = gone) -> Version:
            honest = without_members(chain, eve.key, [gone], "2026-11-27T01:30:00Z", eves.seen_texts())
            return signed(replace(honest, ring=os.urandom(len(honest.ring))), eve.key)

        eves.change(edit)
        for keys in (ana.keys("lab"), ben.keys("ours"), eve.keys("lab")):
            epochs = keys.epochs()
            assert [one.epoch for one in epochs] == list(range(len(epochs), 0, -1))
            assert epochs[-1:] == first
    with pytest.raises(
        DamagedGroupError, match=r"ring of older secrets .* its epoch began with version 4, signed by eve"
    ):
        add_members(group, [dan.member()], ana.environment)
    remove_members(group, ["eve"], ana.environment)
    add_members(group, [dan.member()], ana.environment)
    join_group("lab", group_id, at=at, environment=dan.environment)
    dans = dan.keys("lab").epochs()
    assert [one.epoch for one in dans] == [4, 3, 2, 1]
    assert dans == ben.keys("ours").epochs() == ana.keys("lab").epochs()
    assert dans[-1:] == first


def test_when_nobody_has_keys_any_more_the_version_is_taken_away_and_another_admin_goes_on(
    person: MakePerson, place: str, tmp_path: Path
) -> None:
    """What docs/groups.md says under "A version that gives nobody keys", with each kind of place."""
    ana, ben, eve = person("ana"), person("ben"), person("eve")
    group = new_group(ana, place)
    add_members(group, [ben.member(), eve.member(admin=True)], ana.environment)
    eves = joined(eve, group, place)
    joined(ben, group, place)
    people = {"ana": ana, "ben": ben, "eve": eve}
    before = {name: one.keys("lab").epochs() for name, one in people.items()}

    def edit(chain: Chain) -> Version:
        honest = without_members(chain, eve.key, ["ben"], "2026-11-27T01:30:00Z", eves.seen_texts())
        lie = EpochKeys(chain.group_id, honest.epoch, b"x" * 32)
        return signed(
            replace(honest, members=tuple(replace(one, box=wrap(lie, one.key)) for one in honest.members)), eve.key
        )

    version = eves.change(edit).newest
    for one in (ana, eve):
        with pytest.raises(DamagedGroupError, match=r"gives you no keys.*signed by eve"):
            one.keys("lab").epochs()
    take_away(version, tmp_path / "place")
    for one in people.values():
        one.seen_file(group.joined.group_id).unlink()
    remove_members(group, ["eve"], ana.environment)  # ben is a member as before
    for one in (ana, ben):
        assert one.keys("lab").epochs()[1:] == before["ana"]
    with pytest.raises(GroupAccessError):
        eve.keys("lab").epochs()


def take_away(version: Version, place: Path) -> None:
    """As whoever owns the place does: it is the newest one, in a file of its own or at the end of one file for all."""
    (path,) = [path for path in place.rglob("*") if path.is_file() and version.text in path.read_bytes()]
    if path.suffix == ".group":
        path.write_bytes(path.read_bytes().removesuffix(version.text))
    else:
        path.unlink()
