"""The upstream that is a store: it is opened when something is absent in the store before it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from kacas.content import Content
from kacas.disk.forked import Forked
from kacas.disk.volume import Volume
from kacas.encoded import encoded_payloads
from kacas.errors import DamagedError, InvalidSettingError, StoreNotFoundError
from kacas.model.description import Description
from kacas.model.entry import Entry
from kacas.model.uri import Uri
from kacas.repository import Progress, Repository
from kacas.settings import Settings
from kacas.upstream import Near, Plain, Upstream
from kacas.upstream_chain import UpstreamChain


class StoreUpstream:
    """A store behind another one. It may have an upstream of its own, from which comes what it has not."""

    def __init__(self, path: Path, open_repository: Callable[[], Repository], found: Repository | None = None) -> None:
        """open_repository: is called when it is first needed, and again if it failed: a server may be away. found: one that is
        open, and whose owner closes it."""
        self.path = path
        self._open = open_repository
        self._found = found
        self._is_ours = found is None
        self._before: Path | None = None
        self._renew()
        self._forked = Forked(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it

    @property
    def name(self) -> str:
        """See Upstream."""
        return str(self.path)

    @property
    def is_far(self) -> bool:
        """See Upstream."""
        return False

    def repository(self) -> Repository:
        """The store's, opened if need be. Raises StoreNotFoundError if it is not there, StoreError."""
        self._forked.check()
        with self._lock:
            if self._found is None or (self._is_ours and self._found.closed):
                try:
                    self._found = self._checked(self._open())
                except StoreNotFoundError as exc:
                    raise StoreNotFoundError(
                        f"what is wanted is not here, and the upstream is not there: no store at {self.path}. Mount its file "
                        "system, or set KACAS_UPSTREAM to where it is now",
                        path=str(self.path),
                    ) from exc
            return self._found

    def serve(self, path: Path) -> None:
        """The store at `path` is before this one.

        Raises InvalidSettingError if it is this one, or one behind it: content would come from nowhere. Of one that is not open
        only the path is compared, until it is opened: a look at a file server that is away takes for ever.
        """
        self._before = path
        if self.path == path:
            raise _own_upstream(path)
        if self._found is not None:
            self._check_behind(self._found, path)

    def _checked(self, found: Repository) -> Repository:
        if self._before is not None:
            try:
                self._check_behind(found, self._before)
            except InvalidSettingError:
                found.close()
                raise
        return found

    def _check_behind(self, found: Repository, path: Path) -> None:
        if os.path.samefile(found.volume.path, path):
            raise _own_upstream(path)
        for behind in found.behind.upstreams:
            if isinstance(behind, StoreUpstream):
                if behind.path == path:
                    raise _own_upstream(path)
                if behind._found is not None:
                    self._check_behind(behind._found, path)

    def bring(self, uri: Uri) -> None:
        """See Upstream."""
        self.repository().bring(uri)

    def bring_tree(self, sha1: bytes) -> None:
        """See Upstream."""
        self.repository().bring_tree(sha1)

    def readable(self, uri: Uri, near: Near) -> Iterator[tuple[Entry, Content]]:
        """See Upstream."""
        return iter(self.repository().readable(uri))

    def believed(self, uri: Uri, near: Near) -> list[tuple[Entry, Content]]:
        """See Upstream. What a store has was hashed when it was put there."""
        return self.repository().readable(uri)

    def prove(self, uri: Uri, near: Near) -> None:
        """See Upstream."""

    def remember(self, entry: Entry) -> None:
        """See Upstream."""

    def refuse(self, entry: Entry, why: DamagedError) -> None:
        """See Upstream. `kacas verify` is for that."""

    def plain(self, uri: Uri) -> Plain | None:
        """See Upstream."""
        return None

    def get_many(self, digests: Sequence[bytes]) -> dict[bytes, memoryview]:
        """See ChunkSource."""
        repository = self.repository()
        found = encoded_payloads(repository.lookup, digests)
        if repository.behind and len(found) < len(digests):
            found |= repository.behind.get_many([digest for digest in digests if digest not in found])
        return found

    def small(self, sha1s: Collection[bytes]) -> dict[bytes, int]:
        """See Upstream. Each is looked up when it is asked for: that is no long way."""
        return {}

    def roots(self, sizes: dict[bytes, int]) -> dict[bytes, bytes]:
        """See Upstream."""
        repository = self.repository()
        found = repository.lookup.roots(sizes)
        if repository.behind and len(found) < len(sizes):
            found |= repository.behind.roots({sha1: size for sha1, size in sizes.items() if sha1 not in found})
        return found

    def describe(self, uri: Uri, near: Near) -> Description:
        """See Upstream."""
        return self.repository().describe(uri)

    def close(self) -> None:
        """See Upstream."""
        if self._found is not None and self._is_ours:
            self._found.close()


def _own_upstream(path: Path) -> InvalidSettingError:
    return InvalidSettingError(f"the store at {path} cannot be its own upstream; set KACAS_UPSTREAM to another one")


def open_repository(
    volume: Volume, settings: Settings, progress: Progress | None, upstreams: Sequence[Upstream]
) -> Repository:
    """The volume's, as the settings say, with what is behind it."""
    chosen = settings.sources.get("cache_directory") != "default"
    cache = volume.cache_directory(settings.cache_directory, chosen=chosen)
    return Repository(
        volume, cache, owner=settings.owner, threads=settings.threads, memory=settings.memory, progress=progress,
        behind=UpstreamChain(upstreams),
    )  # fmt: skip
