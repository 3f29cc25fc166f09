"""What the proxy can do to a request and its answer. Each is told to it by `Proxy.fault`."""

from __future__ import annotations

import asyncio
from xml.sax.saxutils import escape

from tests.remote.messages import Headers, Message, answer
from tests.remote.proxy import DroppedError, Fault, Forward

S3_STATUS = {
    "ExpiredToken": 400,
    "RequestTimeTooSkewed": 403,
    "SignatureDoesNotMatch": 403,
    "InvalidAccessKeyId": 403,
    "AccessDenied": 403,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "OperationAborted": 409,
    "PreconditionFailed": 412,
    "TooManyRequests": 429,
    "InternalError": 500,
    "SlowDown": 503,
}


def drop() -> Fault:
    """The connection ends; the server never hears of the request."""

    async def fault(request: Message, forward: Forward) -> Message:
        raise DroppedError

    return fault


def lose_reply() -> Fault:
    """The server does what is asked; the connection ends before its answer arrives."""

    async def fault(request: Message, forward: Forward) -> Message:
        await forward(request)
        raise DroppedError

    return fault


def delay(seconds: float) -> Fault:
    async def fault(request: Message, forward: Forward) -> Message:
        await asyncio.sleep(seconds)
        return await forward(request)

    return fault


def truncate(keep: int, *, noticed: bool = True) -> Fault:
    """Only so many bytes of the answer arrive. noticed: its Content-Length tells of the others."""

    async def fault(request: Message, forward: Forward) -> Message:
        whole = await forward(request)
        return whole.with_body(whole.body[:keep], len(whole.body) if noticed and keep < len(whole.body) else None)

    return fault


def flip(at: int = -1, every: int = 0) -> Fault:
    """One bit of the answer's body is another; at: its byte, from the end if negative, the last if it is shorter.

    every: so many bytes behind it another one, to the end.
    """

    async def fault(request: Message, forward: Forward) -> Message:
        whole = await forward(request)
        body = bytearray(whole.body)
        if body:
            first = max(-len(body), min(at, len(body) - 1)) % len(body)
            for broken in range(first, len(body), every or len(body)):
                body[broken] ^= 0x10
        return whole.with_body(bytes(body))

    return fault


def duplicate() -> Fault:
    """The request arrives twice; the second answer is the one that comes back."""

    async def fault(request: Message, forward: Forward) -> Message:
        await forward(request)
        return await forward(request)

    return fault


def swap(patience_s: float = 1.0) -> Fault:
    """Two requests, of which each gets the other's body; the first one its own, if no second comes in time."""
    waiting: list[tuple[Message, asyncio.Future[Message]]] = []

    async def fault(request: Message, forward: Forward) -> Message:
        mine = await forward(request)
        if waiting:
            theirs, promised = waiting.pop()
            if not promised.done():
                promised.set_result(mine)
                return mine.with_body(theirs.body)
        promised = asyncio.get_running_loop().create_future()
        waiting.append((mine, promised))
        try:
            return mine.with_body((await asyncio.wait_for(promised, patience_s)).body)
        except TimeoutError:
            return mine

    return fault


def refuse(code: str, status: int | None = None, headers: Headers = ()) -> Fault:
    """The answer of an S3 service that does not do it; the server never hears of the request."""

    async def fault(request: Message, forward: Forward) -> Message:
        said = f"<Error><Code>{escape(code)}</Code><Message>{escape(code)}, says the test</Message></Error>"
        body = b'<?xml version="1.0" encoding="UTF-8"?>' + said.encode()
        return answer(status or S3_STATUS[code], body, headers=headers)

    return fault
