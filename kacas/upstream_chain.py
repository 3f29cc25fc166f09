"""Several upstreams in order: what one has not, or cannot give, is asked of the next."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from kacas.content import Content
from kacas.errors import (
    DamagedError,
    KacasError,
    MissingPackageError,
    NewerFormatError,
    NotFoundError,
)
from kacas.layouts import best_first, ordered
from kacas.model.entry import Entry
from kacas.model.uri import Uri
from kacas.upstream import Near, Upstream

T = TypeVar("T")
_AWAY_S = 60.0
UNREADABLE = (NotFoundError, DamagedError, NewerFormatError, MissingPackageError)


class UpstreamChain:
    """What stands behind a store, nearest first. Thread-safe, safe after fork."""

    def __init__(self, upstreams: Sequence[Upstream] = ()) -> None:
        self.upstreams = tuple(upstreams)
        self._warned: set[str] = set()
        self._away_until_s: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self.upstreams)

    @property
    def name(self) -> str:
        """For messages."""
        return " nor in ".join(upstream.name for upstream in self.upstreams)

    @property
    def is_far(self) -> bool:
        """Whether there are remotes only."""
        return all(upstream.is_far for upstream in self.upstreams)

    def has_far(self, name: str) -> bool:
        """Whether the upstream of this name is a long way off."""
        return any(upstream.is_far and upstream.name == name for upstream in self.upstreams)

    @property
    def in_order(self) -> list[Upstream]:
        """Nearest first. One that was away is asked last for a while: to learn that it is still away takes seconds."""
        now_s = time.monotonic()
        return sorted(self.upstreams, key=lambda upstream: self._away_until_s.get(upstream.name, 0.0) > now_s)

    def failed(self, upstream: Upstream, exc: KacasError) -> None:
        """It could not help."""
        if isinstance(exc, ConnectionError):
            self._away_until_s[upstream.name] = time.monotonic() + _AWAY_S

    def first(self, work: Callable[[Upstream], T]) -> T:
        """The work's result with the first upstream with which it can be done. One that fails is warned of, once by its name,
        if another one helps.

        Raises NotFoundError if no upstream has what is wanted; else the first reason why one that may have it did not help.
        """
        failures: list[tuple[str, KacasError]] = []
        absent: NotFoundError | None = None
        for upstream in self.in_order:
            try:
                found = work(upstream)
            except NotFoundError as exc:
                absent = absent or exc
            except KacasError as exc:
                self.failed(upstream, exc)
                failures.append((upstream.name, exc))
            else:
                for name, why in failures:
                    self.warn_once(name, upstream.name, why)
                return found
        if failures:
            raise failures[0][1]
        raise absent or NotFoundError("nothing is behind this store")

    def without(self, upstream: Upstream) -> UpstreamChain:
        """The others."""
        return UpstreamChain([one for one in self.upstreams if one is not upstream])

    def warn_once(self, name: str, other: str, exc: KacasError) -> None:
        """An upstream failed, another one helped."""
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"{name} did not help, {other} did: {exc}", RuntimeWarning, stacklevel=5)

    def get_many(self, digests: Sequence[bytes]) -> dict[bytes, memoryview]:
        """As of an Upstream, from all of them."""
        found: dict[bytes, memoryview] = {}
        for upstream in self.upstreams:
            if left := [digest for digest in digests if digest not in found]:
                found |= upstream.get_many(left)
        return found

    def roots(self, sizes: dict[bytes, int]) -> dict[bytes, bytes]:
        """As of an Upstream, from all of them."""
        found: dict[bytes, bytes] = {}
        for upstream in self.upstreams:
            if left := {sha1: size for sha1, size in sizes.items() if sha1 not in found}:
                found |= upstream.roots(left)
        return found

    def close(self) -> None:
        """Release what is open."""
        for upstream in self.upstreams:
            upstream.close()


def offered(upstream: Upstream, uri: Uri, near: Near) -> Iterator[tuple[Entry, Content]]:
    """Layouts to try, one after the other; after all of them those that the upstream gives in place of what was refused."""
    tried: set[bytes] = set()
    while left := [one for one in ordered(upstream.readable(uri, near)) if one[0].root not in tried]:
        for one in left:
            tried.add(one[0].root)
            yield one


def size_in(upstream: Upstream, uri: Uri, near: Near) -> int:
    """Bytes of the content, as the upstream has it. Raises one of UNREADABLE."""
    try:
        return next(iter(upstream.readable(uri, near)))[0].size
    except UNREADABLE:
        if (plain := upstream.plain(uri)) is None:
            raise
        return plain.size


class Behind:
    """What the upstream has of a content, opened when that is needed."""

    def __init__(
        self,
        behind: UpstreamChain,
        uri: Uri,
        parts: Callable[[Upstream, Uri], list[tuple[Entry, Content]]],
        met: set[bytes],
    ) -> None:
        """parts: layouts of an upstream of which a part may be read. met: gets the SHA-1 when an upstream had to help."""
        self._behind = behind
        self._uri = uri
        self._parts = parts
        self._met = met

    def fills(self, start: int, out: memoryview) -> bool:
        """See Content."""
        try:
            self._behind.first(lambda there: best_first(self._parts(there, self._uri))[1].read_into(start, out))
        except KacasError:
            return False  # then it is told why the first one did not help
        self._met.add(self._uri.sha1)
        return True
