"""Condemned packs: a collector is about to delete them, so nobody relies on them any more. Never un-condemned.

condemned/<id> is JSON: {"format":"kacas condemned packs","packs":["<32 hex>",...],"version":1}
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable

from kacas.errors import NewerFormatError
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobNotFoundError, DamagedRemoteError
from kacas_remote.layout import CONDEMNED

_FORMAT, _VERSION = "kacas condemned packs", 1
_MAX_SIZE = 64 << 20  # bytes; 1.8 million packs
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def encode_condemned(packs: Iterable[bytes]) -> bytes:
    document = {"format": _FORMAT, "packs": sorted(pack.hex() for pack in packs), "version": _VERSION}
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode("ascii")


def decode_condemned(data: bytes) -> frozenset[bytes]:
    """Ids of packs. Raises ValueError; NewerFormatError for a later version."""
    document = json.loads(data)
    if not isinstance(document, dict) or document.get("format") != _FORMAT or not isinstance(document["version"], int):
        raise ValueError("it is no record of condemned packs")
    if document["version"] > _VERSION:
        needed = document["version"]
        raise NewerFormatError(f"condemned packs of version {needed} need a newer kacas; upgrade", needed=needed)
    packs = document.get("packs")
    if not isinstance(packs, list) or not all(isinstance(name, str) and _ID.fullmatch(name) for name in packs):
        raise ValueError("its packs are none")
    return frozenset(map(bytes.fromhex, packs))


def condemn(blobs: BlobStore, packs: Iterable[bytes]) -> str:
    """Write a record; returns its key."""
    key = f"{CONDEMNED}{secrets.token_hex(16)}"
    blobs.put_if_absent(key, encode_condemned(packs))
    return key


def read_condemned(blobs: BlobStore) -> dict[str, frozenset[bytes]]:
    """Every record: its key, and the packs. Raises DamagedRemoteError, NewerFormatError.

    Whoever is about to rely on packs lists these first, and packs/ after it: a record goes only after its packs.
    """
    found = {}
    for info in blobs.list(CONDEMNED):
        try:
            found[info.key] = decode_condemned(blobs.get(info.key, _MAX_SIZE))
        except BlobNotFoundError:
            continue  # done meanwhile
        except (ValueError, KeyError, RecursionError) as exc:
            raise DamagedRemoteError(
                f"{blobs.name}: {info.key} is damaged ({exc}); which packs are condemned is not known: see who wrote it, "
                "and delete it when nobody collects"
            ) from exc
    return found


def condemned_packs(blobs: BlobStore) -> set[bytes]:
    """Ids of all packs that nobody may rely on any more. Raises as `read_condemned`."""
    return set().union(*read_condemned(blobs).values())
