"""The verbs of a store for what changes: mutables and feeds, in the records that its tiers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeVar, overload

from kacas.disk.records import Sequences
from kacas.errors import MutableNotFoundError
from kacas.feeds import Feed, Feeds
from kacas.model.description import MutableChange
from kacas.mutables import ANYTHING, Anything, Mutables
from kacas.settings import Settings

T = TypeVar("T")


class ChangingVerbs(ABC):
    """What a Store inherits; `kacas.changing` tells what each verb does."""

    _settings: Settings

    @property
    def settings(self) -> Settings:
        """What it was opened with: the user's, on this host."""
        return self._settings

    @property
    @abstractmethod
    def _open_sequences(self) -> Sequences:
        """Where the records are. Raises StoreClosedError, StoreError."""

    @property
    def _mutables(self) -> Mutables:
        return Mutables(self._open_sequences, self._settings.owner)

    @property
    def _feeds(self) -> Feeds:
        return Feeds(self._open_sequences, self._settings.owner)

    def set_mutable(self, key: str, value: str, *, expect: str | Anything | None = ANYTHING) -> None:
        self._mutables.set(key, value, expect)

    @overload
    def get_mutable(self, key: str) -> str: ...
    @overload
    def get_mutable(self, key: str, *, default: T) -> str | T: ...
    def get_mutable(self, key: str, *, default: T | Anything = ANYTHING) -> str | T:
        try:
            return self._mutables.get(key)
        except MutableNotFoundError:
            if default is ANYTHING:
                raise
            return default

    def delete_mutable(self, key: str, *, expect: str | Anything | None = ANYTHING) -> bool:
        return self._mutables.delete(key, expect)

    def delete_mutable_folder(self, folder: str) -> int:
        return self._mutables.delete_folder(folder)

    def list_mutables(self, folder: str = "") -> list[str]:
        return self._mutables.list(folder)

    def mutable_history(self, key: str) -> Iterator[MutableChange]:
        return self._mutables.history(key)

    def create_feed(self) -> str:
        return self._feeds.create()

    def load_feed(self, uri: str) -> Feed:
        return self._feeds.load(uri)
