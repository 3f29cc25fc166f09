"""The functions that make a URI one that only the members of an access group can read, and the reverse."""

from __future__ import annotations

from kacas.private_uris import any_uri, encrypted_uris


def encrypt_uri(uri: str, *, access_group: str, hide_label: bool = False) -> str:
    """A URI of the same content that tells what that is to nobody but the members of an access group.

    >>> uri = store_text("for us", label="a.txt")
    >>> encrypted = encrypt_uri(uri, access_group="lab")
    >>> encrypted[:11], encrypted[-12:]
    ('sha1-enc://', '?label=a.txt')
    >>> load_text(encrypted)
    'for us'

    Every function that takes a URI takes it, for members. One URI has one text, until somebody leaves the group. access_group:
    its name, as `kacas group list` shows it, or ag_<32 hex>. hide_label: the label is for members only, too. The URI may be
    encrypted already, for this group or for another: then it is decrypted first. It hides a name, not the bytes of the
    content: for that there are private remotes.
    Raises InvalidUriError, GroupNotFoundError, GroupAccessError, MissingPackageError.
    """
    return encrypted_uris([any_uri(uri)], access_group, hide_label=hide_label)[0]


def decrypt_uri(uri: str) -> str:
    """The URI that was encrypted. One that is not is given back as it is.

    >>> decrypt_uri(encrypt_uri(store_text("for us"), access_group="lab", hide_label=True))
    'sha1://8536e319836d83a2a116280fb2627a5eae409ae7'

    Raises InvalidUriError if it was altered, GroupAccessError if you are no member of its group, GroupNotFoundError if you do
    not know that, MissingPackageError.
    """
    return any_uri(uri).plain
