"""An access group for tests: this user is its admin; others are who the environment says."""

from __future__ import annotations

from pathlib import Path

import pytest

from kacas_remote import identity
from kacas_remote.groups.edits import NewMember
from kacas_remote.groups.verbs import add_members, create_group, open_group, remove_members
from kacas_remote.signing import PrivateKey, public_key, publisher_text


def make_group(directory: Path, name: str = "lab") -> str:
    """Its id, ag_<32 hex>. The record is a file in the directory; the identity is made, if there is none."""
    identity.own_or_new()
    group = create_group(name, at=f"{directory}/{name}.group")
    return f"ag_{group.joined.group_id.hex()}"


def let_in(key: PrivateKey, called: str, name: str = "lab") -> None:
    add_members(open_group(name), [NewMember(public_key(key), called)])


def keep_out(called: str, name: str = "lab") -> None:
    remove_members(open_group(name), [called])


def become(key: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else, as on a cluster. `monkeypatch.undo` or `become_myself` ends it."""
    monkeypatch.setenv("KACAS_CLIENT_ID", publisher_text(public_key(key)))
    monkeypatch.setenv("KACAS_PRIVATE_KEY", bytes(key).hex())


def become_myself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KACAS_CLIENT_ID", raising=False)
    monkeypatch.delenv("KACAS_PRIVATE_KEY", raising=False)
