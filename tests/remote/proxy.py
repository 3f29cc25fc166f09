"""A proxy before a bucket or a web server: it is far away, or faulty, when told so, and counts what passes.

    with Proxy(server_port, latency_s=0.05) as proxy:
        proxy.fault(flip(at=1000), method="GET", part="/packs/")
        ... proxy.url ... proxy.passed

The Host header passes unchanged: it is signed, and a server takes what was signed. `python -m tests.remote.proxy PORT
LATENCY_S` is one in a process of its own: it prints its port, and at each line on stdin what has passed since the last.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from tests.remote.messages import (
    HEAD_LIMIT,
    Head,
    Message,
    body_as_sent,
    has_body,
    read_body,
    read_head,
)

Forward = Callable[[Message], Awaitable[Message]]
Fault = Callable[[Message, Forward], Coroutine[Any, Any, Message]]


class DroppedError(ConnectionError):
    """A fault wants the client's connection to end here."""


class Passed(NamedTuple):
    """One request that came. sent, received: bytes of bodies, from and to the client. status: 0 if there was no answer."""

    method: str
    path: str
    range: str
    status: int
    sent: int
    received: int


@dataclass
class _Rule:
    fault: Fault
    method: str
    part: str
    times: int | None
    spare: int
    met: int = 0

    def takes(self, head: Head) -> bool:
        """Whether this request is one of those; it counts."""
        if self.times == 0 or self.method not in ("", head.method) or self.part not in head.first[1]:
            return False
        if self.spare:
            self.spare -= 1
            return False
        if self.times is not None:
            self.times -= 1
        self.met += 1
        return True


_COUNTED_WITHIN_S = 5.0


class Proxy:
    """latency_s: what each round trip takes longer, and the opening of a connection, which is one, too."""

    def __init__(self, server_port: int, *, latency_s: float = 0.0) -> None:
        self._server_port = server_port
        self.latency_s = latency_s
        self.port = 0
        self.passed: list[Passed] = []
        self._under_way = 0
        self._rules: list[_Rule] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._ready = threading.Event()
        self._ended = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fault(self, fault: Fault, *, method: str = "", part: str = "", times: int | None = 1, spare: int = 0) -> _Rule:
        """Do this to the next `times` requests (None: all) of the method and with `part` in the target, but `spare` the first.

        Returns what tells by `.met` how many it was done to.
        """
        rule = _Rule(fault, method, part, times, spare)
        self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """No more faults."""
        self._rules.clear()

    def drop_all(self) -> None:
        """End every connection that is open now."""
        self._loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in self._open])

    def take_passed(self) -> list[Passed]:
        """What has passed since this was last asked. Who asks may have its answer before it was counted: that is waited for."""
        deadline = time.monotonic() + _COUNTED_WITHIN_S
        while self._under_way and time.monotonic() < deadline:
            time.sleep(0.001)
        taken, self.passed = self.passed, []
        return taken

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0.01))
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=HEAD_LIMIT)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            await asyncio.sleep(self.latency_s)
            server = await asyncio.open_connection("127.0.0.1", self._server_port, limit=HEAD_LIMIT)
            while await self._request(reader, writer, *server):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
            if server:
                server[1].close()

    async def _request(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer. Returns whether the connection goes on."""
        head = await read_head(reader)
        self._under_way += 1
        try:
            return await self._answered(head, reader, writer, from_server, to_server)
        finally:
            self._under_way -= 1

    async def _answered(
        self,
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        await asyncio.sleep(self.latency_s)
        rule = next((rule for rule in self._rules if rule.takes(head)), None)
        if rule:
            return await self._faulty(rule.fault, head, reader, writer)
        if (head.header("expect") or "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await asyncio.sleep(self.latency_s)
        sent = await self._pass_on(head, reader, to_server, body=True, of_request=True)
        answered = await read_head(from_server)
        while answered.status == 100:
            answered = await read_head(from_server)
        received = await self._pass_on(
            answered, from_server, writer, body=has_body(answered, head.method), of_request=False
        )
        self._count(head, answered.status, sent, received)
        ends = answered.header("content-length") is None and answered.header("transfer-encoding") is None
        return not (head.closes or answered.closes or (ends and has_body(answered, head.method)))

    async def _faulty(
        self, fault: Fault, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """The same, whole messages at a time: a fault may do to them what it likes."""
        request = Message(head, await read_body(reader, head, of_request=True))
        try:
            answered = await fault(request, self._forward)
        except DroppedError:
            self._count(head, 0, len(request.body), 0)
            writer.transport.abort()
            raise
        self._count(head, answered.head.status, len(request.body), len(answered.body))
        if head.method == "HEAD":
            length = int(answered.head.header("content-length") or 0)
            answered = answered.with_body(b"", length)
        writer.write(answered.encode())
        await writer.drain()
        if answered.claimed is not None and head.method != "HEAD":
            writer.close()
            return False
        return not head.closes

    async def _forward(self, request: Message) -> Message:
        """Ask the server, on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server_port, limit=HEAD_LIMIT)
        try:
            writer.write(request.encode())
            await writer.drain()
            head = await read_head(reader)
            while head.status == 100:
                head = await read_head(reader)
            body = await read_body(reader, head, of_request=False) if has_body(head, request.head.method) else b""
            return Message(head, body)
        finally:
            writer.close()

    @staticmethod
    async def _pass_on(
        head: Head, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, body: bool, of_request: bool
    ) -> int:
        """Returns how many bytes the body had."""
        sink.write(head.raw)
        size = 0
        if body:
            async for piece in body_as_sent(source, head, of_request=of_request):
                sink.write(piece)
                size += len(piece)
                await sink.drain()
        await sink.drain()
        return size

    def _count(self, head: Head, status: int, sent: int, received: int) -> None:
        self.passed.append(Passed(head.method, head.path, head.header("range") or "", status, sent, received))


def main(server_port: str, latency_s: str) -> None:
    with Proxy(int(server_port), latency_s=float(latency_s)) as proxy:
        print(proxy.port, flush=True)
        for _ in sys.stdin:
            print(json.dumps(proxy.take_passed()), flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
