"""What a service honours: tried on it, under probes/, which is empty again afterwards."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from kacas.errors import NewerFormatError
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.configuration import READ_ONLY_SCHEMES, Probed, RemoteConfiguration
from kacas_remote.errors import DamagedRemoteError, NotSupportedError, RemoteRefusedError
from kacas_remote.layout import MARKER, PACKS, PROBES
from kacas_remote.remote import Remote

_RIVALS = 8
_PART = 8 << 20  # the least that a part of several may have
_SIGNED_S = 300
_SKEW_S = 300  # Amazon refuses requests from 15 minutes on
_REFUSALS = (RemoteRefusedError, NotSupportedError)
_LOCAL = ("file", "memory")


def probe(remote: Remote) -> Probed:
    """Try it; 17 MiB are moved if it can be written. Nothing of it stays, if it lets us delete.

    A private one is tried as its service sees it: nothing of what is tried is worth sealing.
    Raises RemoteUnavailableError, RemoteNotFoundError, RemoteRefusedError if it lets us do nothing at all, InvalidRemoteError if
    it is private and was not said to be, or the other way round, and GroupAccessError if it is another group's.
    """
    blobs, scheme = remote.bucket(), remote.configuration.scheme
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    listing, why = _lists(blobs)
    if why is not None and not _reads(blobs):
        raise why
    if not remote.configuration.private:
        with suppress(DamagedRemoteError, NewerFormatError, RemoteRefusedError):  # who uses it is told so
            bool(remote.marked)
    seen = Probed(at=now, listing=listing, writable=False)
    if scheme in READ_ONLY_SCHEMES or remote.configuration.read_only:
        return _by_reading(blobs, seen)
    place = f"{PROBES}{secrets.token_hex(8)}-"
    try:
        blobs.put(f"{place}small", _SMALL)
    except _REFUSALS:
        return _by_reading(blobs, seen)
    made = [f"{place}{name}" for name in ("small", "race", "parts", "wrong", "right")]
    try:
        seen = replace(
            seen,
            writable=True,
            conditional_put=_one_wins(blobs, f"{place}race"),
            ranges=_gives_ranges(blobs, f"{place}small"),
            multipart=_takes_parts(blobs, f"{place}parts"),
        )
        if scheme not in _LOCAL:
            seen = _by_signed_urls(blobs, place, seen)
    finally:
        deleting = _deletes(blobs, made)
    return replace(seen, deleting=deleting)


_SMALL = bytes(range(256)) * 16


def _lists(blobs: BlobStore) -> tuple[bool, RemoteRefusedError | None]:
    try:
        next(iter(blobs.list(PACKS)), None)
        return True, None
    except RemoteRefusedError as exc:
        return False, exc
    except NotSupportedError:
        return False, None


def _reads(blobs: BlobStore) -> bool:
    try:
        return blobs.head(MARKER) is not None
    except RemoteRefusedError:
        return False


def _one_wins(blobs: BlobStore, key: str) -> bool | None:
    """Several at once, each with bytes of its own: one is told that it created the blob, and the blob is that one's."""
    rivals = [secrets.token_bytes(1000) for _ in range(_RIVALS)]
    with ThreadPoolExecutor(_RIVALS) as pool:
        try:
            won = list(pool.map(lambda data: blobs.put_if_absent(key, data), rivals))
        except NotSupportedError:
            return False
    winners = [data for data, is_first in zip(rivals, won, strict=True) if is_first]
    return len(winners) == 1 and blobs.get(key, 1 << 20) == winners[0]


def _gives_ranges(blobs: BlobStore, key: str) -> bool:
    wanted = [(1, 3), (1000, 3000), (len(_SMALL) - 1, len(_SMALL))]
    try:
        found = blobs.get_ranges(key, wanted)
    except NotSupportedError:
        return False
    return [bytes(part) for part in found] == [_SMALL[start:stop] for start, stop in wanted]


def _takes_parts(blobs: BlobStore, key: str) -> bool:
    part, end = secrets.token_bytes(_PART), b"the last part"
    try:
        blobs.put_parts(key, iter([part, end]))
        found = blobs.head(key)
    except _REFUSALS:
        return False
    return found is not None and found.size == len(part) + len(end)


def _by_reading(blobs: BlobStore, seen: Probed) -> Probed:
    """Ranges, tried on the marker, if there is one; and the service's clock."""
    import httpx

    try:
        reading = blobs.sign(MARKER, "GET", _SIGNED_S)
    except _REFUSALS:
        return seen
    try:
        with (
            httpx.Client(timeout=30, follow_redirects=True) as client,
            client.stream("GET", reading, headers={"Range": "bytes=1-2"}) as answer,
        ):
            ranges = {200: False, 206: True}.get(answer.status_code)
            return replace(seen, ranges=ranges, clock_s=_clock_s(answer.headers.get("date")))
    except httpx.HTTPError:
        return seen  # what the client itself could do is known by now


def _clock_s(date: str | None) -> int | None:
    try:
        return None if date is None else round(parsedate_to_datetime(date).timestamp() - time.time())
    except ValueError:
        return None


def _by_signed_urls(blobs: BlobStore, place: str, seen: Probed) -> Probed:
    """What is seen best without the client between: checksums, and the service's clock."""
    import httpx

    try:
        reading = blobs.sign(f"{place}small", "GET", _SIGNED_S)
    except _REFUSALS:
        return replace(seen, signing=False)
    try:
        with httpx.Client(timeout=30, follow_redirects=False) as client:
            answer = client.get(reading)
            return replace(
                seen,
                signing=answer.status_code == 200 and answer.content == _SMALL,
                checksums=_refuses_wrong_bytes(blobs, place, client),
                clock_s=_clock_s(answer.headers.get("date")),
            )
    except httpx.HTTPError:
        # Its words would hold the signed URL. What the client itself could do is known by now.
        return seen


def _refuses_wrong_bytes(blobs: BlobStore, place: str, client: object) -> bool | None:
    """None if right ones are refused, too."""
    import httpx

    assert isinstance(client, httpx.Client)
    statuses = []
    for name, hashed in (("right", _SMALL), ("wrong", b"other bytes")):
        digest = base64.b64encode(hashlib.md5(hashed, usedforsecurity=False).digest()).decode("ascii")
        url = blobs.sign(f"{place}{name}", "PUT", _SIGNED_S)
        statuses.append(client.put(url, content=_SMALL, headers={"Content-MD5": digest}).status_code)
    right, wrong = statuses
    return None if right >= 300 else 400 <= wrong < 500


def _deletes(blobs: BlobStore, keys: list[str]) -> bool:
    try:
        blobs.delete(keys)
        return not any(blobs.head(key) for key in keys)
    except _REFUSALS:
        return False


_MEANINGS: tuple[tuple[Callable[[Probed], bool], str], ...] = (
    (lambda seen: seen.writable is False, "It can only be read: nothing can be pushed to it."),
    (
        lambda seen: seen.conditional_put is False,
        "Of several who create one blob at once, more than one is told that it did. Content is safe, as packs have random "
        "names and never change; but let one host at a time push first recipes there, and one collect.",
    ),
    (
        lambda seen: seen.ranges is False,
        "It gives no parts of a blob: every slice of an array loads whole packs or files. Loading whole files works.",
    ),
    (
        lambda seen: seen.checksums is False,
        "It does not compare uploads with their checksums: bytes that break on the way are found when they are read, or by "
        "`kacas remote verify`. Nothing wrong is ever handed out.",
    ),
    (
        lambda seen: seen.multipart is False,
        "It takes no blobs in parts: a plain object must be sent in one piece, of at most 5 GiB.",
    ),
    (
        lambda seen: seen.listing is False,
        "It does not list what it has: only contents with a recipe of their own, and plain objects, are found there, and nothing "
        "can be pushed. For a bucket, give the permission to list.",
    ),
    (
        lambda seen: seen.deleting is False,
        "It lets us delete nothing: leases of pushes stay, and `kacas remote gc` must be run by somebody who may.",
    ),
    (
        lambda seen: seen.signing is False and seen.writable is True,
        "It gives no signed URLs: nothing can be shared for a while with somebody who has no credentials.",
    ),
    (
        lambda seen: seen.clock_s is not None and abs(seen.clock_s) > _SKEW_S,
        "Its clock and ours differ by more than five minutes; from fifteen on requests are refused. Set this host's clock (NTP).",
    ),
)


def shortcomings(seen: Probed, remote: RemoteConfiguration) -> Iterator[str]:
    """What is missing, in words, and what it means for the user."""
    if remote.scheme == "memory":
        yield "It is in the memory of one process: it is gone when that ends."
    for is_so, words in _MEANINGS:
        if is_so(seen):
            yield words
