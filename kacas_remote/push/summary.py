"""What a push did, and what it tells while it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass
class PushSummary:
    """remote: its name. contents: that were looked at, members of directories included; contents_there: whose recipe or
    entry was there, so that nothing had to be looked for. Sizes are bytes: raw_size of all contents as they are read, chunk_size
    of what had to be sent of them, as it is encoded, sent_size of all that was sent. chunks: payloads, those of trees included.
    dry_run: nothing was sent, and the figures say what would be.
    """

    remote: str
    dry_run: bool = False
    contents: int = 0
    contents_there: int = 0
    failed: int = 0
    raw_size: int = 0
    raw_size_there: int = 0
    chunk_size: int = 0
    sent_size: int = 0
    chunks_sent: int = 0
    chunks_there: int = 0
    packs: int = 0
    plain_objects: int = 0
    recipes: int = 0
    requests: int = 0
    seconds: float = 0.0

    @property
    def deduplicated_size(self) -> int:
        """Raw bytes that were in the bucket already, or occur more than once in what was pushed."""
        return self.raw_size_there


class Watcher(Protocol):
    """Is told how a push goes on, from the thread that called it. It may raise, to end the push."""

    def expect(self, total: int | None) -> None:
        """Raw bytes of all contents together."""
        ...

    def begin(self, name: str) -> None:
        """The next content."""
        ...

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """So many raw bytes of the content are done."""
        ...

    def finished(self, size: int) -> None:
        """The content, or several small ones, of so many raw bytes are done."""
        ...


class Silent:
    """A watcher that nobody looks at."""

    def expect(self, total: int | None) -> None:
        """See Watcher."""

    def begin(self, name: str) -> None:
        """See Watcher."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """See Watcher."""

    def finished(self, size: int) -> None:
        """See Watcher."""
