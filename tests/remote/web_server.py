"""A plain web server for tests: files of a directory, with ranges or without, and what it is told to do wrong."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

_PIECE = 1 << 16


class WebServer(ThreadingHTTPServer):
    """knows_ranges, knows_head: what it can. answers: statuses that it gives first, one a request. sent: bytes of content.
    before_each: is called with the number of each request, from 1."""

    daemon_threads = True

    def __init__(self, directory: Path, *, knows_ranges: bool = True, knows_head: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory, self.knows_ranges, self.knows_head = directory, knows_ranges, knows_head
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.before_each: Callable[[int], object] = lambda number: None
        self.requests = 0
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(with_content=False)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        self.server.requests += 1
        self.server.before_each(self.server.requests)
        if self.server.answers:
            status, headers, content = self.server.answers.pop(0)
            self._say(status, headers, len(content))
            if with_content or self.command == "PUT":
                self.wfile.write(content)
            return
        if not (with_content or self.server.knows_head):
            self._say(405, {})
            return
        try:
            data = (self.server.directory / unquote(self.path).lstrip("/")).read_bytes()
        except OSError:
            self._say(404, {})
            return
        start, stop = 0, len(data)
        headers = {"Last-Modified": self.date_time_string()}
        asked = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", self.headers.get("Range", ""))
        if asked and self.server.knows_ranges:
            start, stop = int(asked[1]), min(int(asked[2]) + 1, len(data))
            if start >= len(data):
                self._say(416, {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self._say(206 if "Content-Range" in headers else 200, headers, stop - start)
        if with_content:
            for at in range(start, stop, _PIECE):
                piece = data[at : min(at + _PIECE, stop)]
                try:
                    self.wfile.write(piece)
                except OSError:
                    return  # the client has what it wanted
                self.server.sent += len(piece)

    def _say(self, status: int, headers: dict[str, str], size: int = 0) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def web_server(directory: Path, *, knows_ranges: bool = True, knows_head: bool = True) -> Iterator[WebServer]:
    with WebServer(directory, knows_ranges=knows_ranges, knows_head=knows_head) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
