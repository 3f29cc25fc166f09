"""open_blobs: the blob store that a URL names, with retries, limits and safety after fork around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.keys import place_prefix
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.errors import InvalidRemoteError

_FORMS = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///directory, https://server/path or memory://name"


def open_blobs(
    url: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    credentials: Mapping[str, str] | None = None,
    limit_bytes_s: float | None = None,
) -> BlobStore:
    """The blob store at `url`; nothing is asked of it yet.

    Raises InvalidRemoteError, also for a URL with a user name or password in it.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise InvalidRemoteError(f"this is no URL of a remote; one is {_FORMS}") from None
    if "@" in parts.netloc:
        raise InvalidRemoteError(
            f"the URL of a remote has a user name or a password in it ({parts.scheme}://…@{host}); URLs are shown and kept, so "
            "leave it out: credentials belong into the environment or into credentials.toml"
        )
    if parts.query or parts.fragment:
        raise InvalidRemoteError(
            f"the URL of a remote ends before `?` and `#`: {parts.scheme}://{parts.netloc}{parts.path}"
        )
    if parts.scheme == "memory":
        return MemoryBlobs(parts.netloc, place_prefix(parts.path, url))
    if parts.scheme == "file":
        return DirectoryBlobs(_directory(parts.netloc, parts.path, url))
    raise InvalidRemoteError(f"{url} is no URL of a remote; one is {_FORMS}")


def _directory(host: str, path: str, url: str) -> Path:
    if host not in ("", "localhost") or not path.startswith("/"):
        raise InvalidRemoteError(
            f"{url} names no directory of this machine; write three slashes, as in file:///srv/lab"
        )
    directory = unquote(path)
    if "\0" in directory:
        raise InvalidRemoteError(f"{url} names no directory: it has a zero byte in it")
    return Path(directory)
