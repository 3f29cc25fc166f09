"""Feeds: logs of messages that many append to and many follow, kept in the store as sequences of batches.

All messages of a feed have one order. Each batch has the digest of the one before it and the number of its first message: what is
altered or removed is noticed, and a position is found without reading all that is before it.
"""

from __future__ import annotations

import operator
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from kacas.disk.records import BEGINNING, Mark, Record, RecordKind, Sequence, Sequences
from kacas.errors import FeedNotFoundError
from kacas.model.feed import (
    BatchFormatError,
    Message,
    MessageBatch,
    decode_batch,
    decode_message,
    encode_message,
    feed_uri,
    into_batches,
    is_feed_id,
    parse_feed_uri,
)

_TOP = "feeds"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 1.0
_LISTING_SHARE, _LONGEST_FOR_LISTING_S = 10, 10.0  # of the time spent waiting, listing takes a tenth at most
_ENOUGH_SIZE = 8 << 20  # bytes of messages that are returned at once, but for those of one more batch
_FIRST_RECORD = 1
_SWEEP_EVERY = 64


@dataclass(frozen=True)
class _Newest:
    """mark: of the newest batch that was read or made here. stop: how many messages the feed has with it."""

    mark: Mark
    stop: int


@dataclass(frozen=True)
class _Cursor:
    """position: of the next message. number: of the batch to read next, None if that must be found.

    before: digest and stop of the batch before that, if it was read.
    """

    position: int
    number: int | None = None
    before: tuple[bytes, int] | None = None


class Feed:
    """One feed, and a place in it. Appending is thread-safe; a place is for one thread."""

    def __init__(self, sequence: Sequence, uri: str, owner: str) -> None:
        self.uri = uri
        self._sequence = sequence
        self._owner = owner
        self._cursor = _Cursor(0)
        self._newest: _Newest | None = None

    def __repr__(self) -> str:
        return f"<feed {self.uri} at {self.position}>"

    def append_message(self, message: Message) -> int:
        """Append one message, a JSON object of at most 1 MiB; returns its position. Raises as `append_messages`."""
        return self.append_messages([message])

    def append_messages(self, messages: Iterable[Message]) -> int:
        """Append messages, which follow each other; returns the position of the first. Durable when this returns.

        Up to 10,000 messages and 4 MiB are one batch: all or none of it is there. Of more, others' may come between.
        Raises UnsupportedDataError, before anything is appended; DamagedRecordError, ReadOnlyStoreError, StoreError.
        """
        first: int | None = None
        for group in list(into_batches([encode_message(message) for message in messages], self._owner)):
            at = self._append(group)
            first = at if first is None else first
        return self.message_count() if first is None else first

    def message_count(self) -> int:
        """How many messages the feed has now."""
        return self._look().stop

    @property
    def position(self) -> int:
        """The number of the message that is next, from 0: so many are before it."""
        return self._cursor.position

    def set_position(self, position: int) -> None:
        """Go to a message by its number; one that is still to come is waited for.

        Raises ValueError for less than 0, TypeError for what is no whole number.
        """
        position = operator.index(position)
        if position < 0:
            raise ValueError(f"a position is 0 or more, not {position}")
        if position != self._cursor.position:
            self._cursor = _Cursor(position)

    def get_next_messages(
        self, *, timeout_s: float = 0.0, pause: Callable[[float], object] = time.sleep
    ) -> list[Message]:
        """The messages from the position on, some MiB of them at most; the position moves behind them.

        If there are none, it waits for some, for so many seconds, and then returns []. Raises DamagedRecordError if a batch was
        altered or removed, FeedNotFoundError, NewerFormatError, StoreError, ValueError for a negative time. pause: waits for so
        many seconds between two looks; what it raises ends the wait.
        """
        if not timeout_s >= 0:
            raise ValueError(f"the time to wait is 0 s or more, not {timeout_s}")
        end = time.monotonic() + timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            begun = time.monotonic()
            messages = self._read_some()
            now = time.monotonic()
            if messages or now >= end:
                return messages
            # Many names take long to list, and are not listed so often.
            for_listing_s = min(_LISTING_SHARE * (now - begun), _LONGEST_FOR_LISTING_S)
            pause(min(max(pause_s, for_listing_s), end - now))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def messages(self, start: int = 0) -> Iterator[Message]:
        """All messages there are, from a position on; the place of the feed stays. Raises as `get_next_messages`."""
        reader = Feed(self._sequence, self.uri, self._owner)
        reader.set_position(start)
        while some := reader.get_next_messages():
            yield from some

    def _append(self, group: tuple[bytes, ...]) -> int:
        for attempt in self._sequence.attempts():
            newest = self._guess() if attempt == 0 else self._look()
            batch = MessageBatch(newest.stop, self._owner, group)
            record = self._sequence.create(newest.mark, batch.encode())
            if record is not None:
                self._newest = _Newest(record.mark, batch.stop)
                if record.number % _SWEEP_EVERY == 0:
                    self._sequence.prune(record.number, record)  # only what killed writers left
                return batch.first
        raise AssertionError("attempts end by raising")

    def _guess(self) -> _Newest:
        """What was the newest, without a listing: if it is not any more, the next number is taken."""
        known = self._newest
        return known if known is not None and self._sequence.is_there(known.mark.number) else self._look()

    def _look(self) -> _Newest:
        known = self._newest
        number = self._highest()
        if known is None or known.mark.number != number:
            record, batch = self._read(number)
            if known is not None and number == known.mark.number + 1:
                self._check_follows(record, batch, (known.mark.digest, known.stop))
            known = self._newest = _Newest(record.mark, batch.stop)
        return known

    def _highest(self) -> int:
        seen = max(self._newest.mark.number if self._newest else 0, (self._cursor.number or 1) - 1)
        number = self._sequence.highest_of_all(seen)
        if not number:
            raise FeedNotFoundError(f"there is no feed {self.uri} in this store", uri=self.uri)
        return number

    def _read(self, number: int) -> tuple[Record, MessageBatch]:
        record = self._sequence.read(number)
        if record is None:
            raise self._sequence.damaged(number, "a listing shows it, but it cannot be opened")
        try:
            batch = decode_batch(record.body)
        except BatchFormatError as exc:
            raise self._sequence.damaged(number, str(exc)) from exc
        if number == _FIRST_RECORD:
            self._check_follows(record, batch, (BEGINNING.digest, 0))
        return record, batch

    def _check_follows(self, record: Record, batch: MessageBatch, before: tuple[bytes, int]) -> None:
        digest, stop = before
        if record.previous != digest:
            raise self._sequence.damaged(
                max(record.number - 1, _FIRST_RECORD),
                f"batch {record.number} does not follow what was read as the one before",
            )
        if batch.first != stop:
            raise self._sequence.damaged(record.number, f"its first message is {batch.first}, not {stop}")

    def _read_some(self) -> list[Message]:
        newest = self._highest()
        cursor = self._cursor
        number = self._batch_of(cursor.position, newest) if cursor.number is None else cursor.number
        before, position = cursor.before, cursor.position
        messages: list[Message] = []
        size = 0
        while number <= newest and size < _ENOUGH_SIZE:
            record, batch = self._read(number)
            if before is not None:
                self._check_follows(record, batch, before)
            fresh = batch.messages[max(0, position - batch.first) :]
            try:
                messages += map(decode_message, fresh)
            except BatchFormatError as exc:
                raise self._sequence.damaged(number, str(exc)) from exc
            size += sum(map(len, fresh))
            number, before, position = number + 1, (record.digest, batch.stop), max(position, batch.stop)
        self._cursor = _Cursor(position, number, before)
        return messages

    def _batch_of(self, position: int, newest: int) -> int:
        """The last batch that does not begin behind the position."""
        low, high = _FIRST_RECORD, newest
        while low < high:
            middle = (low + high + 1) // 2
            if self._read(middle)[1].first <= position:
                low = middle
            else:
                high = middle - 1
        return low


class Feeds:
    """All feeds of one store. Thread-safe."""

    def __init__(self, sequences: Sequences, owner: str) -> None:
        self._sequences = sequences
        self._owner = owner

    def create(self) -> str:
        """Make a feed without messages. Raises StoreError."""
        feed_id = secrets.token_hex(16)
        # A batch without messages: so a feed that is empty differs from one that is not there.
        empty = MessageBatch(0, self._owner, ())
        made = self._sequence(feed_id).create(BEGINNING, empty.encode())
        assert made is not None, "random ids are never the same"
        return feed_uri(feed_id)

    def load(self, uri: str) -> Feed:
        """A feed at its beginning. Raises InvalidUriError, FeedNotFoundError, StoreError."""
        feed = Feed(self._sequence(parse_feed_uri(uri)), uri, self._owner)
        feed.message_count()
        return feed

    def all(self) -> Iterator[tuple[str, Sequence]]:
        """The URI of every feed, with its sequence."""
        for name in sorted(self._sequences.names(_TOP)):
            if is_feed_id(name):
                yield feed_uri(name), self._sequence(name)

    def _sequence(self, feed_id: str) -> Sequence:
        return self._sequences.sequence(f"{_TOP}/{feed_id}", RecordKind.FEED)
