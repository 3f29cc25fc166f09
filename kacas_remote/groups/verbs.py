"""What a user does with groups: make one, join one, let somebody in, keep somebody out."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kacas.errors import InvalidSettingError
from kacas.settings import Settings
from kacas_remote import identity
from kacas_remote.errors import DamagedGroupError
from kacas_remote.groups.chain import Chain
from kacas_remote.groups.edits import NewMember, check_name, founded, with_members, without_members
from kacas_remote.groups.group import Group
from kacas_remote.groups.joined import JoinedGroup, change_groups, groups_path, joined_group, place_text, read_groups
from kacas_remote.groups.record import group_text, is_name, parse_group, time_text
from kacas_remote.signing import public_key

Environment = Mapping[str, str] | None


def create_group(
    name: str,
    *,
    at: str | None = None,
    my_name: str | None = None,
    others: Sequence[NewMember] = (),
    environment: Environment = None,
) -> Group:
    """Make a group with this user as its admin. at: its place, as a user names it; None for the usual one.

    my_name: what this user is called in the group; None for the name of the claims that are made here.
    Raises InvalidSettingError, also for a name that is taken and for who has no identity, and what the place raises.
    """
    own = identity.own(environment)
    settings = Settings.from_environment(environment)
    check_name(name, "an access group")
    if name in [one.name for one in read_groups(groups_path(environment))]:
        raise InvalidSettingError(
            f"you have an access group {name} already; choose another name, or see: kacas group show {name}"
        )
    founder = my_name or usual_name(settings.owner, public_key(own))
    first = founded(name, own, founder, others, time_text(time.time()))
    group = Group(JoinedGroup(name, first.group_id, place_text(at, settings)), environment)
    group.create(first)
    _keep(group.joined, environment)
    return group


def join_group(name: str, group: str, *, at: str, environment: Environment = None) -> tuple[Group, bool]:
    """Know a group by a name. group: ag_<32 hex>. at: its place. Returns it, and whether this user is a member already.

    Raises InvalidSettingError, GroupNotFoundError, DamagedGroupError, and what the place raises: nothing is kept then.
    """
    own = identity.own(environment)
    check_name(name, "an access group")
    group_id = parse_group(group)
    if group_id is None:
        raise InvalidSettingError(
            f"{group[:80]!r} is no id of an access group: one is ag_ and 32 lower-case hex digits"
        )
    place = place_text(at, Settings.from_environment(environment))
    joined = Group(JoinedGroup(name, group_id, place), environment)
    chain = joined.look_there()
    _keep(joined.joined, environment)
    return joined, chain.newest.member(public_key(own)) is not None


def open_group(name_or_id: str, environment: Environment = None) -> Group:
    """A group of this user. Raises GroupNotFoundError, InvalidSettingError."""
    return Group(joined_group(name_or_id, environment), environment)


def forget_group(name: str, environment: Environment = None) -> None:
    """Forget a group, but not what was seen of it; its record stays as it is. Raises GroupNotFoundError, InvalidSettingError."""
    found = joined_group(name, environment)
    change_groups(lambda there: [one for one in there if one != found], environment)


def move_group(name: str, *, at: str, environment: Environment = None) -> Group:
    """Put all versions that are known here at another place, or again at the same, and look there from now on.

    The others join anew with the new place. Raises as `join_group`, and what the place raises.
    """
    found = open_group(name, environment)
    # An older record that was put back is no reason not to: this is how it is mended.
    with contextlib.suppress(DamagedGroupError):
        found.look()
    place = place_text(at, Settings.from_environment(environment))
    moved = Group(replace(found.joined, place=place), environment)
    moved.refill()
    _keep(moved.joined, environment)
    return moved


def add_members(group: Group, members: Sequence[NewMember], environment: Environment = None) -> Chain:
    """Let them in: they can open all that was and will be sealed. Raises GroupAccessError for who is no admin."""
    own = identity.own(environment)
    return group.change(lambda chain: with_members(chain, own, members, time_text(time.time())))


def remove_members(group: Group, members: Sequence[str], environment: Environment = None) -> Chain:
    """Keep them out from now on: a new epoch begins. members: their names there, or keys. Raises GroupAccessError."""
    own = identity.own(environment)
    return group.change(lambda chain: without_members(chain, own, members, time_text(time.time())))


def usual_name(owner: str, key: bytes) -> str:
    """What somebody is called in a group who does not say: made of the owner's name, else of the key."""
    name = re.sub(r"[^A-Za-z0-9._@-]+", "-", owner)[:64].lstrip("._@-")
    return name if is_name(name) else key.hex()[:8]


def _keep(group: JoinedGroup, environment: Environment) -> None:
    def kept(there: Sequence[JoinedGroup]) -> list[JoinedGroup]:
        for one in there:
            if one.name == group.name and one.group_id != group.group_id:
                raise InvalidSettingError(
                    f"you have another access group {group.name}, {group_text(one.group_id)}; choose another name"
                )
            if one.name != group.name and one.group_id == group.group_id:
                raise InvalidSettingError(
                    f"you have {group_text(group.group_id)} already, as {one.name}; forget that first: kacas group forget "
                    f"{one.name}"
                )
        return [*(one for one in there if one.name != group.name), group]

    change_groups(kept, environment)
