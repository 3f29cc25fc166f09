"""Encrypted URIs: what a URI names is known to the members of one access group only.

    sha1-enc://<hex>.ag_<32 hex>[/path/in/it][?label=<percent-encoded>]

The hex is a nonce, 12 bytes, and what ChaCha20-Poly1305 makes of a message under a key of the group's epoch. The group, its
epoch and the label that is to be seen are authenticated with it. The nonce follows from all of that, so one URI has one text
in an epoch, and no nonce serves two messages. A path behind it is not encrypted: it was put there afterwards.

The message is the SHA-1, 20 bytes, of plain content; else SHA-1, flags, a root, and the sizes and bytes of a path and of a
hidden label, padded with zeros to 20 bytes and a multiple of 32, which hides their lengths.
"""

from __future__ import annotations

import hmac
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote_to_bytes

from blake3 import blake3
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt as _decrypt
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as _encrypt
from nacl.exceptions import CryptoError

from kacas.errors import InvalidUriError, NewerFormatError
from kacas.model.uri import (
    MAX_LABEL_SIZE,
    MAX_URI_SIZE,
    DirectoryUri,
    Uri,
    is_name,
    label_bytes,
    label_text,
    path_names,
    path_text,
    shown,
)
from kacas_remote.sealing.epoch_keys import EpochKeys

BEGINNING = "sha1-enc://"
_DOMAIN = b"kacas-uri-1\0"  # fixed for ever
_U32 = struct.Struct("<I")
_SHA1_SIZE, _ROOT_SIZE, _NONCE_SIZE, _TAG_SIZE, _STEP = 20, 32, 12, 16, 32
_LEAST_DIGITS = 2 * (_NONCE_SIZE + _SHA1_SIZE + _TAG_SIZE)
_DIRECTORY, _WITH_ROOT, _HIDDEN_LABEL, _WITH_PATH = 1, 2, 4, 8
_KNOWN_FLAGS = _DIRECTORY | _WITH_ROOT | _HIDDEN_LABEL | _WITH_PATH
_SEALED = re.compile(r"sha1-enc://([0-9a-f]+)\.ag_([0-9a-f]{32})(/[^?]*)?(?:\?label=(.*))?", re.ASCII | re.DOTALL)
_PARTS = re.compile(r"sha1-enc://([^./?]*)(?:\.([^/?]*))?(/[^?]*)?(?:\?(.*))?", re.DOTALL)
_HEX = re.compile(r"[0-9a-f]*", re.ASCII)


@dataclass(frozen=True)
class SealedUri:
    """An encrypted URI, taken apart. sealed: nonce and encrypted message; label: the visible one, UTF-8; text: as it was given.

    path: names from what is named on, in clear.
    """

    group_id: bytes
    sealed: bytes
    label: bytes
    path: tuple[bytes, ...]
    text: str


def parse_sealed_uri(text: str) -> SealedUri:
    """Raises InvalidUriError, which says what is wrong with it. Nothing is opened."""
    if len(text) > MAX_URI_SIZE:
        raise InvalidUriError(f"a URI of {len(text)} characters is too long", uri=text[:200])
    match = _SEALED.fullmatch(text)
    if match is None or len(match[1]) % (2 * _STEP) != _LEAST_DIGITS % (2 * _STEP) or len(match[1]) < _LEAST_DIGITS:
        raise InvalidUriError(f"{shown(text)} is not an encrypted URI: {_hint(text)}", uri=text)
    if text[-1].isspace():
        raise InvalidUriError(f"{shown(text)} ends with white space; remove it", uri=text)
    label = _label(text, match[4]) if match[4] is not None else b""
    path = path_names(text, match[3]) if match[3] else ()
    return SealedUri(bytes.fromhex(match[2]), bytes.fromhex(match[1]), label, path, text)


def _label(text: str, quoted: str) -> bytes:
    """It is authenticated, so there is one way to write it."""
    if "/" in quoted:
        raise InvalidUriError(f"{shown(text)}: the path of a directory's URI goes before ?label=", uri=text)
    label = unquote_to_bytes(quoted.encode("utf-8", "surrogatepass"))
    if not label or len(label) > MAX_LABEL_SIZE or quote_from_bytes(label, safe="") != quoted:
        raise InvalidUriError(
            f"{shown(text)}: the label is not as it was printed, and it is a part of what is authenticated; copy the URI again",
            uri=text,
        )
    return label


def _hint(text: str) -> str:
    """What the author of a near miss probably meant."""
    match = _PARTS.fullmatch(text)
    digits, group, query = (match[1], match[2], match[4]) if match else ("", "", None)
    if text != text.strip():
        return f"remove the white space around it: {shown(text.strip())}"
    if query is not None and not query.startswith("label="):
        return "it carries label= at most; a root is inside"
    if not _HEX.fullmatch(digits):
        lower = digits.lower()
        return "its hex digits must be lower case" if _HEX.fullmatch(lower) else "its first part must be hex digits"
    if group is None:
        return "the group is missing behind it, .ag_ and 32 hex digits; was it cut off when copied?"
    if not re.fullmatch(r"ag_[0-9a-f]{32}", group, re.ASCII):
        return (
            f"{group[:80]!r} is no access group of kacas, which is ag_ and 32 lower-case hex digits. What kachery-cloud "
            "encrypted (its cipher tells nobody whether it was altered) opens only its server; ask its author for the sha1:// URI"
        )
    return f"it has {len(digits)} hex digits, which no encrypted URI has; was it cut off when copied?"


def sealed_uri(uri: Uri | DirectoryUri, keys: EpochKeys, *, hide_label: bool = False) -> str:
    """The encrypted URI: the same one whenever it is made of the same. Raises InvalidUriError if it would be too long."""
    label = label_bytes(uri.label)
    visible = b"" if hide_label else label
    message = _message(uri, label if hide_label else b"")
    additional = _additional(keys, visible)
    nonce = _nonce(keys, additional, message)
    sealed = nonce + _encrypt(message, additional, nonce, keys.uri)
    query = "?label=" + quote_from_bytes(visible, safe="") if visible else ""
    text = f"{BEGINNING}{sealed.hex()}.ag_{keys.group_id.hex()}{query}"
    if len(text) > MAX_URI_SIZE:
        raise InvalidUriError(
            f"{shown(str(uri))} would have {len(text)} characters when encrypted, at most {MAX_URI_SIZE} are possible; encrypt "
            "the URI of the directory, and put the path behind it, where it can be seen",
            uri=str(uri),
        )
    return text


def opened_uri(sealed: SealedUri, epochs: Iterable[EpochKeys]) -> Uri | DirectoryUri | None:
    """What it names; None if none of these epochs can open it: it was altered, or sealed with keys of another one.

    Raises InvalidUriError for a path behind a file, NewerFormatError for what only a newer kacas understands.
    """
    nonce, encrypted = sealed.sealed[:_NONCE_SIZE], sealed.sealed[_NONCE_SIZE:]
    for keys in epochs:
        if keys.group_id != sealed.group_id:
            continue
        additional = _additional(keys, sealed.label)
        try:
            message = _decrypt(encrypted, additional, nonce, keys.uri)
        except CryptoError:
            continue
        # ChaCha20-Poly1305 alone could be opened with two keys; a nonce that follows from one of them cannot.
        if hmac.compare_digest(_nonce(keys, additional, message), nonce):
            return _with_path(_uri_of(message, sealed), sealed)
    return None


def _additional(keys: EpochKeys, label: bytes) -> bytes:
    return _DOMAIN + keys.group_id + _U32.pack(keys.epoch) + label


def _nonce(keys: EpochKeys, additional: bytes, message: bytes) -> bytes:
    return blake3(_U32.pack(len(additional)) + additional + message, key=keys.uri_nonce).digest(_NONCE_SIZE)


def _message(uri: Uri | DirectoryUri, hidden_label: bytes) -> bytes:
    root = uri.root if isinstance(uri, Uri) else None
    path = b"/".join(uri.path) if isinstance(uri, DirectoryUri) else b""
    flags = (
        _DIRECTORY * isinstance(uri, DirectoryUri)
        | _WITH_ROOT * (root is not None)
        | _HIDDEN_LABEL * bool(hidden_label)
        | _WITH_PATH * bool(path)
    )
    if not flags:
        return uri.sha1
    parts = [
        bytes([flags]),
        root or b"",
        *(len(one).to_bytes(2, "little") + one for one in (path, hidden_label) if one),
    ]
    more = b"".join(parts)
    return uri.sha1 + more + bytes(-len(more) % _STEP)


def _uri_of(message: bytes, sealed: SealedUri) -> Uri | DirectoryUri:
    """Strict: what is authentic and not as `_message` makes it was made by a member with another program."""
    sha1, more = message[:_SHA1_SIZE], message[_SHA1_SIZE:]
    if not more:
        return Uri(sha1, label_text(sealed.label))
    flags, more = more[0], more[1:]
    if flags & ~_KNOWN_FLAGS:
        raise NewerFormatError(f"{shown(sealed.text)} was made by a newer kacas; upgrade kacas", needed=flags)
    root, more = (more[:_ROOT_SIZE], more[_ROOT_SIZE:]) if flags & _WITH_ROOT else (None, more)
    path, more = _sized(more) if flags & _WITH_PATH else (b"", more)
    label, more = _sized(more) if flags & _HIDDEN_LABEL else (b"", more)
    names = tuple(path.split(b"/")) if path else ()
    found: Uri | DirectoryUri = Uri(sha1, label_text(label or sealed.label), root)
    if flags & _DIRECTORY:
        found = DirectoryUri(sha1, label_text(label or sealed.label), names)
    fits = (
        (root is None or len(root) == _ROOT_SIZE)
        and len(label) <= MAX_LABEL_SIZE
        and not (label and sealed.label)
        and all(map(is_name, names))
    )
    if not fits or _message(found, label) != message:
        raise InvalidUriError(
            f"{shown(sealed.text)} was made by a member of its group, but says nothing that a URI can say; ask its author "
            "for another one",
            uri=sealed.text,
        )
    return found


def _sized(data: bytes) -> tuple[bytes, bytes]:
    """Bytes behind their size, and the rest."""
    end = 2 + int.from_bytes(data[:2], "little")
    return data[2:end], data[end:]


def _with_path(uri: Uri | DirectoryUri, sealed: SealedUri) -> Uri | DirectoryUri:
    if isinstance(uri, DirectoryUri):
        return DirectoryUri(uri.sha1, uri.label, uri.path + sealed.path, sealed.text)
    if sealed.path:
        raise InvalidUriError(
            f"{shown(sealed.text)} names a file, which has no parts; remove {path_text(sealed.path)!r} from it",
            uri=sealed.text,
        )
    return Uri(uri.sha1, uri.label, uri.root, sealed.text)
