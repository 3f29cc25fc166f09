"""The door for URIs of every kind: an encrypted one is opened here, for members of its access group, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kacas.errors import MissingPackageError
from kacas.model.uri import DirectoryUri, Uri, parse_any_uri

_ENCRYPTED = "sha1-enc://"


def any_uri(text: str) -> Uri | DirectoryUri:
    """Parse a URI of content, or of a directory or something in it, encrypted or not.

    Raises InvalidUriError; for an encrypted one GroupAccessError if this user is no member, GroupNotFoundError,
    MissingPackageError, DamagedGroupError.
    """
    return parse_any_uri(text) if not is_encrypted(text) else any_uris([text])[0]


def any_uris(texts: Sequence[str]) -> list[Uri | DirectoryUri]:
    """As `any_uri`, many at once."""
    encrypted = [text for text in texts if is_encrypted(text)]
    if not encrypted:
        return list(map(parse_any_uri, texts))
    with _packages():
        from kacas_remote.private_uris import open_uris

        opened = dict(zip(encrypted, open_uris(encrypted), strict=True))
    return [opened[text] if is_encrypted(text) else parse_any_uri(text) for text in texts]


def is_encrypted(text: str) -> bool:
    """Whether it begins as an encrypted URI does."""
    return str(text).startswith(_ENCRYPTED)


def encrypted_uris(uris: Sequence[Uri | DirectoryUri], access_group: str, *, hide_label: bool = False) -> list[str]:
    """Those that the members of a group can open: see `kacas.encrypt_uri`."""
    with _packages():
        from kacas_remote.private_uris import encrypt_uris

        return encrypt_uris(uris, access_group, hide_label=hide_label)


@contextmanager
def _packages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as exc:
        raise MissingPackageError(
            f"encrypted URIs need a package that is not installed ({exc.name}): pip install 'kacas[remote]'",
            package="kacas[remote]",
        ) from exc
