"""Keys of an access group for tests, without a group: a test adds epochs, and says which of them somebody knows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from kacas_remote.errors import GroupAccessError, RemoteUnavailableError
from kacas_remote.sealing.epoch_keys import EpochKeys

_EPOCHS: dict[str, int] = {}


class FixedKeys:
    """Keys. Those of one name are one group; its secrets follow from the name, so that every process has the same ones.

    known: epochs that are known; None for all that the group has, which are looked at again when `refresh` is called.
    refreshed: how often that was. is_away: whether the record cannot be looked at now.
    """

    def __init__(self, name: str, known: int | None = None) -> None:
        self._name, self._known = name, known
        self._seen = _EPOCHS.setdefault(name, 1)
        self.refreshed = 0
        self.is_away = False

    def __reduce__(self) -> tuple[type[FixedKeys], tuple[str, int | None]]:
        return FixedKeys, (self._name, self._known)

    @property
    def group_id(self) -> bytes:
        return hashlib.sha256(f"group {self._name}".encode()).digest()[:16]

    @property
    def group_name(self) -> str:
        return self._name

    def epochs(self) -> Sequence[EpochKeys]:
        newest = self._seen if self._known is None else self._known
        if not newest:
            raise GroupAccessError(f"you are no member of the group {self._name}")
        return [EpochKeys(self.group_id, epoch, _secret(self._name, epoch)) for epoch in range(newest, 0, -1)]

    def refresh(self) -> bool:
        self.refreshed += 1
        if self.is_away:
            raise RemoteUnavailableError(f"the record of {self._name} is away", path="memory://")
        before, self._seen = self._seen, _EPOCHS[self._name]
        return self._known is None and self._seen > before


def rotate(name: str) -> None:
    """A new epoch of the group begins; who has its keys already sees it at the next refresh."""
    _EPOCHS[name] = _EPOCHS.setdefault(name, 1) + 1


def _secret(name: str, epoch: int) -> bytes:
    return hashlib.sha256(f"secret {epoch} of {name}".encode()).digest()
