"""Retrying: what fails as the service is away or busy is tried again, with growing pauses, for a bounded time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import tenacity

from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.errors import RemoteUnavailableError

TOTAL_S = 120.0
FIRST_PAUSE_S, MOST_PAUSE_S = 0.2, 15.0
Answer = TypeVar("Answer")


class Retrying:
    """Only RemoteUnavailableError is tried again: what a service refuses, or has not, it will not have in a second."""

    def __init__(self, inner: BlobStore, total_s: float = TOTAL_S) -> None:
        """total_s: from the first try of a call to its last, at most."""
        self._inner = inner
        self._total_s = total_s

    def __repr__(self) -> str:
        return f"Retrying({self._inner!r})"

    @property
    def name(self) -> str:
        return self._inner.name

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        return self._again(lambda: self._inner.put_if_absent(key, data))

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self._again(lambda: self._inner.put(key, data))

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        # Once: parts that are used up cannot be had again. The store tries each part again by itself.
        self._inner.put_parts(key, parts, size=size)

    def get(self, key: str, limit: int) -> bytes:
        return self._again(lambda: self._inner.get(key, limit))

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self._again(lambda: self._inner.get_ranges(key, ranges))

    def head(self, key: str) -> BlobInfo | None:
        return self._again(lambda: self._inner.head(key))

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        """Goes on behind the last key that came."""
        last = after
        listing = iter(self._inner.list(prefix, after=last))

        def following() -> BlobInfo | None:
            nonlocal listing
            try:
                return next(listing, None)
            except RemoteUnavailableError:
                listing = iter(self._inner.list(prefix, after=last))
                raise

        while info := self._again(following):
            last = info.key
            yield info

    def delete(self, keys: Iterable[str]) -> None:
        named = [*keys]
        self._again(lambda: self._inner.delete(named))

    def sign(self, key: str, method: str, expires_s: int) -> str:
        return self._inner.sign(key, method, expires_s)

    def close(self) -> None:
        self._inner.close()

    def _again(self, call: Callable[[], Answer]) -> Answer:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(RemoteUnavailableError),
            wait=_pause,
            stop=self._is_enough,
            reraise=True,
        )
        return retrying(call)

    def _is_enough(self, state: tenacity.RetryCallState) -> bool:
        exc = _failure(state)
        most_s = min(self._total_s, exc.retry_for_s)
        if state.attempt_number == 1 and most_s > 0:
            return False  # though the first try took longer: it was a stalled connection, and another one may not be
        return (state.seconds_since_start or 0.0) + state.upcoming_sleep > most_s


_growing = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_S, max=MOST_PAUSE_S)


def _pause(state: tenacity.RetryCallState) -> float:
    """Random, so that many who failed together do not come back together; at least what the service asked for."""
    return _failure(state).pause_s + FIRST_PAUSE_S / 2 + _growing(state)


def _failure(state: tenacity.RetryCallState) -> RemoteUnavailableError:
    exc = state.outcome.exception() if state.outcome else None
    assert isinstance(exc, RemoteUnavailableError)
    return exc
