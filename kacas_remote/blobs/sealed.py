"""SealedBlobs: what is put is sealed for an access group before it leaves this host, names and all, and opened when it is read.

Whoever has the bucket sees sizes and when what is read, and nothing else. Each epoch of the group has names and keys of its own:
what was sealed in an older one stays where it is, and is found there.
"""

from __future__ import annotations

import contextlib
import mmap
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from kacas.errors import InvalidKeyError, InvalidSettingError, SizeLimitError, StoreError
from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.blobs.claim import claim, is_claimed
from kacas_remote.blobs.joined_ranges import handed_out, joined_ranges
from kacas_remote.blobs.keys import check_key, check_prefix
from kacas_remote.blobs.per_process import PerProcess
from kacas_remote.errors import BlobNotFoundError, DamagedRemoteError, GroupAccessError, NotSupportedError
from kacas_remote.layout import GROUPS, MARKER, PROBES
from kacas_remote.sealing.epoch_keys import EpochKeys, Keys
from kacas_remote.sealing.sealed_name import (
    MAX_SEALED_KEY,
    opened_name,
    sealed_directory,
    sealed_name,
    top_directory,
)
from kacas_remote.sealing.segments import (
    SALT_SIZE,
    SEGMENT_SIZE,
    Data,
    Opener,
    SealBrokenError,
    Sealer,
    content_key,
    opened_size,
    sealed_place,
    sealed_size,
    whole_segments,
)

Answer = TypeVar("Answer")

MISS_S, LIST_S = 60.0, 5.0
"""For so long it is believed that no epoch is new, when something is missed, and when there is a list to be made. A collector
waits longer between what it condemns and its list of leases: see docs/design.md."""
_PART = 8 << 20  # the least of all but the last
_SMALL, _LARGE = 1 << 20, 32 << 20
_REMEMBERED = 1 << 16
_TRIES = 2


class SealedBlobs:
    """A blob store over another. Thread-safe, safe after fork and picklable as `inner` and `keys` are.

    Raises GroupAccessError to who is no member. Of two members who create one blob at once, one in an epoch that the other
    does not know yet, both may be told that they did; the newer one counts.
    """

    def __init__(
        self, inner: BlobStore, keys: Keys, *, miss_s: float = MISS_S, list_s: float = LIST_S, strict: bool = False
    ) -> None:
        """miss_s, list_s: for how long no new epoch is looked for, seconds. strict: whether it is an error that the group's
        record is away; else what was known of it will do."""
        self.inner, self._keys = inner, keys
        self._miss_s, self._list_s, self._strict = miss_s, list_s, strict
        self._refreshed_s = float("-inf")
        self._looking = PerProcess(threading.Lock)
        self._is_ours = False
        self._epochs_of: dict[str, int] = {}  # where a key was seen, if it may be in more than one epoch
        self._own = threading.local()

    def __reduce__(self) -> tuple[Callable[..., SealedBlobs], tuple[Any, ...]]:
        return _unpickled, (self.inner, self._keys, self._miss_s, self._list_s, self._strict)

    def __repr__(self) -> str:
        return f"SealedBlobs({self.inner!r})"

    @property
    def name(self) -> str:
        """Another one than that of the plain bucket: what this host knows of the one is nothing of the other."""
        return f"{self.inner.name} (private to {self._keys.group_name})"

    def put_if_absent(self, key: str, data: Data) -> bool:
        whole = memoryview(data).cast("B")
        newest, *older = self._to_write(key)
        for epoch in older:
            if self.inner.head(sealed_name(epoch, key)) is not None:
                return self._has(epoch, key, whole)
        with self._sealed(newest, key, whole) as sealed:
            if self.inner.put_if_absent(sealed_name(newest, key), sealed):
                return True
        return self._has(newest, key, whole)

    def put(self, key: str, data: Data) -> None:
        newest, *older = self._to_write(key)
        with self._sealed(newest, key, memoryview(data).cast("B")) as sealed:
            self.inner.put(sealed_name(newest, key), sealed)
        self._drop(key, older)

    def put_parts(self, key: str, parts: Iterable[Data], *, size: int = 0) -> None:
        newest, *older = self._to_write(key)
        sealer = Sealer(content_key(newest, key), secrets.token_bytes(SALT_SIZE))
        self.inner.put_parts(
            sealed_name(newest, key), _sealed_parts(parts, sealer), size=sealed_size(size) if size else 0
        )
        self._drop(key, older)

    def get(self, key: str, limit: int) -> bytes:
        def ask(epoch: EpochKeys, name: str) -> bytes:
            try:
                sealed = self.inner.get(name, sealed_size(limit))
            except SizeLimitError as exc:
                raise SizeLimitError(
                    f"{self.name}: {key} has more than the {limit} bytes that were expected; it was not read"
                ) from exc
            return bytes(Opener(content_key(epoch, key)).open(memoryview(sealed), 0, at_end=True))

        return self._found(key, ask)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        joined = joined_ranges([whole_segments(start, stop) for start, stop in ranges], gap=0)
        places = [(sealed_place(part.start), sealed_place(part.stop)) for part in joined]

        def ask(epoch: EpochKeys, name: str) -> list[memoryview]:
            opener = Opener(content_key(epoch, key))
            answers = self.inner.get_ranges(name, places)
            opened = [
                opener.open(answer, part.start, at_end=len(answer) < stop - start)
                for part, (start, stop), answer in zip(joined, places, answers, strict=True)
            ]
            return handed_out(ranges, joined, opened)

        return self._found(key, ask)

    def head(self, key: str) -> BlobInfo | None:
        def ask(_: EpochKeys, name: str) -> BlobInfo:
            info = self.inner.head(name)
            if info is None:
                raise BlobNotFoundError(key)
            return info._replace(key=key, size=opened_size(info.size))

        try:
            return self._found(key, ask)
        except BlobNotFoundError:
            return None

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        """In the order of the keys: names have another one, so all are seen before the first is told. On disk, if they are many."""
        check_prefix(prefix)
        self._look_for_epochs(self._list_s)
        with contextlib.closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as found:
            found.execute(
                "CREATE TABLE blobs (key TEXT PRIMARY KEY, size INT, modified_s REAL, e_tag TEXT) WITHOUT ROWID"
            )
            for epoch in reversed(self._keys.epochs()):  # the newest one last: it counts
                listed = (info for info in self._listed(epoch, prefix) if info.key > after)
                found.executemany("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?)", listed)
            is_empty = True
            for row in found.execute("SELECT * FROM blobs ORDER BY key"):
                is_empty = False
                yield BlobInfo(*row)
            if is_empty:
                self.check()

    def delete(self, keys: Iterable[str]) -> None:
        epochs = self._keys.epochs()
        self.inner.delete([sealed_name(epoch, _checked(key)) for key in keys for epoch in epochs])

    def sign(self, key: str, method: str, expires_s: int) -> str:
        raise NotSupportedError(
            f"{self.name} gives no URLs away: who has no key of the group would get sealed bytes. Add a member to the group, or "
            "push what others may see to a remote that is not private",
            path=self.name,
        )

    def close(self) -> None:
        self._own.__dict__.clear()
        self.inner.close()

    def check(self) -> bool:
        """Whether the bucket is marked as private to this group, yet. Raises as `is_claimed`."""
        self._is_ours = self._is_ours or is_claimed(self.inner, self._keys)
        return self._is_ours

    def strictly(self) -> SealedBlobs:
        """The same, for who deletes what nobody needs, or relies on what is there: an epoch that is not known may say otherwise."""
        strict = SealedBlobs(self.inner, self._keys, miss_s=self._miss_s, list_s=self._list_s, strict=True)
        strict._is_ours = self._is_ours
        return strict

    def strays(self) -> Iterator[BlobInfo]:
        """What is in the bucket and opens with no key of the group, as it is called there."""
        self._look_for_epochs(self._list_s)
        epochs = {top_directory(epoch): epoch for epoch in self._keys.epochs()}
        for info in self.inner.list(""):
            if info.key == MARKER or info.key.startswith((PROBES, GROUPS)):
                continue
            epoch = epochs.get(info.key.partition("/")[0])
            if epoch is None or _opened_key(epoch, info.key) is None:
                yield info

    # --- which epoch ------------------------------------------------------------------------

    def _found(self, key: str, ask: Callable[[EpochKeys, str], Answer]) -> Answer:
        """What `ask` answers in the newest epoch in which the blob is. Raises BlobNotFoundError, DamagedRemoteError."""
        _checked(key)
        asked: set[int] = set()
        while True:
            epochs = self._keys.epochs()
            known = self._epochs_of.get(key)
            for epoch in sorted(epochs, key=lambda one: one.epoch != known):  # stable: the newest first, then
                if epoch.epoch in asked:
                    continue
                asked.add(epoch.epoch)
                with contextlib.suppress(BlobNotFoundError):
                    answer = self._unbroken(key, epoch, ask)
                    self._remember(key, epoch, len(epochs))
                    return answer
            self._look_for_epochs(self._miss_s)
            if asked.issuperset(epoch.epoch for epoch in self._keys.epochs()):
                break
        if key == MARKER:
            self._is_ours = False  # all of it may have gone, and be made anew by somebody else
        self.check()
        raise BlobNotFoundError(f"{self.name} has no {key}; perhaps it was removed")

    def _unbroken(self, key: str, epoch: EpochKeys, ask: Callable[[EpochKeys, str], Answer]) -> Answer:
        """What does not open is asked for twice: it may have been replaced while it was read."""
        name = sealed_name(epoch, key)
        for attempt in range(_TRIES):
            try:
                return ask(epoch, name)
            except SealBrokenError as exc:
                if attempt == _TRIES - 1:
                    raise DamagedRemoteError(
                        f"{self.name}: {key} was refused: {exc}. Restore it from a copy of the bucket ({name} there), or delete "
                        "it, remove (kacas remote rm) and push again what it held"
                    ) from exc
        raise AssertionError

    def _look_for_epochs(self, after_s: float) -> None:
        """Nobody is asked twice within `after_s`. Who comes while somebody asks waits for the answer: it counts for both."""
        with self._looking.get():
            self._look_in_turn(after_s)

    def _look_in_turn(self, after_s: float) -> None:
        now_s = time.monotonic()
        if now_s - self._refreshed_s < after_s:
            return
        self._refreshed_s = now_s
        try:
            self._keys.refresh()
        except GroupAccessError:
            raise
        except (StoreError, InvalidSettingError) as exc:
            if self._strict:
                self._refreshed_s = float("-inf")  # it was not looked at: nor is the next list made without
                raise StoreError(
                    f"nothing was changed in {self.name}: the record of its group cannot be looked at, and perhaps a new epoch "
                    f"began. {exc}",
                    path=self.name,
                ) from exc

    def _remember(self, key: str, epoch: EpochKeys, epochs: int) -> None:
        if epochs > 1:
            if len(self._epochs_of) >= _REMEMBERED:
                self._epochs_of = {}
            self._epochs_of[key] = epoch.epoch

    def _listed(self, epoch: EpochKeys, prefix: str) -> Iterator[BlobInfo]:
        epochs = len(self._keys.epochs())
        for info in self.inner.list(sealed_directory(epoch, prefix)):
            key = _opened_key(epoch, info.key)
            if key is not None and key.startswith(prefix):
                self._remember(key, epoch, epochs)
                yield info._replace(key=key, size=opened_size(info.size))

    # --- writing ----------------------------------------------------------------------------

    def _to_write(self, key: str) -> Sequence[EpochKeys]:
        """The epoch in which to write, then the older ones. Nothing is written to a bucket that is not this group's."""
        _checked(key)
        epochs = self._keys.epochs()
        if not self._is_ours:
            claim(self.inner, self._keys)
            self._is_ours = True
        return epochs

    def _drop(self, key: str, older: Sequence[EpochKeys]) -> None:
        """From epochs in which it was replaced."""
        self._epochs_of.pop(key, None)
        if older:
            self.inner.delete([sealed_name(epoch, key) for epoch in older])

    @contextlib.contextmanager
    def _sealed(self, epoch: EpochKeys, key: str, whole: memoryview) -> Iterator[memoryview]:
        """The bytes to send, in a buffer that the same thread uses again: fresh pages cost as much as the sealing."""
        size = sealed_size(len(whole))
        buffer: bytearray | mmap.mmap
        if _SMALL < size <= _LARGE:
            buffer = self._own.__dict__.pop("buffer", None) or _new_buffer()
        else:
            buffer = bytearray(size)
        out = memoryview(buffer)[:size]
        Sealer(content_key(epoch, key), secrets.token_bytes(SALT_SIZE)).seal(whole, out)
        yield out.toreadonly()
        if isinstance(buffer, mmap.mmap):  # not after a failure: somebody may be reading it still
            self._own.buffer = buffer

    def _has(self, epoch: EpochKeys, key: str, data: memoryview) -> bool:
        """Whether the blob that is there has these bytes: then the reply to who put them was lost."""
        name = sealed_name(epoch, key)
        info = self.inner.head(name)
        if info is None or info.size != sealed_size(len(data)):
            return False
        try:
            sealed = memoryview(self.inner.get(name, info.size))
            return Opener(content_key(epoch, key)).open(sealed, 0, at_end=True) == data
        except (BlobNotFoundError, SizeLimitError, SealBrokenError):
            return False  # it is another one, at least


def bucket_of(blobs: BlobStore) -> BlobStore:
    """The bucket as its owner sees it, if these are sealed; else the same. Raises as `SealedBlobs.check`."""
    if not isinstance(blobs, SealedBlobs):
        return blobs
    blobs.check()
    return blobs.inner


def strict_of(blobs: BlobStore) -> BlobStore:
    """See `SealedBlobs.strictly`; the same if these are not sealed."""
    return blobs.strictly() if isinstance(blobs, SealedBlobs) else blobs


def strays_of(blobs: BlobStore) -> Iterator[BlobInfo]:
    """See `SealedBlobs.strays`; none if these are not sealed."""
    return blobs.strays() if isinstance(blobs, SealedBlobs) else iter(())


def _unpickled(inner: BlobStore, keys: Keys, miss_s: float, list_s: float, strict: bool) -> SealedBlobs:
    return SealedBlobs(inner, keys, miss_s=miss_s, list_s=list_s, strict=strict)


def _new_buffer() -> mmap.mmap:
    """As those of a push: large pages take a third of the time to touch, and what is not used takes no memory."""
    buffer = mmap.mmap(-1, _LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


def _checked(key: str) -> str:
    """Raises InvalidKeyError."""
    if len(check_key(key)) > MAX_SEALED_KEY:
        raise InvalidKeyError(f"{key[:40]!r}… has more than {MAX_SEALED_KEY} characters, as no key here", key=key)
    return key


def _opened_key(epoch: EpochKeys, name: str) -> str | None:
    """None for what is not ours, or a key that a member made up to lead elsewhere."""
    key = opened_name(epoch, name)
    try:
        return None if key is None else _checked(key)
    except InvalidKeyError:
        return None


def _sealed_parts(parts: Iterable[Data], sealer: Sealer) -> Iterator[memoryview]:
    """Whole segments in parts of at least 8 MiB, then the rest."""
    waiting = bytearray()
    for part in parts:
        waiting += part
        if len(waiting) > _PART + SEGMENT_SIZE:
            stop = (len(waiting) - 1) // SEGMENT_SIZE * SEGMENT_SIZE  # one byte at least is left for the last segment
            yield _seal(memoryview(waiting)[:stop], sealer, last=False)
            waiting = waiting[stop:]
    yield _seal(memoryview(waiting), sealer, last=True)


def _seal(data: memoryview, sealer: Sealer, *, last: bool) -> memoryview:
    out = memoryview(bytearray(sealed_size(len(data))))
    sealer.seal(data, out, last=last)
    return out.toreadonly()
