"""Removals: which entries of packs' tables were removed. By their ids, so what is pushed again meanwhile stays: no clock is asked.

removed/<sha1>.<id> holds ids of entries, 16 bytes each.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from kacas.model.digest import ID_SIZE
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobNotFoundError, DamagedRemoteError
from kacas_remote.layout import REMOVED

_MAX_SIZE = 16 << 20  # bytes; a million entries of one SHA-1
_THREADS = 8


def remove_entries(blobs: BlobStore, sha1: bytes, entry_ids: Iterable[bytes]) -> str:
    """Write a record; returns its key."""
    key = f"{REMOVED}{sha1.hex()}.{secrets.token_hex(16)}"
    blobs.put_if_absent(key, b"".join(sorted(entry_ids)))
    return key


def read_removed(blobs: BlobStore, known: dict[str, frozenset[bytes]] | None = None) -> dict[str, frozenset[bytes]]:
    """Every record: its key, and the ids of the entries that do not count any more. known: records read before, which never
    change. Raises DamagedRemoteError."""
    known = known or {}
    keys = [info.key for info in blobs.list(REMOVED)]
    with ThreadPoolExecutor(_THREADS, "kacas-removed") as pool:
        read = pool.map(lambda key: known.get(key) or _read(blobs, key), keys)
        return {key: ids for key, ids in zip(keys, read, strict=True) if ids is not None}


def _read(blobs: BlobStore, key: str) -> frozenset[bytes] | None:
    try:
        data = blobs.get(key, _MAX_SIZE)
    except BlobNotFoundError:
        return None  # a collector found nothing more that it would remove
    if len(data) % ID_SIZE:
        raise DamagedRemoteError(
            f"{blobs.name}: {key} is damaged: {len(data)} bytes are no ids; remove the content again, then delete it"
        )
    return frozenset(data[at : at + ID_SIZE] for at in range(0, len(data), ID_SIZE))
