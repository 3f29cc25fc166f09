"""Membership as a machine: people come, go, look, and try what they may not; who can open what is as a small model says."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kacas.errors import InvalidSettingError
from kacas_remote.errors import DamagedGroupError, GroupAccessError
from kacas_remote.groups.chain import read_chain
from kacas_remote.groups.group import Group
from kacas_remote.groups.places import FilePlace
from kacas_remote.groups.record import RecordFormatError, decode_version, group_text, in_order, signed
from kacas_remote.groups.verbs import add_members, create_group, join_group, remove_members
from kacas_remote.sealing.wrapping import UnopenedError, unwrap
from tests.remote.groups.people import Person

NAMES = ("ana", "ben", "cem", "eve")
SOMEBODY = st.sampled_from(NAMES)


@dataclass
class Model:
    """admins, members: names. epoch: the newest. opened: of each who was ever in, the epochs that they could open. texts: all
    versions. seen: how many of them each has seen."""

    admins: set[str] = field(default_factory=lambda: {"ana"})
    members: set[str] = field(default_factory=lambda: {"ana"})
    epoch: int = 1
    opened: dict[str, int] = field(default_factory=lambda: {"ana": 1})
    texts: list[bytes] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)


class Membership(RuleBasedStateMachine):
    """One group at one file. Everybody has joined it, members or not."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="kacas-membership-"))

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    @initialize()
    def begin(self) -> None:
        self.people = {name: Person(name, self.place / name) for name in NAMES}
        self.file = self.place / "lab.group"
        made = create_group("lab", at=str(self.file), my_name="ana", environment=self.people["ana"].environment)
        self.id = made.joined.group_id
        self.groups = {"ana": made}
        for name in NAMES[1:]:
            environment = self.people[name].environment
            self.groups[name] = join_group("lab", group_text(self.id), at=str(self.file), environment=environment)[0]
        self.model = Model(seen=dict.fromkeys(NAMES, 1))
        self.secrets: dict[int, bytes] = {}
        self.grew("ana")

    def grew(self, by: str) -> None:
        """What is at the place is what was there, and one version more."""
        texts = list(FilePlace(self.file).read(1))
        assert texts[:-1] == self.model.texts
        self.model.texts = texts
        self.model.seen[by] = len(texts)
        for name in self.model.members:
            self.model.opened[name] = self.model.epoch

    def group(self, name: str) -> Group:
        return self.groups[name]

    @rule(by=SOMEBODY, who=SOMEBODY, admin=st.booleans())
    def add(self, by: str, who: str, admin: bool) -> None:
        model, person = self.model, self.people[who]
        fine = by in model.admins and (who not in model.members or (admin and who not in model.admins))
        try:
            add_members(self.group(by), [person.member(admin=admin)], self.people[by].environment)
        except (GroupAccessError, InvalidSettingError) as exc:
            assert not fine, exc
            assert isinstance(exc, GroupAccessError) == (by not in model.admins)
            model.seen[by] = len(model.texts)
            return
        assert fine
        model.members.add(who)
        if admin:
            model.admins.add(who)
        self.grew(by)

    @rule(by=SOMEBODY, who=SOMEBODY)
    def remove(self, by: str, who: str) -> None:
        model = self.model
        fine = by in model.admins and who in model.members and who != by
        try:
            remove_members(self.group(by), [who], self.people[by].environment)
        except (GroupAccessError, InvalidSettingError) as exc:
            assert not fine, exc
            assert isinstance(exc, GroupAccessError) == (by not in model.admins)
            model.seen[by] = len(model.texts)
            return
        assert fine
        model.members.discard(who)
        model.admins.discard(who)
        model.epoch += 1
        self.grew(by)

    @rule(who=SOMEBODY)
    def look(self, who: str) -> None:
        self.model.seen[who] = len(self.model.texts)
        keys = self.people[who].keys("lab")
        if who not in self.model.members:
            with pytest.raises(GroupAccessError) as caught:
                keys.epochs()
            assert ("removed you on" in str(caught.value)) == (who in self.model.opened)
            return
        found = keys.epochs()
        assert [one.epoch for one in found] == list(range(self.model.epoch, 0, -1))
        for one in found:
            assert self.secrets.setdefault(one.epoch, one.secret) == one.secret

    @rule(by=SOMEBODY)
    def forge(self, by: str) -> None:
        """Somebody who is no admin signs a version that makes them one, and puts it at the place by hand."""
        if by in self.model.admins:
            return
        newest = decode_version(self.model.texts[-1])
        person = self.people[by]
        others = [one for one in newest.members if one.key != person.public]
        mine = replace(newest.members[0], key=person.public, name=by, admin=True)
        others = [one for one in others if one.name != by]
        forged = replace(
            newest,
            number=newest.number + 1,
            previous=newest.digest,
            members=in_order([*others, mine]),
            signer=person.public,
        )
        self.file.write_bytes(b"".join([*self.model.texts, signed(forged, person.key).text]))
        for name in NAMES:
            with pytest.raises(DamagedGroupError, match="its signer was no admin"):
                self.group(name).look()
        self.file.write_bytes(b"".join(self.model.texts))

    @precondition(lambda self: len(self.model.texts) > 1)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """Somebody puts an older file back: all who saw more notice; the others cannot."""
        count = data.draw(st.integers(1, len(self.model.texts) - 1))
        self.file.write_bytes(b"".join(self.model.texts[:count]))
        for name in NAMES:
            if self.model.seen[name] > count:
                with pytest.raises(DamagedGroupError, match=f"version {count} is the newest there"):
                    self.group(name).look()
            else:
                self.model.seen[name] = count
                assert self.group(name).look()[0].number == count
        self.file.write_bytes(b"".join(self.model.texts))

    @precondition(lambda self: len(self.model.texts) > 2)
    @rule(data=st.data())
    def splice(self, data: st.DataObject) -> None:
        """No other row of these versions, but their beginnings, is a chain."""
        order = data.draw(st.permutations(range(len(self.model.texts))))
        if order == sorted(order):
            return
        with pytest.raises(RecordFormatError):
            read_chain(self.id, [self.model.texts[at] for at in order])

    @invariant()
    def who_is_out_can_open_no_later_secret(self) -> None:
        """By all that lies at the place, with their own key, whatever kacas says."""
        if not hasattr(self, "people"):
            return
        for name, person in self.people.items():
            most = 0
            for version in map(decode_version, self.model.texts):
                for member in version.members:
                    try:
                        most = max(most, unwrap(member.box, person.key, self.id, version.epoch).epoch)
                    except UnopenedError:
                        assert member.key != person.public
            assert most == self.model.opened.get(name, 0)


TestMembership = Membership.TestCase
TestMembership.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
