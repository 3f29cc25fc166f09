"""Keys of blobs: what is one, so that every backend refuses the same. Pure."""

from __future__ import annotations

import re

from kacas.errors import InvalidKeyError
from kacas_remote.errors import InvalidRemoteError

MAX_KEY = 800
MAX_PART = 200
"""Characters. A service takes 1024 bytes, prefix included; a file name has 255."""
# No backslash: SeaweedFS takes it for a slash.
_PART = re.compile(r"[\x20-\x5b\x5d-\x7e]+", re.ASCII)


def check_key(key: str) -> str:
    """The key itself. Raises InvalidKeyError: no key leads out of the place where blobs are, or is taken for a temporary."""
    why = _why_not(key)
    if why:
        raise InvalidKeyError(
            f"{key[:MAX_PART]!r} is no key of a blob: {why}. A key is printable ASCII, parts between slashes, as in packs/abc.pack",
            key=key,
        )
    return key


def check_prefix(prefix: str) -> str:
    """The beginning of keys; "" is that of all. Raises InvalidKeyError."""
    if prefix:
        check_key(prefix.removesuffix("/") + "-")  # its last part goes on in the keys
    return prefix


def place_prefix(path: str, url: str) -> str:
    """What all keys of a remote begin with, "" or `a/b/`, of the path in its URL. Raises InvalidRemoteError."""
    prefix = path.strip("/")
    why = _why_not(prefix) if prefix else ""
    if why:
        raise InvalidRemoteError(f"the prefix in {url} cannot be used: {why}; take one as in s3://bucket/lab/data")
    return prefix + "/" if prefix else ""


def _why_not(key: str) -> str:
    """Why this is no key; "" if it is one."""
    if len(key) > MAX_KEY:
        return f"it has more than {MAX_KEY} characters"
    for part in key.split("/"):
        if not part:
            return "a part of it is empty"
        if part in (".", ".."):
            return f"a part of it is {part!r}"
        if len(part) > MAX_PART:
            return f"a part of it has more than {MAX_PART} characters"
        if not _PART.fullmatch(part):
            return "it has characters that are no printable ASCII, or a backslash"
        if part.startswith(".") and ".tmp." in part:
            return "a part of it is named as temporaries are"
    return ""
