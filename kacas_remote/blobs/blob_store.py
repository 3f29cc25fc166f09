"""BlobStore: the few things that a remote needs of a bucket. One conformance suite holds for every backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol


class BlobInfo(NamedTuple):
    """size: bytes. modified_s: seconds since the epoch by the service's clock. e_tag: changes with the bytes; "" if unknown."""

    key: str
    size: int
    modified_s: float
    e_tag: str = ""


class BlobStore(Protocol):
    """Blobs by key: `a/b/c`, ASCII, no empty part, none that is `.` or `..`. Keys are below the prefix that it was opened with.

    Thread-safe; safe after fork; picklable. Raises RemoteUnavailableError if the service is not there or fails for longer than
    retries go on, RemoteRefusedError if it does not let us, BlobNotFoundError for a key that is not there, BlobChangedError.
    """

    @property
    def name(self) -> str:
        """For messages: its URL, without credentials."""
        ...

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        """Create the blob, whole or not at all. False if there is one already, which is left as it is, unless it is this very
        one: then the reply was lost, and it is ours."""
        ...

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Create or replace the blob, whole or not at all."""
        ...

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        """As `put`, of any size, in bounded memory. Parts, but the last, have 8 MiB or more. If `parts` raises, nothing is put.

        size: about how many bytes come, for who knows it; 0 for up to 256 GiB. Raises NotSupportedError if it is too many."""
        ...

    def get(self, key: str, limit: int) -> bytes:
        """The whole blob. Raises SizeLimitError, before memory is taken, if it has more than `limit` bytes."""
        ...

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Bytes start:stop of each range, in as few requests as the service needs, in parallel. A range that goes beyond the
        end gives what there is: what was asked for is compared by who asked."""
        ...

    def head(self, key: str) -> BlobInfo | None:
        """None if there is no such blob."""
        ...

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        """Blobs whose key begins with `prefix` and is greater than `after`, in the order of their keys' bytes."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Those that are not there are none of our business."""
        ...

    def sign(self, key: str, method: str, expires_s: int) -> str:
        """A URL with which anybody may GET or PUT this blob for a while. Raises NotSupportedError."""
        ...

    def close(self) -> None:
        """Release connections. It may be used again."""
        ...
