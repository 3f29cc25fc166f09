"""The marker that everybody can read in the bucket of a private remote: whose it is, so that nobody takes it for a plain one.

kacas-remote.json    {"format": 2, "scheme": "kacas-group-1", "group": "ag_<32 hex>"}
"""

from __future__ import annotations

import json
import re

from kacas_remote.sealing.epoch_keys import SCHEME

PRIVATE_FORMAT = 2
MAX_MARKER_SIZE = 16 << 10


def encode_private_marker(group_id: bytes) -> bytes:
    """The same for the same group: of several who make it at once, all did."""
    marker = {"format": PRIVATE_FORMAT, "scheme": SCHEME, "group": f"ag_{group_id.hex()}"}
    return (json.dumps(marker) + "\n").encode("ascii")


def private_group(data: bytes) -> tuple[str, str] | None:
    """Group, as ag_<32 hex>, and scheme in a marker; None for what is no marker of a private remote."""
    try:
        marker = json.loads(data.decode("utf-8"))
        version, group, scheme = marker["format"], marker["group"], marker["scheme"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if version != PRIVATE_FORMAT or not isinstance(group, str) or not re.fullmatch(r"ag_[0-9a-f]{32}", group):
        return None
    return (group, scheme[:40]) if isinstance(scheme, str) else None
