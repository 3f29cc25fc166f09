"""Opening: the bucket that a remote of the user names, as it is. Asks nothing of the service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kacas.errors import MissingPackageError
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.credentials import credentials_of, region_of

_PACKAGES = ("obstore", "httpx", "tenacity", "nacl")


def open_bucket(configuration: RemoteConfiguration, *, retry_for_s: float | None = None) -> BlobStore:
    """The blobs at its URL, also those of a private remote as they lie there: sealed.

    retry_for_s: how long a call that fails is tried again, if not for as long as usual.
    Raises InvalidSettingError if its credentials cannot be read, MissingPackageError.
    """
    with packages_for(configuration.name):
        from kacas_remote.blobs.open_blobs import open_blobs
        from kacas_remote.blobs.retrying import TOTAL_S

        return open_blobs(
            configuration.url,
            endpoint=configuration.endpoint or None,
            region=region_of(configuration),
            credentials=credentials_of(configuration),
            retry_for_s=TOTAL_S if retry_for_s is None else retry_for_s,
        )


@contextmanager
def packages_for(name: str) -> Iterator[None]:
    """What is imported in here needs the packages for remotes. Raises MissingPackageError."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise MissingPackageError(
            f"remote {name} needs a package that is not installed ({exc.name}): pip install 'kacas[remote]'",
            package="kacas[remote]",
        ) from exc
