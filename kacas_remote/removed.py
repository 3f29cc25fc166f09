"""Removals: which entries of packs' tables were removed. By their ids, so what is pushed again meanwhile stays: no clock is asked.

removed/<sha1>.<id> holds ids of entries, 16 bytes each: of many contents, the first of which has this SHA-1. Who removes
a directory of thousands of files writes few records, and who pushes or pulls next reads few.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from kacas.errors import KacasError
from kacas.model.digest import ID_SIZE
from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.errors import BlobNotFoundError, DamagedRemoteError
from kacas_remote.layout import REMOVED

_MAX_SIZE = 16 << 20  # bytes; a million entries of one SHA-1
_TOGETHER = 4096  # entries in one record, or all of one SHA-1
_THREADS = 8

Fault = Callable[[str, KacasError], object]


def remove_entries(blobs: BlobStore, entry_ids: Mapping[bytes, Collection[bytes]]) -> dict[str, frozenset[bytes]]:
    """Write records of entries, which are given by SHA-1. Returns the records: their keys, and what each names."""
    records: dict[str, frozenset[bytes]] = {}
    for sha1, ids in _together(entry_ids):
        records[_put(blobs, sha1.hex(), ids)] = ids
    return records


def _together(entry_ids: Mapping[bytes, Collection[bytes]]) -> Iterator[tuple[bytes, frozenset[bytes]]]:
    first, ids = b"", set[bytes]()
    for sha1, more in sorted(entry_ids.items()):
        if ids and len(ids) + len(more) > _TOGETHER:
            yield first, frozenset(ids)
            ids = set()
        first = first if ids else sha1
        ids.update(more)
    if ids:
        yield first, frozenset(ids)


def _put(blobs: BlobStore, name: str, ids: frozenset[bytes]) -> str:
    key = f"{REMOVED}{name}.{secrets.token_hex(16)}"
    blobs.put_if_absent(key, b"".join(sorted(ids)))
    return key


def give_back(blobs: BlobStore, records: Mapping[str, frozenset[bytes]], entry_ids: Collection[bytes]) -> None:
    """Let entries count again that these records name. What else a record names is put into another one first, so that it never
    counts in between."""
    back = frozenset(entry_ids)
    changed = {key: ids - back for key, ids in records.items() if ids & back}
    for key, left in changed.items():
        if left:
            _put(blobs, key.removeprefix(REMOVED).partition(".")[0], left)
    blobs.delete(changed)


def read_removed(
    blobs: BlobStore, fault: Fault, known: Mapping[str, frozenset[bytes]] | None = None
) -> dict[str, frozenset[bytes]]:
    """Every record: its key, and the ids of the entries that do not count any more. Damaged ones are told to `fault`, and left out.

    known: records read before, which never change. Raises what the bucket does.
    """
    known = known or {}

    def read(info: BlobInfo) -> frozenset[bytes] | None:
        if info.key in known:
            return known[info.key]
        try:
            return _read(blobs, info)
        except BlobNotFoundError:
            return None  # a collector found nothing more that it would remove
        except DamagedRemoteError as exc:
            fault(info.key, exc)
            return None

    infos = list(blobs.list(REMOVED))
    with ThreadPoolExecutor(_THREADS, "kacas-removed") as pool:
        found = pool.map(read, infos)
        return {info.key: ids for info, ids in zip(infos, found, strict=True) if ids is not None}


def _read(blobs: BlobStore, info: BlobInfo) -> frozenset[bytes]:
    data = blobs.get(info.key, _MAX_SIZE) if info.size <= _MAX_SIZE else b""
    if info.size > _MAX_SIZE or len(data) % ID_SIZE:
        raise DamagedRemoteError(
            f"{blobs.name}: {info.key} is damaged: {info.size} bytes are no ids; remove the content again, then delete it"
        )
    return frozenset(data[at : at + ID_SIZE] for at in range(0, len(data), ID_SIZE))
