"""Encrypted URIs, opened and made with the keys that this user has as a member of access groups."""

from __future__ import annotations

from collections.abc import Sequence

from kacas.errors import InvalidUriError
from kacas.model.uri import DirectoryUri, Uri, shown
from kacas_remote.groups import keys_of
from kacas_remote.sealing.epoch_keys import Keys
from kacas_remote.sealing.sealed_uri import SealedUri, opened_uri, parse_sealed_uri, sealed_uri


def open_uris(texts: Sequence[str]) -> list[Uri | DirectoryUri]:
    """What encrypted URIs name. Raises InvalidUriError for one that is none or was altered, and as `keys_of` and `Keys.epochs`."""
    several = list(map(parse_sealed_uri, texts))
    groups = {group_id: Opening(group_id) for group_id in dict.fromkeys(one.group_id for one in several)}
    return [groups[one.group_id].open(one) for one in several]


def encrypt_uris(uris: Sequence[Uri | DirectoryUri], access_group: str, *, hide_label: bool) -> list[str]:
    """Encrypted in the newest epoch. Raises InvalidUriError for one that is too long, and as `keys_of` and `Keys.epochs`."""
    newest = keys_of(access_group).epochs()[0]
    return [sealed_uri(uri, newest, hide_label=hide_label) for uri in uris]


class Opening:
    """Opens URIs of one group. Its record is looked at once more, at most, for one that no known epoch opens."""

    def __init__(self, group_id: bytes) -> None:
        self._keys: Keys = keys_of(f"ag_{group_id.hex()}")
        self._epochs = self._keys.epochs()
        self._is_fresh = False

    def open(self, sealed: SealedUri) -> Uri | DirectoryUri:
        """Raises InvalidUriError."""
        found = opened_uri(sealed, self._epochs)
        if found is None and not self._is_fresh:
            self._is_fresh = True
            if self._keys.refresh():
                self._epochs = self._keys.epochs()
                found = opened_uri(sealed, self._epochs)
        if found is None:
            raise InvalidUriError(
                f"{shown(sealed.text)} cannot be opened with the keys of the group {self._keys.group_name}: it was altered, or "
                "a part of it is missing. Copy it again from where you have it",
                uri=sealed.text,
            )
        return found
