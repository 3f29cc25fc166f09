"""The claim: a bucket is private to one access group from the first thing on that is put there, or it is not."""

from __future__ import annotations

from kacas.errors import NewerFormatError, SizeLimitError
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobNotFoundError, GroupAccessError, InvalidRemoteError, NotSupportedError
from kacas_remote.layout import MARKER, PACKS, PLAIN, RECIPES
from kacas_remote.sealing.epoch_keys import SCHEME, Keys
from kacas_remote.sealing.private_marker import MAX_MARKER_SIZE, PRIVATE_FORMAT, encode_private_marker, private_group


def is_claimed(blobs: BlobStore, keys: Keys) -> bool:
    """Whether the bucket is marked as private to this group; False if it has no marker.

    Raises InvalidRemoteError if it is a plain remote, GroupAccessError if it is another group's, NewerFormatError.
    """
    try:
        found = private_group(blobs.get(MARKER, MAX_MARKER_SIZE))
    except BlobNotFoundError:
        return False
    except SizeLimitError:
        found = None
    if found is None:
        raise _not_private(blobs, keys)
    group, scheme = found
    if group != f"ag_{keys.group_id.hex()}":
        raise GroupAccessError(
            f"{blobs.name} is private to {group}, and not to {keys.group_name}: add it with that group, or take another bucket "
            "or prefix",
            path=blobs.name,
        )
    if scheme != SCHEME:
        raise NewerFormatError(
            f"{blobs.name} is sealed as {scheme!r}, which this kacas does not know; upgrade kacas",
            needed=PRIVATE_FORMAT + 1,
        )
    return True


def claim(blobs: BlobStore, keys: Keys) -> None:
    """Mark the bucket as private to this group, unless it is already. Raises as `is_claimed`, and if plain blobs are there."""
    if is_claimed(blobs, keys):
        return
    for prefix in (PACKS, RECIPES, PLAIN):
        try:
            if next(iter(blobs.list(prefix)), None) is not None:
                raise _not_private(blobs, keys)
        except NotSupportedError:
            break  # what cannot be listed is not written, either
    if not blobs.put_if_absent(MARKER, encode_private_marker(keys.group_id)):
        is_claimed(blobs, keys)


def _not_private(blobs: BlobStore, keys: Keys) -> InvalidRemoteError:
    return InvalidRemoteError(
        f"{blobs.name} is a plain remote: what is there lies open, so it cannot be private to {keys.group_name}. Take another "
        "bucket or prefix for what is private, or add this one without --private"
    )
