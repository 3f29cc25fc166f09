"""The Ed25519 key pair of kachery-cloud, two PEM files."""

from __future__ import annotations

import base64

from kacas.disk.identity_file import KeyPair
from kacas.interop.kachery_directory import KacheryDirectory

PEM_FILES = ("public.pem", "private.pem")
_MOST = 16 << 10  # bytes of a file with a key
# RFC 8410: what stands before the 32 bytes of an Ed25519 key in DER.
_PUBLIC_FRONT = bytes.fromhex("302a300506032b6570032100")
_PRIVATE_FRONT = bytes.fromhex("302e020100300506032b657004220420")


def kachery_key_pair(directory: KacheryDirectory) -> KeyPair | None:
    """The pair in the directory, None if there is none. Raises OSError, and ValueError for what is no pair."""
    keys = [
        _key(directory, "public.pem", "PUBLIC", _PUBLIC_FRONT),
        _key(directory, "private.pem", "PRIVATE", _PRIVATE_FRONT),
    ]
    public, private = keys
    if public is None and private is None:
        return None
    if public is None or private is None:
        raise ValueError(f"{'public' if public is None else 'private'}.pem is missing")
    return KeyPair(public, private)


def pem_file(name: str, pair: KeyPair) -> bytes:
    """One of the two files. name: in PEM_FILES."""
    if name == "public.pem":
        return _pem("PUBLIC", _PUBLIC_FRONT + bytes.fromhex(pair.public))
    return _pem("PRIVATE", _PRIVATE_FRONT + bytes.fromhex(pair.private))


def _pem(which: str, der: bytes) -> bytes:
    return f"-----BEGIN {which} KEY-----\n{base64.b64encode(der).decode()}\n-----END {which} KEY-----\n".encode()


def _key(directory: KacheryDirectory, name: str, which: str, front: bytes) -> str | None:
    try:
        text = directory.read_small(name, _MOST).decode("ascii")
        first, *middle, last = text.split("\n") if not text.endswith("\n") else text[:-1].split("\n")
        der = base64.b64decode("".join(middle), validate=True)
    except FileNotFoundError:
        return None
    except ValueError as exc:
        raise ValueError(f"{name} is no PEM file") from exc
    framed = (first, last) == (f"-----BEGIN {which} KEY-----", f"-----END {which} KEY-----")
    if not framed or not der.startswith(front) or len(der) != len(front) + 32:
        raise ValueError(f"{name} is no Ed25519 key in PEM")
    return der[len(front) :].hex()
