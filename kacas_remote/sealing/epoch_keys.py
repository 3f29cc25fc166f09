"""Epoch keys: everything that is sealed for an access group is sealed under keys of one of its epochs.

An epoch begins when the group is made, and whenever somebody leaves it. Each has a secret, 32 random bytes; the keys for
different purposes are derived from it by BLAKE3, so that none tells anything of another.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from blake3 import blake3

SCHEME = "kacas-group-1"
"""Named in the group's record: these keys, and what is sealed under them."""
GROUP_ID_SIZE = 16
SECRET_SIZE = 32
MAX_EPOCHS = 4096
_CONTEXT = "kacas 2026-11 access group %s v1"  # fixed for ever
_EPOCH = struct.Struct("<I")


@dataclass(frozen=True)
class EpochKeys:
    """group_id: 16 bytes. epoch: 1 for the first. secret: 32 bytes. All keys have 32 bytes."""

    group_id: bytes
    epoch: int
    secret: bytes = field(repr=False)

    def _derived(self, purpose: str) -> bytes:
        material = self.secret + self.group_id + _EPOCH.pack(self.epoch)
        return blake3(material, derive_key_context=_CONTEXT % purpose).digest()

    @cached_property
    def uri(self) -> bytes:
        return self._derived("uri")

    @cached_property
    def uri_nonce(self) -> bytes:
        return self._derived("uri nonce")

    @cached_property
    def directory(self) -> bytes:
        """Of the names of directories in a bucket, which need not be read back."""
        return self._derived("directory")

    @cached_property
    def name(self) -> bytes:
        return self._derived("name")

    @cached_property
    def name_nonce(self) -> bytes:
        return self._derived("name nonce")

    @cached_property
    def content(self) -> bytes:
        return self._derived("content")

    @cached_property
    def ring(self) -> bytes:
        """Under which the secrets of the epochs before this one are kept in the group's record."""
        return self._derived("ring")

    @cached_property
    def commitment(self) -> bytes:
        """May be public: says which secret it is, and nothing about it."""
        return self._derived("commitment")

    def __getstate__(self) -> None:
        raise TypeError("keys of an access group are not pickled: each process reads them for itself")


class Keys(Protocol):
    """The keys that a member has. Thread-safe, safe after fork; pickled without the keys."""

    @property
    def group_id(self) -> bytes: ...

    @property
    def group_name(self) -> str:
        """As this user calls the group; for messages."""
        ...

    def epochs(self) -> Sequence[EpochKeys]:
        """All that are known, the newest first: what was sealed is opened with one of these; what is sealed now, with the first.

        The group's record is looked at again when that was last done a minute ago. Raises GroupAccessError for who is no
        member (any more), GroupNotFoundError, DamagedGroupError.
        """
        ...

    def refresh(self) -> bool:
        """Look at the record now; True if there are epochs that were not known.

        Raises as `epochs`, and if the record cannot be looked at, as its place is away: StoreError, InvalidSettingError.
        """
        ...
