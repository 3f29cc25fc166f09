"""HTTP/1.1 messages as bytes on a stream: as much of them as a proxy before a bucket or a web server needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from urllib.parse import unquote

HEAD_LIMIT = 1 << 20  # bytes: also how much a stream holds before it waits
PIECE = 256 * 1024
Headers = tuple[tuple[str, str], ...]


class StreamEndedError(ConnectionError):
    """The other side closed the connection, within a message or before one."""


@dataclass(frozen=True)
class Head:
    """The first line and the headers of a request or an answer; `raw` is what came."""

    raw: bytes
    first: tuple[str, str, str]
    headers: Headers

    def header(self, name: str) -> str | None:
        return next((value for one, value in self.headers if one.lower() == name), None)

    @property
    def method(self) -> str:
        return self.first[0]

    @property
    def path(self) -> str:
        """Of a request: what is asked for, without its query."""
        return unquote(self.first[1].partition("?")[0])

    @property
    def status(self) -> int:
        return int(self.first[1])

    @property
    def closes(self) -> bool:
        return (self.header("connection") or "").lower() == "close"


@dataclass(frozen=True)
class Message:
    """A whole request or answer. claimed: the Content-Length that is sent, if it is not that of the body."""

    head: Head
    body: bytes
    claimed: int | None = None

    def encode(self) -> bytes:
        dropped = {"content-length", "transfer-encoding"}
        kept = [f"{name}: {value}" for name, value in self.head.headers if name.lower() not in dropped]
        size = len(self.body) if self.claimed is None else self.claimed
        lines = [" ".join(self.head.first), *kept, f"Content-Length: {size}"]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body

    def with_body(self, body: bytes, claimed: int | None = None) -> Message:
        return replace(self, body=body, claimed=claimed)


def answer(status: int, body: bytes, content_type: str = "application/xml", headers: Headers = ()) -> Message:
    head = Head(b"", ("HTTP/1.1", str(status), "Said-So"), (("Content-Type", content_type), *headers))
    return Message(head, body)


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Raises StreamEndedError if the stream ends before or within it."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError) as exc:
        raise StreamEndedError("the connection ended where a message should begin") from exc
    first, *lines = raw.decode("latin-1").split("\r\n")
    words = (*first.split(" ", 2), "", "")[:3]
    headers = [line.partition(":") for line in lines if line]
    return Head(raw, (words[0], words[1], words[2]), tuple((name, value.strip()) for name, _, value in headers))


async def body_as_sent(reader: asyncio.StreamReader, head: Head, *, of_request: bool) -> AsyncIterator[bytes]:
    """The body piece by piece, with the marks of chunks, if it has some."""
    if (head.header("transfer-encoding") or "").lower() == "chunked":
        size = 1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line
            async for piece in _exactly(reader, size + 2):
                yield piece
    elif (length := head.header("content-length")) is not None:
        async for piece in _exactly(reader, int(length)):
            yield piece
    elif not of_request:  # it goes on until the server closes
        while piece := await reader.read(PIECE):
            yield piece


async def read_body(reader: asyncio.StreamReader, head: Head, *, of_request: bool) -> bytes:
    """The whole body, without the marks of chunks."""
    sent = b"".join([piece async for piece in body_as_sent(reader, head, of_request=of_request)])
    if (head.header("transfer-encoding") or "").lower() != "chunked":
        return sent
    body, rest = b"", sent
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body, rest = body + rest[:size], rest[size + 2 :]
    return body


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    left = size
    while left:
        piece = await reader.read(min(PIECE, left))
        if not piece:
            raise StreamEndedError(f"the connection ended {left} bytes before the end of a body")
        left -= len(piece)
        yield piece


def has_body(answer: Head, method: str) -> bool:
    return method != "HEAD" and answer.status not in (204, 304) and answer.status >= 200
