"""A group as this host knows it: its record is looked at where it is, and compared with what was seen before.

$XDG_STATE_HOME/kacas/groups/<id, 32 hex>    all versions that this host has seen, 0600, as in a file that is a group's place

An older record that somebody put back is noticed by all who saw the newer one. What was seen also does when the place is away.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from blake3 import blake3

from kacas.disk.durable import make_directory
from kacas.errors import InvalidSettingError, NewerFormatError, StoreError
from kacas.settings import Settings, state_directory
from kacas_remote.errors import DamagedGroupError, GroupNotFoundError
from kacas_remote.groups.chain import Chain, read_chain
from kacas_remote.groups.joined import JoinedGroup, open_place
from kacas_remote.groups.places import FilePlace, Place, highest
from kacas_remote.groups.record import NewerRecordError, RecordFormatError, Version, group_text

_ATTEMPTS, _PAUSE_S = 50, 0.05
_LOOK_FOR_S = 3.0
"""How long a bucket that is away is asked again, if what was seen will do: on a train, every command would wait for it."""
_AWAY = (StoreError, InvalidSettingError)
"""What it is when a place is not there, or does not let us. What is damaged there is another thing."""


class Group:
    """One group. Opening it asks nothing of its place. Thread-safe: it keeps nothing in memory."""

    def __init__(self, group: JoinedGroup, environment: Mapping[str, str] | None = None) -> None:
        self.joined = group
        self._environment = environment
        self._kept = FilePlace(state_directory(environment) / "groups" / group.group_id.hex())

    @property
    def words(self) -> str:
        """For messages."""
        return f"the group {self.joined.name} ({group_text(self.joined.group_id)})"

    def place(self, retry_for_s: float | None = None) -> Place:
        """Raises RemoteNotFoundError, InvalidSettingError, MissingPackageError."""
        return open_place(self.joined, Settings.from_environment(self._environment), retry_for_s)

    def look(self) -> tuple[Chain, bool]:
        """The record, and whether it is that of now: if its place is away, that which was seen before, with a warning.

        Raises DamagedGroupError, GroupNotFoundError, NewerFormatError, and StoreError's kinds if nothing was seen before.
        """
        kept = self.seen()
        try:
            return self._look_there(kept, self.place(None if kept is None else _LOOK_FOR_S)), True
        except _AWAY as exc:
            if kept is None:
                raise
            warnings.warn(
                f"the record of {self.words} cannot be looked at ({exc}). Version {kept.number} of {kept.newest.time} is "
                "used, which this host has seen; who was added or removed since is not known",
                RuntimeWarning,
                stacklevel=2,
            )
            return kept, False

    def look_there(self) -> Chain:
        """The record, as it is at its place now. Raises as `look`, also if the place is away."""
        return self._look_there(self.seen(), self.place())

    def _look_there(self, seen: Chain | None, place: Place) -> Chain:
        texts = place.read(seen.number if seen else 1)
        if seen:
            self._check_seen(seen, next(texts, None), place)
        found: list[bytes] = []
        chain = self._read(place.name, _noted(texts, found), seen)
        if chain is None:
            raise GroupNotFoundError(
                f"there is no record of {self.words} at {place.name}; is that its place? Whoever let you in can tell"
            )
        if found:
            self._keep(chain, found)
        return chain

    def seen(self) -> Chain | None:
        """What this host has seen; None if nothing. Raises DamagedGroupError, NewerFormatError, StoreError."""
        return self._read(self._kept.name, self._kept.read(1) if self._kept.is_there else iter(()), None)

    def change(self, edit: Callable[[Chain], Version]) -> Chain:
        """Add the version that `edit` makes of the record; again, if somebody else was faster.

        Raises as `look_there`, what `edit` raises, and ReadOnlyStoreError and the like if the place takes nothing.
        """
        for _ in range(_ATTEMPTS):
            chain = self.look_there()
            version = edit(chain)
            if self.place().create(version.number, version.text):
                return self.look_there()
            time.sleep(random.uniform(0, _PAUSE_S))
        raise StoreError(
            f"{self.words} could not be changed: others change it all the time at {self.place().name}; try again",
            path=self.place().name,
        )

    def create(self, first: Version) -> None:
        """Put the first version of a new group at its place. Raises as `change`."""
        place = self.place()
        if not place.create(1, first.text):
            raise InvalidSettingError(
                f"{place.name} holds the record of another group; name another place for {self.joined.name}"
            )
        self.look_there()

    def refill(self) -> Chain:
        """Put what this host has seen at the place, as far as it is not there: it is new, or an older record was put back.

        Raises as `change`.
        """
        place = self.place()
        if self.seen() is None:
            raise GroupNotFoundError(f"this host has seen nothing of the record of {self.words}")
        there = highest(place)
        for number, text in enumerate(self._kept.read(1), start=1):
            if number > there:
                place.create(number, text)
        return self.look_there()

    def _read(self, where: str, texts: Iterator[bytes], so_far: Chain | None) -> Chain | None:
        try:
            return read_chain(self.joined.group_id, texts, so_far)
        except NewerRecordError as exc:
            raise NewerFormatError(
                f"version {exc.number} of the record of {self.words} at {where}: {exc}; upgrade kacas",
                needed=exc.needed,
            ) from exc
        except RecordFormatError as exc:
            raise DamagedGroupError(
                f"version {exc.number} of the record of {self.words} at {where} is not what an admin signed: {exc}. It was not "
                f"used, nor what follows it. {self._way_out(where)}"
            ) from exc

    def _way_out(self, where: str) -> str:
        if where == self._kept.name:
            return f"Move {where} away: it is made anew from the record, and what was seen before is forgotten"
        return "Is that the place of this group? If so, somebody altered it: restore it from a backup, or ask an admin"

    def _check_seen(self, seen: Chain, text: bytes | None, place: Place) -> None:
        """Raises if what is at the place now is not what this host saw there."""
        if text is None:
            number = highest(place)
            if number == 0:
                raise GroupNotFoundError(f"the record of {self.words} is gone from {place.name}")
            self._raise_rolled_back(seen, place, f"was rolled back: version {number} is the newest there")
        if blake3(text).digest() != seen.digests[-1]:
            self._raise_rolled_back(seen, place, f"was rewritten: another version {seen.number} is there")

    def _raise_rolled_back(self, seen: Chain, place: Place, what: str) -> NoReturn:
        raise DamagedGroupError(
            f"the record of {self.words} at {place.name} {what}, and this host has seen version {seen.number} of "
            f"{seen.newest.time}, by {seen.changes[-1].by.name}. Nothing of it was used. Ask the admins whether somebody put an "
            f"older copy back. All that was seen here is in {self._kept.name}; to put it there again: kacas group move "
            f"{self.joined.name} --at {self.joined.place}"
        )

    def _keep(self, chain: Chain, found: list[bytes]) -> None:
        try:
            make_directory(Path(self._kept.name).parent, 0o700, sync=True)
            if not self._kept.create_many(chain.number - len(found) + 1, found):
                kept = self.seen()  # another process of this user was faster
                if kept is not None and not _agree(kept, chain):
                    raise DamagedGroupError(
                        f"two records of {self.words} were seen by this host, which differ; look at it again, and ask the admins"
                    )
        except (InvalidSettingError, OSError) as exc:
            if isinstance(exc, DamagedGroupError):
                raise
            warnings.warn(
                f"what was seen of {self.words} cannot be noted ({exc}): an older record that is put back will not be noticed",
                RuntimeWarning,
                stacklevel=2,
            )


def _agree(one: Chain, other: Chain) -> bool:
    return all(a == b for a, b in zip(one.digests, other.digests, strict=False))


def _noted(texts: Iterator[bytes], found: list[bytes]) -> Iterator[bytes]:
    for text in texts:
        found.append(text)
        yield text
