"""Packs in a bucket whose marker is gone: each names the remote that it was made for."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from kacas.errors import NewerFormatError
from kacas.model.pack_format import HEADER_SIZE, NewerPackError, PackFormatError, decode_header
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobNotFoundError
from kacas_remote.layout import PACKS, pack_id_of

_THREADS = 16
_AT_ONCE = 1024


def has_packs(blobs: BlobStore) -> bool:
    """One round trip."""
    return any(pack_id_of(info.key) for info in blobs.list(PACKS))


def ids_in_packs(blobs: BlobStore) -> Counter[bytes]:
    """How many packs name which remote. Those that are damaged name none. One small request for each pack.

    Raises NewerFormatError, and what the service raises.
    """

    def named(key: str) -> bytes | None:
        try:
            header = decode_header(blobs.get_ranges(key, [(0, HEADER_SIZE)])[0])
        except BlobNotFoundError:
            return None
        except NewerPackError as exc:
            raise NewerFormatError(f"{blobs.name}: {key}: {exc}; upgrade kacas", needed=exc.version) from exc
        except PackFormatError:
            return None
        return header.store_id if header.pack_id == pack_id_of(key) else None

    found: Counter[bytes] = Counter()
    keys = (info.key for info in blobs.list(PACKS) if pack_id_of(info.key))
    with ThreadPoolExecutor(_THREADS, "kacas-unmarked") as pool:
        while part := list(islice(keys, _AT_ONCE)):
            found.update(one for one in pool.map(named, part) if one is not None)
    return found
