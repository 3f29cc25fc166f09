"""Feeds: their URIs, and what a batch of messages is in a record. Pure."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kacas.errors import InvalidUriError, UnsupportedDataError
from kacas.model.record import MAX_BODY_SIZE

SCHEME = "kachery-feed://"
MAX_MESSAGE_SIZE = 1 << 20  # bytes of JSON
MAX_BATCH_MESSAGES = 10_000
MAX_DEPTH = 200  # of objects and arrays in each other: every reader's parser goes so deep
MAX_OWNER_SIZE = 256
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_FRONT = struct.Struct("<QIHxx")  # first message, number of messages, owner size
_SIZE = struct.Struct("<I")

Message = dict[str, Any]


class BatchFormatError(ValueError):
    """A record's body that is no batch of messages."""


@dataclass(frozen=True)
class MessageBatch:
    """first: how many messages the feed has before this batch. owner: who appended it. messages: each as JSON."""

    first: int
    owner: str
    messages: tuple[bytes, ...]

    @property
    def stop(self) -> int:
        return self.first + len(self.messages)

    def encode(self) -> bytes:
        owner = self.owner.encode("utf-8", "surrogateescape")
        sizes = b"".join(_SIZE.pack(len(message)) for message in self.messages)
        return b"".join((_FRONT.pack(self.first, len(self.messages), len(owner)), owner, sizes, *self.messages))


def decode_batch(body: bytes) -> MessageBatch:
    """The inverse of `encode`; the messages are not parsed. Raises BatchFormatError."""
    if len(body) < _FRONT.size:
        raise BatchFormatError("it is too short for a batch of messages")
    first, count, owner_size = _FRONT.unpack_from(body)
    at = _FRONT.size + owner_size
    end = at + count * _SIZE.size
    if count > MAX_BATCH_MESSAGES or owner_size > MAX_OWNER_SIZE or first + count >= 1 << 63 or end > len(body):
        raise BatchFormatError("it is no batch of messages")
    messages = []
    for (size,) in _SIZE.iter_unpack(body[at:end]):
        messages.append(body[end : end + size])
        end += size
    if end != len(body) or any(len(message) > MAX_MESSAGE_SIZE for message in messages):
        raise BatchFormatError("its messages have other sizes than it says")
    owner = body[_FRONT.size : at].decode("utf-8", "surrogateescape")
    return MessageBatch(first, owner, tuple(messages))


def encode_message(message: object) -> bytes:
    """A message as JSON. Raises UnsupportedDataError."""
    if not isinstance(message, dict):
        raise UnsupportedDataError(f"a message is a JSON object (dict), not {type(message).__name__}")
    try:
        data = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (ValueError, TypeError, RecursionError) as exc:  # UnicodeEncodeError is a ValueError
        raise UnsupportedDataError(f"the message cannot be written as JSON: {exc}") from exc
    if len(data) > MAX_MESSAGE_SIZE:
        raise UnsupportedDataError(
            f"the message has {len(data):,} bytes, at most {MAX_MESSAGE_SIZE:,} are taken; "
            "store what is large, and append its URI"
        )
    _check_parts(message)
    return data


def _check_parts(message: Message) -> None:
    """Raises UnsupportedDataError for names that are no text, which JSON would make one, and if it is too deep."""
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH):
        for one in level:
            for name in one if isinstance(one, dict) else ():
                if not isinstance(name, str):
                    raise UnsupportedDataError(
                        f"the names in a message are text (str), not {type(name).__name__}: {name!r}"
                    )
        parts = (one.values() if isinstance(one, dict) else one for one in level)
        level = [part for of_one in parts for part in of_one if isinstance(part, dict | list | tuple)]
        if not level:
            return
    raise UnsupportedDataError(f"the message has more than {MAX_DEPTH} objects and arrays in each other")


def decode_message(data: bytes) -> Message:
    """The inverse of `encode_message`. Raises BatchFormatError."""
    try:
        message = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise BatchFormatError(f"a message is no JSON: {exc}") from exc
    if not isinstance(message, dict):
        raise BatchFormatError("a message is no JSON object")
    return message


def into_batches(messages: Iterable[bytes], owner: str) -> Iterator[tuple[bytes, ...]]:
    """Messages in groups that each fit into one record of this owner."""
    room = MAX_BODY_SIZE - _FRONT.size - len(owner.encode("utf-8", "surrogateescape"))
    group: list[bytes] = []
    left = room
    for message in messages:
        size = _SIZE.size + len(message)
        if group and (size > left or len(group) == MAX_BATCH_MESSAGES):
            yield tuple(group)
            group, left = [], room
        group.append(message)
        left -= size
    if group:
        yield tuple(group)


def is_feed_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def feed_uri(feed_id: str) -> str:
    return SCHEME + feed_id


def parse_feed_uri(uri: str) -> str:
    """The feed's id: 32 hex digits. Raises InvalidUriError."""
    if not isinstance(uri, str):
        raise InvalidUriError(f"the URI of a feed is text, not {type(uri).__name__}", uri=repr(uri)[:200])
    feed_id = uri.removeprefix(SCHEME)
    if not uri.startswith(SCHEME) or not _ID.fullmatch(feed_id) or uri[-1].isspace():
        raise InvalidUriError(
            f"{uri[:160]!a} is not the URI of a feed, which is {SCHEME} and 32 lower-case hex digits", uri=uri[:200]
        )
    return feed_id
