"""HttpBlobs: what a plain web server has, read-only. It may know ranges or not; it cannot list."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import httpx

from kacas.errors import SizeLimitError
from kacas_remote.blobs import failures
from kacas_remote.blobs.blob_store import BlobInfo
from kacas_remote.blobs.joined_ranges import Joined, handed_out, joined_ranges
from kacas_remote.blobs.keys import check_key
from kacas_remote.blobs.per_process import PerProcess
from kacas_remote.errors import BlobNotFoundError, NotSupportedError, RemoteRefusedError, RemoteUnavailableError

CONNECT_S, SILENCE_S = 10.0, 60.0
LEAST_BYTES_S = 1 << 10
"""An answer that brings less, for as long as a silence may last, is taken for one: a byte now and then is no progress."""
_AT_ONCE = 8
_REDIRECTS = 5
_ABSENT = (404, 410)
_MOST_PAUSE_S = 60.0


class HttpBlobs:
    """Below `url`, https:// or, for what need not be kept from anybody, http://."""

    def __init__(self, url: str, silence_s: float = SILENCE_S) -> None:
        """silence_s: without a byte for so long, an answer will not come."""
        self._url, self._silence_s = url.rstrip("/"), silence_s
        self._client = PerProcess(lambda: _new_client(silence_s))

    def __reduce__(self) -> tuple[Callable[[str, float], HttpBlobs], tuple[str, float]]:
        return HttpBlobs, (self._url, self._silence_s)

    def __repr__(self) -> str:
        return f"HttpBlobs({self._url!r})"

    @property
    def name(self) -> str:
        return self._url

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        raise self._is_read_only(key)

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        raise self._is_read_only(key)

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        raise self._is_read_only(key)

    def get(self, key: str, limit: int) -> bytes:
        out = bytearray()
        with self._asked("GET", key) as response:
            self._check_found(response, key)
            for piece in self._pieces(response, key):
                if len(out) + len(piece) > limit or _declared(response) > limit:
                    raise SizeLimitError(
                        f"{self.name}: {key} has {_declared(response) or 'more'} bytes, and at most {limit} were expected; it was "
                        "not read"
                    )
                out += piece
        return bytes(out)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        joined = joined_ranges(ranges)
        answers: Sequence[memoryview] = []
        if joined:
            first = self._range(key, joined)
            # A server that ignores ranges sends the whole blob: one reading gives all of them.
            answers = first if len(first) == len(joined) else [*first, *self._others(key, joined[1:])]
        elif self.head(key) is None:
            raise self._is_gone(key)
        return handed_out(ranges, joined, answers)

    def head(self, key: str) -> BlobInfo | None:
        with self._asked("HEAD", key) as response:
            if response.status_code in _ABSENT:
                return None
            if response.status_code not in (405, 501) and (
                response.status_code != 200 or "content-length" in response.headers
            ):
                self._check_found(response, key)
                return _info(key, response, _declared(response))
        # It knows no HEAD, or says no size: a GET does, whose content is left alone.
        with self._asked("GET", key) as response:
            if response.status_code in _ABSENT:
                return None
            self._check_found(response, key)
            if "content-length" not in response.headers:
                raise NotSupportedError(
                    f"{self.name} does not say how large {key} is; take another server", path=self.name
                )
            return _info(key, response, _declared(response))

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        raise NotSupportedError(
            f"{self.name} is a web server, which cannot list what it has. What has a recipe or a plain object there can be loaded",
            path=self.name,
        )

    def delete(self, keys: Iterable[str]) -> None:
        raise self._is_read_only("")

    def sign(self, key: str, method: str, expires_s: int) -> str:
        if method != "GET":
            raise self._is_read_only(key)
        return self._address(key)

    def close(self) -> None:
        client = self._client.forget()
        if client:
            client.close()

    def _others(self, key: str, joined: Sequence[Joined]) -> Sequence[memoryview]:
        if not joined:
            return []
        with ThreadPoolExecutor(min(len(joined), _AT_ONCE)) as pool:
            return list(pool.map(lambda part: self._range(key, [part])[0], joined))

    def _range(self, key: str, joined: Sequence[Joined]) -> Sequence[memoryview]:
        """The first of `joined`; or all, if the server gives the whole blob whatever it is asked for."""
        wanted = joined[0]
        with self._asked("GET", key, {"Range": f"bytes={wanted.start}-{wanted.stop - 1}"}) as response:
            if response.status_code == 416:
                return [memoryview(b"")]
            self._check_found(response, key)
            if response.status_code == 206:
                self._check_start(response, key, wanted.start)
                return _cut(self._pieces(response, key), [(0, wanted.stop - wanted.start)])
            return _cut(self._pieces(response, key), [(part.start, part.stop) for part in joined])

    def _pieces(self, response: httpx.Response, key: str) -> Iterator[bytes]:
        """The bytes as they come. Raises RemoteUnavailableError if next to none do. What is done with them takes its own time."""
        waited_s, count = 0.0, 0
        pieces = response.iter_raw()
        while True:
            begin_s = time.monotonic()
            if (piece := next(pieces, None)) is None:
                return
            took_s = time.monotonic() - begin_s
            if took_s < self._silence_s:  # nobody waits longer: then this process was stopped meanwhile
                waited_s += took_s
            count += len(piece)
            if waited_s >= self._silence_s:
                if count < LEAST_BYTES_S * waited_s:
                    raise failures.of_connection("timed out", self.name, key, "reading")
                waited_s, count = 0.0, 0
            yield piece

    def _check_start(self, response: httpx.Response, key: str, start: int) -> None:
        said = response.headers.get("content-range", "")
        if not said.replace(" ", "").startswith((f"bytes{start}-", f"bytes={start}-")):
            raise RemoteUnavailableError(
                f"reading {key} at {self.name} failed: the server gives another range than it was asked for. It was not used",
                path=self.name,
                retry_for_s=0.0,
            )

    @contextmanager
    def _asked(self, method: str, key: str, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
        try:
            with self._client.get().stream(method, self._address(key), headers=headers) as response:
                is_downgraded = self._url.startswith("https:") and response.url.scheme != "https"
                if is_downgraded:
                    raise RemoteRefusedError(
                        f"reading {key} at {self.name} failed: the server leads from https:// to http://. It was not followed",
                        path=self.name,
                    )
                yield response
        except httpx.TooManyRedirects:
            raise RemoteRefusedError(
                f"reading {key} at {self.name} failed: the server leads on and on, over {_REDIRECTS} times. Look at its URL",
                path=self.name,
            ) from None
        except httpx.HTTPError as exc:
            text = f"{type(exc).__name__} {exc}"
            raise failures.of_connection(text, self.name, key, "reading") from None

    def _check_found(self, response: httpx.Response, key: str) -> None:
        if response.status_code in (200, 206):
            return
        pause_s = _pause_s(response.headers.get("retry-after", ""))
        raise failures.of_status(response.status_code, "", self.name, key, "reading", pause_s=pause_s)

    def _address(self, key: str) -> str:
        return f"{self._url}/{quote(check_key(key))}"

    def _is_gone(self, key: str) -> BlobNotFoundError:
        return BlobNotFoundError(f"{self.name} has no {key}; perhaps it was removed")

    def _is_read_only(self, key: str) -> NotSupportedError:
        return NotSupportedError(
            f"{self.name} is a web server, which is read only{f' ({key})' if key else ''}. Push to its bucket, or copy "
            "a file:/// remote to it",
            path=self.name,
        )


def _new_client(silence_s: float) -> httpx.Client:
    return httpx.Client(
        follow_redirects=True,
        max_redirects=_REDIRECTS,
        timeout=httpx.Timeout(silence_s, connect=CONNECT_S),
        headers={"User-Agent": "kacas", "Accept-Encoding": "identity"},
    )


def _cut(pieces: Iterable[bytes], ranges: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
    """These ranges, disjoint and rising, of what streams by; the rest is not kept, and nothing is read behind the last.

    Memory is taken as bytes come: a range that was asked for may be larger than what there is.
    """
    outs = [bytearray() for _ in ranges]
    at = number = 0
    for piece in pieces:
        view = memoryview(piece)
        while number < len(ranges):
            start, stop = ranges[number]
            outs[number] += view[max(0, start - at) : max(0, stop - at)]
            if at + len(view) < stop:
                break
            number += 1
        at += len(view)
        if number == len(ranges):
            break
    return [memoryview(out).toreadonly() for out in outs]


def _declared(response: httpx.Response) -> int:
    said = response.headers.get("content-length", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else 0


def _info(key: str, response: httpx.Response, size: int) -> BlobInfo:
    try:
        modified_s = parsedate_to_datetime(response.headers.get("last-modified", "")).timestamp()
    except (ValueError, TypeError):
        modified_s = 0.0
    return BlobInfo(key, size, modified_s, response.headers.get("etag", "").strip('"'))


def _pause_s(said: str) -> float:
    """Of a Retry-After in seconds; one that is a date is not worth a clock that may be off."""
    return min(float(said), _MOST_PAUSE_S) if said.isascii() and said.isdigit() else 0.0
