"""A chain: the versions of one group's record, each made by an admin of the one before it. Pure.

What is kept of a version that has a successor: its digest, the commitment of its epoch, and what was changed by whom.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from kacas_remote.errors import DamagedGroupError
from kacas_remote.groups.record import NO_DIGEST, RecordFormatError, Version, decode_version, group_id_of, group_text
from kacas_remote.sealing.epoch_keys import EpochKeys
from kacas_remote.sealing.wrapping import UnopenedError, open_ring, unwrap
from kacas_remote.signing import PrivateKey, public_key, publisher_text


class Person(NamedTuple):
    """key: Ed25519 public key. name: what the admins call them."""

    key: bytes
    name: str


@dataclass(frozen=True)
class Change:
    """What one version changed. by: its signer, an admin of the version before. began_epoch: whether there is a new secret."""

    number: int
    time: str
    by: Person
    added: tuple[Person, ...]
    removed: tuple[Person, ...]
    made_admin: tuple[Person, ...]
    admin_no_more: tuple[Person, ...]
    epoch: int
    began_epoch: bool


@dataclass(frozen=True)
class Chain:
    """digests: of all versions, the first one first. commitments: of all epochs. changes: one for each version."""

    newest: Version
    digests: tuple[bytes, ...]
    commitments: tuple[bytes, ...]
    changes: tuple[Change, ...]

    @property
    def group_id(self) -> bytes:
        return self.newest.group_id

    @property
    def name(self) -> str:
        return self.newest.name

    @property
    def number(self) -> int:
        """Of the newest version; it has so many."""
        return self.newest.number

    def departure(self, key: bytes) -> Change | None:
        """The change by which somebody who is no member was removed; None for who never was one."""
        return next((one for one in reversed(self.changes) if key in [person.key for person in one.removed]), None)


def read_chain(group_id: bytes, texts: Iterable[bytes], so_far: Chain | None = None) -> Chain | None:
    """The chain with these versions behind it; None if there are none at all. so_far: the versions before them.

    Raises RecordFormatError, whose `number` is that of the version that cannot stand there, and NewerRecordError.
    """
    chain = so_far
    for text in texts:
        try:
            version = decode_version(text)
            if chain is None:
                chain = _first(group_id, version)
            else:
                check_successor(chain.newest, version)
                chain = _extended(chain, version)
        except RecordFormatError as exc:
            exc.number = 1 if chain is None else chain.number + 1
            raise
    return chain


def _first(group_id: bytes, version: Version) -> Chain:
    if version.number != 1 or version.previous != NO_DIGEST or version.epoch != 1:
        raise RecordFormatError("it is not a first version")
    if version.group_id != group_id or group_id_of(version.signer, version.salt) != group_id:
        raise RecordFormatError("it is of another group, or was not made by who founded this one")
    if not version.is_admin(version.signer):
        raise RecordFormatError("its signer is no admin in it")
    founder = _person(version, version.signer)
    added = tuple(Person(one.key, one.name) for one in version.members)
    admins = tuple(Person(one.key, one.name) for one in version.admins)
    change = Change(1, version.time, founder, added, (), admins, (), 1, True)
    return Chain(version, (version.digest,), (version.commitment,), (change,))


def check_successor(before: Version, after: Version) -> None:
    """Raises RecordFormatError, which says why `after` cannot be the version behind `before`."""
    if (after.group_id, after.salt, after.name) != (before.group_id, before.salt, before.name):
        raise RecordFormatError("it is of another group")
    if after.number != before.number + 1 or after.previous != before.digest:
        raise RecordFormatError("it does not follow the version before it")
    if not before.is_admin(after.signer):
        raise RecordFormatError("its signer was no admin")
    if after.member(after.signer) is None:
        # Who makes the secret of a new epoch knows it: nobody can take themselves out.
        raise RecordFormatError("its signer is no member in it")
    if after.epoch == before.epoch:
        if (after.commitment, after.ring) != (before.commitment, before.ring):
            raise RecordFormatError("its secrets are others, and its epoch is not")
        boxes = {one.key: one.box for one in after.members}
        for one in before.members:
            if one.key not in boxes:
                raise RecordFormatError("a member was removed, and no new epoch began")
            if boxes[one.key] != one.box:
                raise RecordFormatError("the box of a member is another, and its epoch is not")
    elif after.epoch != before.epoch + 1 or after.commitment == before.commitment:
        raise RecordFormatError("its epoch is not the next one")


def _extended(chain: Chain, version: Version) -> Chain:
    before = chain.newest
    there = {one.key: one for one in before.members}
    now = {one.key: one for one in version.members}
    change = Change(
        version.number,
        version.time,
        _person(before, version.signer),
        added=tuple(Person(key, one.name) for key, one in now.items() if key not in there),
        removed=tuple(Person(key, one.name) for key, one in there.items() if key not in now),
        made_admin=tuple(
            Person(key, one.name) for key, one in now.items() if one.admin and not (key in there and there[key].admin)
        ),
        admin_no_more=tuple(
            Person(key, one.name) for key, one in there.items() if one.admin and key in now and not now[key].admin
        ),
        epoch=version.epoch,
        began_epoch=version.epoch > before.epoch,
    )
    commitments = (*chain.commitments, version.commitment) if change.began_epoch else chain.commitments
    return replace(
        chain,
        newest=version,
        digests=(*chain.digests, version.digest),
        commitments=commitments,
        changes=(*chain.changes, change),
    )


def _person(version: Version, key: bytes) -> Person:
    member = version.member(key)
    return Person(key, member.name if member else "")


def open_epochs(chain: Chain, own: PrivateKey) -> tuple[EpochKeys, ...]:
    """The keys of all epochs, the newest first, for a member of the newest version.

    Raises DamagedGroupError if what the record holds for this member is not what was announced.
    """
    try:
        return _opened(chain, own)
    except UnopenedError as exc:
        version = chain.newest
        raise DamagedGroupError(
            f"version {version.number} of the record of the group {chain.name} ({group_text(chain.group_id)}) gives you no keys: "
            f"{exc}. The version was signed by {chain.changes[-1].by.name} ({publisher_text(version.signer)}): ask an admin to "
            "remove you and to add you again"
        ) from exc


def _opened(chain: Chain, own: PrivateKey) -> tuple[EpochKeys, ...]:
    version = chain.newest
    member = version.member(public_key(own))
    if member is None:
        raise UnopenedError("there is no box for this key")
    newest = unwrap(member.box, own, version.group_id, version.epoch)
    _check(newest, chain)
    older = open_ring(newest, version.ring)
    for keys in older:
        _check(keys, chain)
    return (newest, *reversed(older))


def _check(keys: EpochKeys, chain: Chain) -> None:
    if not hmac.compare_digest(keys.commitment, chain.commitments[keys.epoch - 1]):
        raise UnopenedError(f"the secret of epoch {keys.epoch} is not the one that was announced when it began")
