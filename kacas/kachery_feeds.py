"""A feed as kachery-cloud had it: appending returns nothing, and seconds to wait are `timeout_sec`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kacas import feeds


class Feed:
    """A log of JSON objects; `uri` is what others load it by."""

    def __init__(self, uri: str, feed: feeds.Feed) -> None:
        self.uri = uri
        self._feed = feed

    @property
    def feed_id(self) -> str:
        return self.uri.partition("://")[2]

    @property
    def current_message_number(self) -> int:
        """The position of the next message."""
        return self._feed.position

    def append_message(self, message: dict[str, Any]) -> None:
        self._feed.append_message(message)

    def append_messages(self, messages: Sequence[dict[str, Any]]) -> None:
        self._feed.append_messages(messages)

    def set_position(self, position: int) -> None:
        self._feed.set_position(position)

    def get_next_messages(self, *, timeout_sec: float = 0) -> list[dict[str, Any]]:
        """Those behind the position, which moves behind them; [] if none came within that time."""
        return self._feed.get_next_messages(timeout_s=timeout_sec)
