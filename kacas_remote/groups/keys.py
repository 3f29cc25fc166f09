"""The keys that a member has: opened once in a process, and the group's record is looked at again after a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from kacas.settings import environment_of, identity_file, state_directory
from kacas_remote import identity
from kacas_remote.blobs.per_process import PerProcess
from kacas_remote.errors import GroupAccessError
from kacas_remote.groups.chain import Chain, open_epochs
from kacas_remote.groups.group import Group
from kacas_remote.groups.joined import JoinedGroup, groups_path, joined_group
from kacas_remote.groups.record import group_text
from kacas_remote.sealing.epoch_keys import EpochKeys
from kacas_remote.signing import publisher_text

LOOK_AGAIN_S = 60.0
_MOST_OPENED = 256
_opened: dict[tuple[object, ...], GroupKeys] = {}


class GroupKeys:
    """Keys. The private key is read when the record is looked at, and not kept; the secrets are, in memory only."""

    def __init__(self, group: JoinedGroup, environment: Mapping[str, str] | None = None) -> None:
        self._group = Group(group, environment)
        self._environment = environment
        self._lock = PerProcess(threading.Lock)
        self._known: tuple[EpochKeys, ...] = ()
        self._looked_s = 0.0  # by the monotonic clock

    def __repr__(self) -> str:
        return f"<the keys of {self._group.words}>"

    def __reduce__(self) -> tuple[Callable[[str], GroupKeys], tuple[str]]:
        return keys_of, (group_text(self.group_id),)

    @property
    def group_id(self) -> bytes:
        return self._group.joined.group_id

    @property
    def group_name(self) -> str:
        return self._group.joined.name

    def epochs(self) -> Sequence[EpochKeys]:
        """See `Keys`. Raises, too, InvalidSettingError if this user has no identity, and what the place raises."""
        known, looked_s = self._known, self._looked_s
        if not known or time.monotonic() - looked_s >= LOOK_AGAIN_S:
            with self._lock.get():
                if self._looked_s == looked_s:  # else another thread did it just now
                    self._open(self._group.look()[0])
                known = self._known
        return known

    def refresh(self) -> bool:
        """See `Keys`."""
        with self._lock.get():
            before = len(self._known)
            self._open(self._group.look_there())
            return len(self._known) > before

    def _open(self, chain: Chain) -> None:
        own = identity.own(self._environment)
        self._known = ()
        public = bytes(own.verify_key)
        if chain.newest.member(public) is None:
            raise no_member(self._group, chain, public)
        self._known = open_epochs(chain, own)
        self._looked_s = time.monotonic()


def no_member(group: Group, chain: Chain, public: bytes) -> GroupAccessError:
    """Why somebody has no keys: removed, by whom and when; or never a member."""
    who = f"you ({publisher_text(public)})"
    admins = ", ".join(one.name for one in chain.newest.admins[:10])
    left = chain.departure(public)
    if left is not None:
        return GroupAccessError(
            f"{who} are no member of {group.words} any more: {left.by.name} ({publisher_text(left.by.key)}) removed you on "
            f"{left.time}, in version {left.number} of its record. Its admins are {admins}"
        )
    return GroupAccessError(
        f"{who} are no member of {group.words}. Its admins are {admins}: send one of them your key, as `kacas identity show` "
        "prints it. Is it the right identity?"
    )


def keys_of(group: str, environment: Mapping[str, str] | None = None) -> GroupKeys:
    """See kacas_remote.groups.keys_of."""
    env = environment_of(environment)
    found = joined_group(group, environment)
    # Another identity, or another file, is another member; what is secret is not part of it.
    who = (found, groups_path(environment), identity_file(environment), env.get("KACAS_CLIENT_ID"))
    key = (*who, state_directory(environment))
    if key not in _opened and len(_opened) >= _MOST_OPENED:
        _opened.clear()
    return _opened.setdefault(key, GroupKeys(found, environment))
