"""CloudBlobs: a bucket at Amazon S3 or what speaks like it, at Google or at Azure, by obstore."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any, Literal, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from kacas.errors import SizeLimitError
from kacas_remote.blobs import failures
from kacas_remote.blobs.blob_store import BlobInfo
from kacas_remote.blobs.credentials import Credentials
from kacas_remote.blobs.joined_ranges import Joined, handed_out, joined_ranges
from kacas_remote.blobs.keys import check_key, check_prefix
from kacas_remote.blobs.part_sizes import MOST_IN_PARTS, part_size, parts_at_once
from kacas_remote.blobs.patience import SLOWEST_BYTES_S, Patience
from kacas_remote.blobs.per_process import PerProcess
from kacas_remote.errors import BlobNotFoundError, NotSupportedError, RemoteUnavailableError

CONNECT_S = 10
SILENCE_S = 60.0
_LONGEST_S = 3600
_PART_RETRIES = 8
_LARGE = 1 << 20
_DELETED = 1000

_STORES = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
_Store = S3Store | GCSStore | AzureStore


class _Clients:
    """Of obstore, which has one set of timeouts each: `quick` notices a silence, for which it also takes a long upload; the
    others bound the whole of one."""

    def __init__(self, connect: Callable[..., _Store], silence_s: float, slowest_bytes_s: float) -> None:
        self._connect = connect
        self._uploads: dict[tuple[float, int], _Store] = {}
        self.quick = connect(timeout_s=_LONGEST_S, silence_s=silence_s)
        self.patience = Patience(silence_s, slowest_bytes_s)

    def upload(self, timeout_s: float, retries: int = 0) -> _Store:
        """retries: by the client itself, as for the parts of an upload."""
        known = self._uploads.get((timeout_s, retries))
        return known or self._uploads.setdefault(
            (timeout_s, retries), self._connect(timeout_s=timeout_s, retries=retries)
        )


class CloudBlobs:
    """Not safe after fork by itself, as obstore is not: `spawned` makes it so.

    `list` has the order of the service: SeaweedFS lists `a/b` before `a-b`, which kacas has no keys for.
    """

    def __init__(
        self,
        scheme: str,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        credentials: Credentials | None = None,
        silence_s: float = SILENCE_S,
        slowest_bytes_s: float = SLOWEST_BYTES_S,
    ) -> None:
        """scheme: s3, gs or az. prefix: "" or `a/b/`. credentials: None if the environment decides. silence_s: without a byte
        for so long, an answer will not come. slowest_bytes_s: of an upload that is not taken for stalled."""
        self._silence_s, self._slowest_bytes_s = silence_s, slowest_bytes_s
        self._scheme, self._bucket, self._prefix = scheme, bucket, prefix
        self._endpoint, self._region = endpoint, region
        self._credentials = credentials or Credentials()
        self._clients = PerProcess(self._connect)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_clients"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._clients = PerProcess(self._connect)

    def __repr__(self) -> str:
        return f"CloudBlobs({self.name!r})"

    @property
    def name(self) -> str:
        return f"{self._scheme}://{self._bucket}/{self._prefix}".rstrip("/")

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        full = self._full(key)
        whole = memoryview(data).cast("B")
        with self._translating(key, "creating"):
            try:
                self._upload(full, whole, "create")
                return True
            except (AlreadyExistsError, PreconditionError):
                pass  # perhaps it is ours, and the reply was lost
        return self._has(key, whole)

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        full = self._full(key)
        whole = memoryview(data).cast("B")
        with self._translating(key, "writing"):
            self._upload(full, whole, "overwrite")

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        full = self._full(key)
        part, at_once = part_size(size), parts_at_once(size)
        if size > MOST_IN_PARTS and self._scheme != "az":
            raise NotSupportedError(
                f"{self.name} takes no {key} of {size} bytes: a blob there has 5 TiB at most. Push it without --plain",
                path=self.name,
            )
        watched = _Watched(parts)
        clients = self._clients.get()
        try:
            with self._translating(key, "writing"):
                obstore.put(
                    clients.upload(clients.patience.upload_s(part * at_once), _PART_RETRIES),
                    full,
                    watched,
                    use_multipart=True,
                    chunk_size=part,
                    max_concurrency=at_once,
                )
        except Exception:
            if watched.failure:
                raise watched.failure from None
            raise

    def get(self, key: str, limit: int) -> bytes:
        with self._translating(key, "reading"):
            found = obstore.get(self._clients.get().quick, self._full(key))
            size = found.meta["size"]
            if size <= limit:
                return found.bytes().to_bytes()
        raise SizeLimitError(f"{self.name}: {key} has {size} bytes, and at most {limit} were expected; it was not read")

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        full = self._full(key)
        joined = joined_ranges(ranges)
        answers: Sequence[memoryview] = []
        if joined:
            with self._translating(key, "reading"):
                try:
                    answers = self._ranges(full, joined)
                except BaseError as exc:
                    if "status code: 416" not in str(exc):
                        raise
                    answers = self._ranges_to_the_end(key, joined)
        return handed_out(ranges, joined, answers)

    def head(self, key: str) -> BlobInfo | None:
        full = self._full(key)
        try:
            with self._translating(key, "looking at"):
                return self._info(obstore.head(self._clients.get().quick, full))
        except BlobNotFoundError:
            return None

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        start = self._prefix + check_prefix(prefix)
        directory = start[: start.rfind("/") + 1]
        # obstore only knows prefixes that are whole parts of keys; a key just before ours leads to the rest.
        behind = self._prefix + after if after else ""
        if start > directory:
            behind = max(behind, _just_before(start))
        with self._translating("", "listing"):
            pages = obstore.list(self._clients.get().quick, directory or None, offset=behind or None, chunk_size=1000)
            for page in pages:
                for found in page:
                    if not found["path"].startswith(start):
                        if found["path"][: len(start)] > start:
                            return
                        continue
                    info = self._info(found)
                    if info.key > after:
                        yield info

    def delete(self, keys: Iterable[str]) -> None:
        remaining = iter([self._full(key) for key in keys])
        at_once = _DELETED if self._scheme == "s3" else 1  # the others fail where one is not there
        while some := _some(remaining, at_once):
            try:
                with self._translating(some[0][len(self._prefix) :], "removing"):
                    obstore.delete(self._clients.get().quick, some)
            except BlobNotFoundError:
                pass

    def sign(self, key: str, method: str, expires_s: int) -> str:
        full = self._full(key)
        if method not in ("GET", "PUT", "HEAD"):
            raise ValueError(f"{method} is not signed: GET, HEAD and PUT are")
        with self._translating(key, "signing"):
            store = self._clients.get().quick
            return obstore.sign(store, cast(Any, method), full, timedelta(seconds=expires_s))

    def close(self) -> None:
        self._clients.forget()

    def _connect(self) -> _Clients:
        try:
            return _Clients(self._client, self._silence_s, self._slowest_bytes_s)
        except (BaseError, ValueError) as exc:
            raise failures.of_opening(exc, self.name) from None

    def _client(self, *, timeout_s: float, silence_s: float = 0, retries: int = 0) -> _Store:
        options: dict[str, Any] = {
            "connect_timeout": f"{CONNECT_S}s",
            "timeout": f"{timeout_s * 1000:.0f}ms",
            "allow_http": (self._endpoint or "").startswith("http://"),
            "user_agent": "kacas",
        }
        if silence_s:
            options["read_timeout"] = f"{silence_s * 1000:.0f}ms"
        config: dict[str, Any] = dict(self._credentials.values())
        if self._endpoint:
            config["base_url" if self._scheme == "gs" else "endpoint"] = self._endpoint.rstrip("/")
        if self._scheme == "s3" and (self._region or self._endpoint):
            config["region"] = self._region or "us-east-1"
        # A part that took all its time is tried once more, at least.
        retry = {"max_retries": retries, "retry_timeout": timedelta(seconds=max(180.0, 1.5 * timeout_s))}
        return cast(
            _Store,
            cast(Any, _STORES[self._scheme])(self._bucket, config=config, client_options=options, retry_config=retry),
        )

    def _upload(self, full: str, whole: memoryview, mode: Literal["create", "overwrite"]) -> None:
        clients, size = self._clients.get(), len(whole)
        if size <= _LARGE:
            obstore.put(clients.quick, full, whole, use_multipart=False, mode=mode)
            return
        upload_s, start_s = clients.patience.upload_s(size), time.monotonic()
        try:
            obstore.put(clients.upload(upload_s), full, whole, use_multipart=False, mode=mode)
        except BaseError:
            if time.monotonic() - start_s >= upload_s:
                clients.patience.was_too_short(upload_s, size)
            raise
        clients.patience.took(time.monotonic() - start_s, size)

    def _ranges(self, full: str, joined: Sequence[Joined]) -> Sequence[memoryview]:
        answers = obstore.get_ranges(
            self._clients.get().quick,
            full,
            starts=[part.start for part in joined],
            ends=[part.stop for part in joined],
            coalesce=0,
        )
        return [memoryview(answer) for answer in answers]

    def _ranges_to_the_end(self, key: str, joined: Sequence[Joined]) -> Sequence[memoryview]:
        """For ranges of which one begins where there is nothing: a service refuses it."""
        info = self.head(key)
        size = info.size if info else 0
        there = [part._replace(stop=min(part.stop, size)) for part in joined if part.start < size]
        answers = self._ranges(self._full(key), there) if there else []
        return [*answers, *[memoryview(b"")] * (len(joined) - len(there))]

    def _has(self, key: str, data: memoryview) -> bool:
        """Whether the blob is there with these bytes. An ETag is most often their MD5; where it is not, they are read."""
        info = self.head(key)
        if info is None:
            raise RemoteUnavailableError(
                f"creating {key} at {self.name} failed: somebody else began to at the same time, and did not end. Try again",
                path=self.name,
            )
        if info.size != len(data):
            return False
        if info.e_tag == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return True
        return self.get(key, len(data)) == data

    def _full(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _info(self, found: Any) -> BlobInfo:
        e_tag = (found["e_tag"] or "").strip('"')
        return BlobInfo(found["path"][len(self._prefix) :], found["size"], found["last_modified"].timestamp(), e_tag)

    @contextmanager
    def _translating(self, key: str, doing: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError) as exc:
            if isinstance(exc, BlobNotFoundError):
                raise
            raise failures.of_client(exc, self.name, key, doing) from None


class _Watched:
    """Parts of an upload; `failure` is what their maker raised, which is not the service's."""

    def __init__(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        self._parts = parts
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes | bytearray | memoryview]:
        try:
            yield from self._parts
        except GeneratorExit:
            raise  # it is the service that wants no more
        except BaseException as exc:
            self.failure = exc
            raise


def _some(keys: Iterator[str], most: int) -> Sequence[str]:
    return [*islice(keys, most)]


def _just_before(key: str) -> str:
    """A key before this one, with few between them."""
    return key[:-1] + chr(ord(key[-1]) - 1) + "~" if key[-1] > "!" else key[:-1]
