"""What admins do: the first version of a group's record, and the next one with members added or removed. Pure, but for secrets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from kacas.errors import InvalidSettingError
from kacas_remote.errors import GroupAccessError
from kacas_remote.groups.chain import Chain, open_epochs, read_chain
from kacas_remote.groups.record import (
    MAX_MEMBERS,
    MAX_VERSION_SIZE,
    NO_DIGEST,
    SALT_SIZE,
    Member,
    Version,
    group_id_of,
    in_order,
    is_name,
    signed,
)
from kacas_remote.sealing.epoch_keys import MAX_EPOCHS, EpochKeys
from kacas_remote.sealing.wrapping import is_identity, new_secret, random_bytes, seal_ring, wrap
from kacas_remote.signing import PrivateKey, public_key, publisher_text


class NewMember(NamedTuple):
    """key: Ed25519 public key. name: what they are called in the group."""

    key: bytes
    name: str
    admin: bool = False


def founded(name: str, own: PrivateKey, founder: str, others: Sequence[NewMember], time: str) -> Version:
    """The first version. founder: the name of whoever founds it, an admin. Raises InvalidSettingError."""
    check_name(name, "an access group")
    me, salt = public_key(own), random_bytes(SALT_SIZE)
    keys = EpochKeys(group_id_of(me, salt), 1, new_secret())
    members = _added((), keys, (NewMember(me, founder, True), *others), name)
    version = Version(
        group_id=keys.group_id,
        salt=salt,
        name=name,
        number=1,
        previous=NO_DIGEST,
        epoch=1,
        members=members,
        ring=seal_ring(keys, ()),
        commitment=keys.commitment,
        time=time,
        signer=me,
    )
    return _signed(None, version, own)


def with_members(chain: Chain, own: PrivateKey, added: Sequence[NewMember], time: str) -> Version:
    """The next version, with more members. Who is one already can be made an admin.

    Raises GroupAccessError, InvalidSettingError.
    """
    _check_admin(chain, own)
    newest = open_epochs(chain, own)[0]
    members = _added(chain.newest.members, newest, added, chain.name)
    return _signed(chain, _next(chain, own, time, members=members), own)


def without_members(chain: Chain, own: PrivateKey, removed: Sequence[str], time: str) -> Version:
    """The next version, without these members, in a new epoch. removed: their names, or ed25519:<64 hex>.

    Raises GroupAccessError, InvalidSettingError.
    """
    _check_admin(chain, own)
    me = public_key(own)
    gone = {member_called(chain.newest, one).key for one in removed}
    if me in gone:
        raise InvalidSettingError(_why_not_oneself(chain.newest, me))
    if chain.newest.epoch == MAX_EPOCHS:
        raise InvalidSettingError(
            f"the group {chain.name} has had {MAX_EPOCHS} epochs, and no more are possible; make a new group"
        )
    known = open_epochs(chain, own)
    keys = EpochKeys(chain.group_id, chain.newest.epoch + 1, new_secret())
    staying = tuple(replace(one, box=wrap(keys, one.key)) for one in chain.newest.members if one.key not in gone)
    version = _next(
        chain,
        own,
        time,
        members=staying,
        epoch=keys.epoch,
        ring=seal_ring(keys, [one.secret for one in reversed(known)]),
        commitment=keys.commitment,
    )
    return _signed(chain, version, own)


def member_called(version: Version, name_or_key: str) -> Member:
    """Raises InvalidSettingError for who is none."""
    text = name_or_key.strip()
    for one in version.members:
        if text in (one.name, publisher_text(one.key)):
            return one
    raise InvalidSettingError(
        f"{text[:100]!r} is no member of the group {version.name}; see: kacas group members {version.name}"
    )


def check_name(name: str, of_what: str) -> None:
    """Raises InvalidSettingError."""
    if not is_name(name):
        raise InvalidSettingError(
            f"{name[:80]!r} is no name for {of_what}: letters, digits and . _ @ -, at most 64, none of the signs first"
        )


def _next(chain: Chain, own: PrivateKey, time: str, **changed: object) -> Version:
    values = {"number": chain.number + 1, "previous": chain.newest.digest, "time": time, "signer": public_key(own)}
    return replace(chain.newest, **values, **changed)  # type: ignore[arg-type]


def _signed(chain: Chain | None, version: Version, own: PrivateKey) -> Version:
    """What nobody could read, or its maker cannot open, is never published: it could not be mended."""
    if len(version.text) > MAX_VERSION_SIZE:
        raise InvalidSettingError(
            f"the record of the group {version.name} would have {len(version.text)} bytes, and at most {MAX_VERSION_SIZE} are "
            "possible; make a new group"
        )
    made = signed(version, own)
    after = read_chain(made.group_id, [made.text], chain)
    assert after is not None
    open_epochs(after, own)
    return made


def _check_admin(chain: Chain, own: PrivateKey) -> None:
    if not chain.newest.is_admin(public_key(own)):
        names = ", ".join(one.name for one in chain.newest.admins[:10])
        raise GroupAccessError(
            f"you ({publisher_text(public_key(own))}) are no admin of the group {chain.name}, and only they change it; "
            f"ask one of them: {names}",
        )


def _added(there: Sequence[Member], keys: EpochKeys, added: Sequence[NewMember], group: str) -> tuple[Member, ...]:
    members = {one.key: one for one in there}
    names = {one.name: one.key for one in there}
    for new in added:
        check_name(new.name, "a member of a group")
        if not is_identity(new.key):
            raise InvalidSettingError(
                f"{publisher_text(new.key)} is no key of a person: nothing can be wrapped for it. Ask them for what "
                "`kacas identity show` prints"
            )
        old = members.get(new.key)
        if old is not None:
            if not new.admin or old.admin:
                as_what = "an admin" if old.admin else "a member"
                raise InvalidSettingError(
                    f"{publisher_text(new.key)} is {as_what} of the group {group} already, as {old.name}"
                )
            members[new.key] = replace(old, admin=True)
            continue
        if new.name in names:
            raise InvalidSettingError(
                f"the group {group} has another member {new.name}; give this one another name: --name NAME"
            )
        members[new.key], names[new.name] = Member(new.key, new.name, new.admin, wrap(keys, new.key)), new.key
    if len(members) > MAX_MEMBERS:
        raise InvalidSettingError(f"a group has at most {MAX_MEMBERS} members, and {group} would have {len(members)}")
    return in_order(tuple(members.values()))


def _why_not_oneself(version: Version, me: bytes) -> str:
    others = [one.name for one in version.admins if one.key != me]
    if not others:
        return (
            f"you are the only admin of the group {version.name}, and it needs one. Make somebody else an admin, who can remove "
            f"you: kacas group add-member {version.name} KEY --admin"
        )
    return (
        f"you cannot remove yourself from the group {version.name}: whoever removes somebody makes the new secret, and knows it. "
        f"Ask another admin: {', '.join(others[:10])}"
    )
