"""Identity: the Ed25519 pair with which a user signs, and for which the secrets of access groups are sealed.

KACAS_CLIENT_ID, KACAS_PRIVATE_KEY    64 hex digits each, both or none: for clusters and CI. They come first
~/.config/kacas/identity.toml         0600; `kacas identity create` makes it

A person is known by the public key, written ed25519:<64 hex>.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kacas.disk.identity_file import KeyPair, keep_key_pair, read_identity
from kacas.errors import InvalidSettingError
from kacas.settings import environment_of, identity_file
from kacas_remote.signing import PrivateKey, new_private_key, public_key, publisher_text

PUBLIC_VARIABLE = "KACAS_CLIENT_ID"
PRIVATE_VARIABLE = "KACAS_PRIVATE_KEY"
_HEX_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Identity:
    """source: "environment", or the path of the file."""

    key: PrivateKey
    source: str

    @property
    def where(self) -> str:
        """For messages."""
        return f"{PUBLIC_VARIABLE} and {PRIVATE_VARIABLE}" if self.source == "environment" else self.source

    @property
    def public(self) -> bytes:
        """32 bytes."""
        return public_key(self.key)


def find(environment: Mapping[str, str] | None = None) -> Identity | None:
    """The user's identity, None if there is none yet. Raises InvalidSettingError, which quotes no private key."""
    given = _of_environment(environment)
    if given is not None:
        return Identity(whole(given, f"{PUBLIC_VARIABLE} and {PRIVATE_VARIABLE}"), "environment")
    path = identity_file(environment)
    if not os.path.lexists(path):
        return None
    return Identity(whole(read_identity(path), str(path)), str(path))


def own(environment: Mapping[str, str] | None = None) -> PrivateKey:
    """The user's private key. Raises InvalidSettingError if there is none."""
    return required(environment).key


def required(environment: Mapping[str, str] | None = None) -> Identity:
    """The user's identity. Raises InvalidSettingError if there is none, which says how to make one."""
    found = find(environment)
    if found is None:
        raise InvalidSettingError(
            f"you have no identity, {identity_file(environment)}; make one: kacas identity create, or bring the one of "
            "another machine: kacas identity import FILE"
        )
    return found


def own_public(environment: Mapping[str, str] | None = None) -> bytes | None:
    """The user's public key, 32 bytes; None if there is none yet. Raises InvalidSettingError."""
    found = find(environment)
    return None if found is None else found.public


def create(environment: Mapping[str, str] | None = None) -> Identity:
    """A new identity in the user's file. Raises InvalidSettingError if there is one: it is never replaced."""
    found = find(environment)
    if found is not None:
        raise InvalidSettingError(
            f"you have an identity, {publisher_text(found.public)}, from {found.where}: it is kept. Whoever knows you by it "
            "would not know you by another"
        )
    keep_key_pair(pair_of(new_private_key()), identity_file(environment))
    made = find(environment)
    assert made is not None
    return made


def own_or_new(environment: Mapping[str, str] | None = None) -> Identity:
    """The user's identity, which is made if there is none. Raises InvalidSettingError."""
    found = find(environment)
    if found is not None:
        return found
    path = identity_file(environment)
    try:
        keep_key_pair(pair_of(new_private_key()), path)
    except InvalidSettingError:
        if not path.exists():
            raise
        # another process made one meanwhile
    return Identity(whole(read_identity(path), str(path)), str(path))


def pair_of(key: PrivateKey) -> KeyPair:
    """As it is written."""
    return KeyPair(public_key(key).hex(), bytes(key).hex())


def whole(pair: KeyPair, where: str) -> PrivateKey:
    """The private key of a pair. where: for messages. Raises InvalidSettingError if its halves do not belong together."""
    key = PrivateKey(bytes.fromhex(pair.private))
    if public_key(key).hex() != pair.public:
        raise InvalidSettingError(f"the two keys in {where} do not belong together; correct it or move it away")
    return key


def _of_environment(environment: Mapping[str, str] | None) -> KeyPair | None:
    found = _read_environment(environment)
    if isinstance(found, str):
        raise InvalidSettingError(found)
    return found


def _read_environment(environment: Mapping[str, str] | None) -> KeyPair | str | None:
    """The pair, None if there is none, or what is wrong. Nothing is raised here: a traceback would carry the key about."""
    env = environment_of(environment)
    public, private = (env.get(name, "").strip().lower() for name in (PUBLIC_VARIABLE, PRIVATE_VARIABLE))
    public = public.removeprefix("ed25519:")
    if not public and not private:
        return None
    if not public or not private:
        there, missing = (PRIVATE_VARIABLE, PUBLIC_VARIABLE) if private else (PUBLIC_VARIABLE, PRIVATE_VARIABLE)
        return f"{there} is set but {missing} is not; set both, or none to use {identity_file(environment)}"
    for name, value in ((PUBLIC_VARIABLE, public), (PRIVATE_VARIABLE, private)):
        if not _HEX_KEY.fullmatch(value):
            return f"{name} must have 64 hex digits, it has {len(value)} characters; see: kacas identity export"
    return KeyPair(public, private)
