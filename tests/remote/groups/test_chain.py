"""Chains: who may make which version of which; what was done to a chain is noticed; who can open what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.errors import InvalidSettingError
from kacas_remote.errors import DamagedGroupError, GroupAccessError
from kacas_remote.groups.chain import Chain, open_epochs, read_chain
from kacas_remote.groups.edits import NewMember, founded, with_members, without_members
from kacas_remote.groups.record import (
    MAX_MEMBERS,
    Member,
    RecordFormatError,
    Version,
    decode_version,
    group_id_of,
    in_order,
    signed,
)
from kacas_remote.sealing.epoch_keys import EpochKeys
from kacas_remote.sealing.wrapping import new_secret, open_ring, seal_ring, unwrap, wrap
from kacas_remote.signing import PrivateKey, public_key

ANA, BEN, CEM, EVE = (PrivateKey(seed * 32) for seed in (b"a", b"b", b"c", b"e"))
TIME = "2026-11-27T01:30:00Z"


def new(key: PrivateKey, name: str, *, admin: bool = False) -> NewMember:
    return NewMember(public_key(key), name, admin)


FIRST = founded("lab", ANA, "ana", [], TIME)
GROUP = FIRST.group_id


def chain_of(texts: Sequence[bytes]) -> Chain:
    chain = read_chain(GROUP, texts)
    assert chain is not None
    return chain


def history() -> list[bytes]:
    """ana founds; ben, an admin, and cem come; ben removes cem; cem comes again; ana removes ben."""
    texts = [FIRST.text]
    texts.append(with_members(chain_of(texts), ANA, [new(BEN, "ben", admin=True), new(CEM, "cem")], TIME).text)
    texts.append(without_members(chain_of(texts), BEN, ["cem"], TIME).text)
    texts.append(with_members(chain_of(texts), BEN, [new(CEM, "cem2")], TIME).text)
    texts.append(without_members(chain_of(texts), ANA, ["ben"], TIME).text)
    return texts


TEXTS = history()
WHOLE = chain_of(TEXTS)


def test_a_chain_says_who_did_what() -> None:
    told = [
        (
            one.number,
            one.by.name,
            [p.name for p in one.added],
            [p.name for p in one.removed],
            one.epoch,
            one.began_epoch,
        )
        for one in WHOLE.changes
    ]
    assert told == [
        (1, "ana", ["ana"], [], 1, True),
        (2, "ana", sorted_by_key("ben", "cem"), [], 1, False),
        (3, "ben", [], ["cem"], 2, True),
        (4, "ben", ["cem2"], [], 2, False),
        (5, "ana", [], ["ben"], 3, True),
    ]
    assert [p.name for p in WHOLE.changes[1].made_admin] == ["ben"]
    gone = WHOLE.departure(public_key(BEN))
    assert gone is not None
    assert (gone.number, gone.by.name) == (5, "ana")
    assert WHOLE.departure(public_key(EVE)) is None


def sorted_by_key(*names: str) -> list[str]:
    keys = {"ana": ANA, "ben": BEN, "cem": CEM}
    return sorted(names, key=lambda name: public_key(keys[name]))


def test_whoever_is_in_opens_all_epochs_and_others_none() -> None:
    assert [one.epoch for one in open_epochs(WHOLE, ANA)] == [3, 2, 1]
    assert open_epochs(WHOLE, ANA) == open_epochs(WHOLE, CEM)
    assert len({one.secret for one in open_epochs(WHOLE, ANA)}) == 3
    for own in (BEN, EVE):
        with pytest.raises(DamagedGroupError, match="no box"):
            open_epochs(WHOLE, own)


def test_who_was_removed_finds_nothing_in_later_versions_that_opens_their_secrets() -> None:
    ours = {one.epoch: one.secret for one in open_epochs(WHOLE, ANA)}
    before = chain_of(TEXTS[:4])
    assert [one.epoch for one in open_epochs(before, BEN)] == [2, 1]
    later = decode_version(TEXTS[4])
    assert not any(box_opens(one, BEN) for one in later.members)
    for known in open_epochs(before, BEN):
        with pytest.raises(ValueError, match="ring"):
            open_ring(EpochKeys(GROUP, 3, known.secret), later.ring)
        assert known.secret != ours[3]


def box_opens(member: Member, own: PrivateKey) -> bool:
    try:
        unwrap(member.box, own, GROUP, 3)
    except ValueError:
        return False
    return True


@given(data=st.data())
def test_versions_that_are_dropped_doubled_or_in_another_order_are_refused(data: st.DataObject) -> None:
    picked = data.draw(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=7))
    if picked == list(range(len(picked))):
        chain_of([TEXTS[at] for at in picked])
        return
    with pytest.raises(RecordFormatError) as caught:
        chain_of([TEXTS[at] for at in picked])
    wrong = next(at for at, (is_, should) in enumerate(zip(picked, range(99), strict=False)) if is_ != should)
    assert caught.value.number == wrong + 1


def test_a_version_of_another_group_of_the_same_people_is_refused() -> None:
    other = founded("lab", ANA, "ana", [], TIME)
    with pytest.raises(RecordFormatError, match="another group"):
        chain_of([other.text])
    other_chain = read_chain(other.group_id, [other.text])
    assert other_chain is not None
    second = with_members(other_chain, ANA, [new(BEN, "ben")], TIME)
    with pytest.raises(RecordFormatError, match="another group"):
        chain_of([FIRST.text, second.text])


def test_two_histories_of_one_group_cannot_be_spliced() -> None:
    chain = chain_of(TEXTS[:2])
    other = with_members(chain, ANA, [new(EVE, "eve")], TIME)
    chain_of([*TEXTS[:2], other.text])
    with pytest.raises(RecordFormatError, match="follow"):
        chain_of([*TEXTS[:2], other.text, TEXTS[3]])


def test_only_the_founder_can_make_a_first_version_for_an_id() -> None:
    mine = Member(public_key(EVE), "eve", True, wrap(EpochKeys(GROUP, 1, bytes(32)), public_key(EVE)))
    forged = signed(replace(FIRST, members=in_order([*FIRST.members, mine]), signer=public_key(EVE)), EVE)
    with pytest.raises(RecordFormatError, match="founded"):
        chain_of([forged.text])
    assert group_id_of(public_key(ANA), FIRST.salt) == GROUP


def test_a_first_version_whose_founder_is_no_admin_is_refused() -> None:
    ben = Member(public_key(BEN), "ben", True, wrap(EpochKeys(GROUP, 1, bytes(32)), public_key(BEN)))
    ana = replace(FIRST.members[0], admin=False)
    for members in ([ana, ben], [ben]):
        with pytest.raises(RecordFormatError, match="no admin in it"):
            chain_of([signed(replace(FIRST, members=in_order(members)), ANA).text])


def next_version(**changed: Any) -> Version:
    """Behind the second of TEXTS, in the same epoch."""
    before = decode_version(TEXTS[1])
    values = {"number": 3, "previous": before.digest, "signer": public_key(ANA)} | changed
    return replace(before, **values)


KEYS_2 = EpochKeys(GROUP, 2, new_secret())
SECOND = decode_version(TEXTS[1])


def rewrapped(*gone: PrivateKey, admins: Sequence[PrivateKey] = (ANA, BEN)) -> dict[str, Any]:
    """A new epoch, as it should be."""
    out = [public_key(one) for one in gone]
    in_charge = [public_key(one) for one in admins]
    members = tuple(
        replace(one, box=wrap(KEYS_2, one.key), admin=one.key in in_charge)
        for one in SECOND.members
        if one.key not in out
    )
    ring = seal_ring(KEYS_2, [open_epochs(chain_of(TEXTS[:2]), ANA)[0].secret])
    return {"epoch": 2, "members": members, "ring": ring, "commitment": KEYS_2.commitment}


def test_a_version_that_is_as_it_should_be_follows() -> None:
    chain = chain_of([*TEXTS[:2], signed(next_version(), ANA).text])
    assert chain.number == 3
    chain = chain_of([*TEXTS[:2], signed(next_version(**rewrapped(CEM)), ANA).text])
    assert open_epochs(chain, BEN)[0] == KEYS_2


@pytest.mark.parametrize(
    "signer, changed, why",
    [
        (CEM, dict, "no admin"),
        (EVE, dict, "no admin"),
        (ANA, lambda: {"name": "bal"}, "another group"),
        (ANA, lambda: {"number": 4}, "follow"),
        (ANA, lambda: {"previous": FIRST.digest}, "follow"),
        (ANA, lambda: {"members": rewrapped()["members"]}, "box of a member is another"),
        (ANA, lambda: {"members": SECOND.members[1:]}, "no new epoch|no member in it"),
        (ANA, lambda: {"members": SECOND.members[:-1]}, "no new epoch|no member in it"),
        (ANA, lambda: {"commitment": KEYS_2.commitment}, "secrets are others"),
        (ANA, lambda: {"ring": bytes(40)}, "secrets are others"),
        (ANA, lambda: rewrapped() | {"commitment": SECOND.commitment}, "not the next one"),
        (ANA, lambda: rewrapped() | {"epoch": 3, "ring": bytes(104)}, "not the next one"),
        (ANA, lambda: rewrapped(ANA, admins=[BEN]), "no member in it"),
    ],
)
def test_what_may_not_follow_is_refused(signer: PrivateKey, changed: Callable[[], dict[str, Any]], why: str) -> None:
    version = signed(next_version(signer=public_key(signer), **changed()), signer)
    with pytest.raises(RecordFormatError, match=why) as caught:
        chain_of([*TEXTS[:2], version.text])
    assert caught.value.number == 3


def test_who_was_an_admin_is_none_any_more_when_another_says_so() -> None:
    chain = chain_of([*TEXTS[:2], signed(next_version(members=rewrapped_in_place(ANA)), ANA).text])
    assert [p.name for p in chain.changes[-1].admin_no_more] == ["ben"]
    with pytest.raises(GroupAccessError, match="no admin of the group lab"):
        with_members(chain, BEN, [new(EVE, "eve")], TIME)


def rewrapped_in_place(*admins: PrivateKey) -> tuple[Member, ...]:
    keys = [public_key(one) for one in admins]
    return tuple(replace(one, admin=one.key in keys) for one in SECOND.members)


def test_a_box_or_ring_with_another_secret_is_noticed_by_who_opens_it() -> None:
    good = rewrapped(CEM)
    lie = EpochKeys(GROUP, 2, new_secret())

    def lied_to(key: PrivateKey, box: bytes) -> Chain:
        members = tuple(replace(one, box=box) if one.key == public_key(key) else one for one in good["members"])
        return chain_of([*TEXTS[:2], signed(next_version(**good | {"members": members}), ANA).text])

    for box in (wrap(lie, public_key(BEN)), wrap(EpochKeys(GROUP, 1, KEYS_2.secret), public_key(BEN)), bytes(100)):
        chain = lied_to(BEN, box)
        assert open_epochs(chain, ANA)
        with pytest.raises(DamagedGroupError, match="signed by ana"):
            open_epochs(chain, BEN)
    for ring in (bytes(72), seal_ring(KEYS_2, [new_secret()]), seal_ring(lie, [new_secret()])):
        chain = chain_of([*TEXTS[:2], signed(next_version(**good | {"ring": ring}), ANA).text])
        with pytest.raises(DamagedGroupError):
            open_epochs(chain, BEN)


def test_a_group_of_as_many_as_can_be_is_made_and_no_more() -> None:
    many = [NewMember(public_key(PrivateKey(b"%032d" % n)), f"m{n}") for n in range(MAX_MEMBERS)]
    full = founded("lab", ANA, "ana", many[1:], TIME)
    assert len(full.members) == MAX_MEMBERS
    with pytest.raises(InvalidSettingError, match=f"at most {MAX_MEMBERS} members"):
        founded("lab", ANA, "ana", many, TIME)


@pytest.mark.parametrize(
    "edit, why",
    [
        (lambda: with_members(WHOLE, ANA, [new(CEM, "x")], TIME), "a member of the group lab already, as cem2"),
        (lambda: with_members(WHOLE, ANA, [new(ANA, "x", admin=True)], TIME), "an admin of the group lab already"),
        (lambda: with_members(WHOLE, ANA, [new(EVE, "cem2")], TIME), "another name"),
        (lambda: with_members(WHOLE, ANA, [new(EVE, "e v e")], TIME), "no name for a member"),
        (lambda: with_members(WHOLE, ANA, [NewMember(bytes(32), "zero")], TIME), "no key of a person"),
        (lambda: without_members(WHOLE, ANA, ["eve"], TIME), "'eve' is no member"),
        (lambda: without_members(WHOLE, ANA, ["ana"], TIME), "only admin"),
        (lambda: without_members(chain_of(TEXTS[:4]), ANA, ["ana"], TIME), "Ask another admin: ben"),
        (lambda: founded("l/ab", ANA, "ana", [], TIME), "no name for an access group"),
    ],
)
def test_what_an_admin_cannot_do_is_said_in_words(edit: Callable[[], Version], why: str) -> None:
    with pytest.raises(InvalidSettingError, match=why):
        edit()


def test_a_member_is_made_an_admin_with_the_box_they_have() -> None:
    chain = chain_of([*TEXTS, with_members(WHOLE, ANA, [new(CEM, "ignored", admin=True)], TIME).text])
    assert [one.name for one in chain.newest.admins if one.key == public_key(CEM)] == ["cem2"]
    assert not chain.changes[-1].began_epoch
    chain_of([*TEXTS, chain.newest.text, with_members(chain, CEM, [new(EVE, "eve")], TIME).text])


def test_several_are_removed_in_one_version_and_one_epoch() -> None:
    chain = chain_of([*TEXTS, with_members(WHOLE, ANA, [new(BEN, "ben"), new(EVE, "eve")], TIME).text])
    after = without_members(chain, ANA, ["ben", f"ed25519:{public_key(EVE).hex()}"], TIME)
    assert after.epoch == chain.newest.epoch + 1
    assert {one.name for one in after.members} == {"ana", "cem2"}
