"""People for tests: each has a home, an identity and groups of their own, in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from kacas.disk.identity_file import KeyPair, keep_key_pair
from kacas.settings import identity_file
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from kacas_remote.groups.edits import NewMember
from kacas_remote.groups.group import Group
from kacas_remote.groups.keys import GroupKeys
from kacas_remote.groups.record import group_text
from kacas_remote.groups.verbs import create_group, join_group, open_group
from kacas_remote.signing import PrivateKey, new_private_key, public_key


class Person:
    """name: also what they are called in groups. home: is made."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.home = home
        home.mkdir(parents=True)
        keep_key_pair(KeyPair(self.public.hex(), bytes(self.key).hex()), identity_file(self.environment))

    @cached_property
    def key(self) -> PrivateKey:
        return new_private_key()

    @property
    def public(self) -> bytes:
        return public_key(self.key)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "KACAS_DIR": str(self.home / "store"),
            "KACAS_OWNER": self.name,
        }

    def member(self, *, admin: bool = False) -> NewMember:
        return NewMember(self.public, self.name, admin)

    def keys(self, group: str) -> GroupKeys:
        """As a process that has just begun would have them."""
        return GroupKeys(open_group(group, self.environment).joined, self.environment)

    def seen_file(self, group_id: bytes) -> Path:
        return self.home / "state" / "kacas" / "groups" / group_id.hex()


MakePerson = Callable[[str], Person]


def new_group(who: Person, place: str, name: str = "lab") -> Group:
    know_bucket(who, place)
    return create_group(name, at=place, environment=who.environment)


def joined(who: Person, group: Group, place: str, name: str = "lab") -> Group:
    know_bucket(who, place)
    return join_group(name, group_text(group.joined.group_id), at=place, environment=who.environment)[0]


def know_bucket(who: Person, place: str) -> None:
    if place == "lab-bucket":
        bucket = who.home.parent.parent / "place"
        remotes = Path(who.environment["XDG_CONFIG_HOME"]) / "kacas" / "remotes.toml"
        if not remotes.exists():
            change_remotes(lambda there: [RemoteConfiguration("lab-bucket", f"file://{bucket}")], remotes)
