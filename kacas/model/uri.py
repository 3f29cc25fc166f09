"""`sha1://` URIs: strict parsing with helpful refusals, exact round trip.

    sha1://<40 hex>[?label=<percent-encoded>][&root=<64 hex>]

    sha1dir://<40 hex>[/path/in/it][?label=<percent-encoded>]

Old URIs may also carry `location=` (the first holder's path), and name a directory with its label,
sha1dir://<40 hex>.<label>/path: the former is accepted and dropped, the latter understood.

Encrypted ones, sha1-enc://, are opened by `kacas.private_uris`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote_from_bytes, unquote_to_bytes

from kacas.errors import InvalidLabelError, InvalidUriError

MAX_LABEL_SIZE = 1024  # bytes of UTF-8
MAX_URI_SIZE = 16384  # characters; a label of 1,024 bytes takes 3,072, an old location some thousands

_URI = re.compile(r"sha1://([0-9a-f]{40})(?:\?(.*))?", re.ASCII | re.DOTALL)
_DIRECTORY = re.compile(r"sha1dir://([0-9a-f]{40})(?:\.([^/?]*))?(/[^?]*)?(?:\?(.*))?", re.ASCII | re.DOTALL)
_ROOT = re.compile(r"[0-9a-f]{64}", re.ASCII)
_QUERY_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~!$'()*+,;:@/?]|%[0-9A-Fa-f]{2})*", re.ASCII)
_BARE_HEX = re.compile(r"[0-9a-fA-F]{40}", re.ASCII)
_HEX_INSIDE = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{40}(?![0-9a-fA-F])", re.ASCII)
# What kachery's clients leave unquoted in labels is accepted; we write the strict form.
_KNOWN = ("label", "root", "location")


def label_bytes(label: str) -> bytes:
    """The label as UTF-8 (names that are not Unicode keep their bytes through surrogateescape).

    Raises InvalidLabelError if it is not encodable or longer than MAX_LABEL_SIZE.
    """
    if not isinstance(label, str):
        raise InvalidLabelError(f"a label is text, not {type(label).__name__}")
    try:
        encoded = label.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise InvalidLabelError(f"the label {label!r} is not Unicode text: {exc.reason}; choose another label") from exc
    if len(encoded) > MAX_LABEL_SIZE:
        raise InvalidLabelError(f"the label has {len(encoded)} bytes, at most {MAX_LABEL_SIZE} are kept; shorten it")
    return encoded


def label_text(encoded: bytes) -> str:
    """Inverse of label_bytes."""
    return encoded.decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Uri:
    """A parsed URI. sha1: 20 bytes; label: "" if there is none; root: 32 bytes or None.

    given: the encrypted URI that it was, which is what messages and logs show; "" if it was none.
    """

    sha1: bytes
    label: str = ""
    root: bytes | None = None
    given: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.given or self.plain

    @property
    def plain(self) -> str:
        """Its text, whatever was given."""
        query = []
        if self.label:
            query.append("label=" + quote_from_bytes(label_bytes(self.label), safe=""))
        if self.root is not None:
            query.append("root=" + self.root.hex())
        return f"sha1://{self.sha1.hex()}" + ("?" + "&".join(query) if query else "")


@dataclass(frozen=True)
class DirectoryUri:
    """A parsed sha1dir URI. sha1: of the tree document; path: names from there on, () for the directory itself.

    given: as of `Uri`.
    """

    sha1: bytes
    label: str = ""
    path: tuple[bytes, ...] = ()
    given: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.given or self.plain

    @property
    def plain(self) -> str:
        """Its text, whatever was given."""
        path = path_text(self.path)
        query = "?label=" + quote_from_bytes(label_bytes(self.label), safe="") if self.label else ""
        return f"sha1dir://{self.sha1.hex()}{path}{query}"

    def below(self, names: tuple[bytes, ...]) -> DirectoryUri:
        """What these names lead to from there."""
        if not names:
            return self
        front, mark, query = self.given.partition("?")
        given = front.rstrip("/") + path_text(names) + mark + query if self.given else ""
        return DirectoryUri(self.sha1, self.label, self.path + names, given)


def path_text(names: tuple[bytes, ...]) -> str:
    """As it stands in a URI, each name behind a slash; "" for none."""
    return "".join("/" + quote_from_bytes(name, safe="!$&'()*+,;=:@") for name in names)


def parse_any_uri(text: str) -> Uri | DirectoryUri:
    """Parse a URI of content, or of a directory or something in it; raises InvalidUriError."""
    match = _DIRECTORY.fullmatch(str(text)[: MAX_URI_SIZE + 1])
    if match is not None and len(text) <= MAX_URI_SIZE:
        if text[-1].isspace():
            raise InvalidUriError(f"{shown(text)} ends with white space; remove it", uri=text)
        if "/" in (match[4] or ""):  # we write %2F: somebody put a path behind a URI that was printed
            raise InvalidUriError(f"{shown(text)}: the path of a directory's URI goes before ?label=", uri=text)
        label, root = _label_and_root(text, match[4] or "")
        if root is not None:
            raise InvalidUriError(f"{shown(text)}: the URI of a directory carries no root", uri=text)
        old_label = _decoded(text, match[2] or "")
        return DirectoryUri(bytes.fromhex(match[1]), label or old_label, path_names(text, match[3] or ""))
    return parse_uri(text)


def _decoded(text: str, label: str) -> str:
    try:
        decoded = label_text(unquote_to_bytes(label.encode("utf-8", "surrogateescape")))
        label_bytes(decoded)
        return decoded
    except (InvalidLabelError, UnicodeEncodeError) as exc:
        raise InvalidUriError(f"{shown(text)}: {exc}", uri=text) from exc


def path_names(text: str, path: str) -> tuple[bytes, ...]:
    """Inverse of `path_text`. text: the whole URI, for messages. Raises InvalidUriError."""
    try:
        names = tuple(
            unquote_to_bytes(name.encode("utf-8", "surrogateescape")) for name in path.rstrip("/").split("/")[1:]
        )
    except UnicodeEncodeError as exc:
        raise InvalidUriError(f"{shown(text)}: the path is not Unicode text: {exc.reason}", uri=repr(text)) from exc
    for name in names:
        if not is_name(name):
            raise InvalidUriError(
                f"{shown(text)}: {name!r} is not a name in a directory; write the path as list_dir (kacas ls) shows it",
                uri=text,
            )
    return names


def is_name(name: bytes) -> bool:
    """Whether something in a directory can have this name."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


def parse_uri(text: str) -> Uri:
    """Parse a URI of content; raises InvalidUriError, which says what is wrong and the nearest valid form."""
    if not isinstance(text, str):
        raise InvalidUriError(f"a URI is text like sha1://<40 hex>, not {type(text).__name__}", uri=repr(text)[:200])
    if len(text) > MAX_URI_SIZE:
        raise InvalidUriError(f"a URI of {len(text)} characters is too long", uri=text[:200])
    match = _URI.fullmatch(text)
    if match is None:
        raise InvalidUriError(f"{shown(text)} is not a kacas URI: {_hint(text)}", uri=text)
    if text[-1].isspace():
        raise InvalidUriError(
            f"{shown(text)} is not a kacas URI: remove the white space around it: {text.strip()}", uri=text
        )
    label, root = _label_and_root(text, match[2] or "")
    return Uri(bytes.fromhex(match[1]), label, root)


def _label_and_root(text: str, query: str) -> tuple[str, bytes | None]:
    label, root = "", None
    for key, value in _query(text, query):
        if key == "label":
            label = _decoded(text, value)
        elif key == "root":
            if not _ROOT.fullmatch(value):
                raise InvalidUriError(f"{shown(text)}: root must be 64 lower-case hex digits", uri=text)
            root = bytes.fromhex(value)
    return label, root


def _query(text: str, query: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for part in query.split("&") if query else []:
        key, equals, value = part.partition("=")
        if key not in _KNOWN or not equals:
            raise InvalidUriError(
                f"{shown(text)}: {part[:40]!r} is not known; a URI may carry label=, root= and location=", uri=text
            )
        if key in (known for known, _ in pairs):
            raise InvalidUriError(f"{shown(text)}: {key} is given twice", uri=text)
        if key != "location" and not _QUERY_VALUE.fullmatch(value):
            raise InvalidUriError(f"{shown(text)}: the {key} is not percent-encoded", uri=text)
        pairs.append((key, value))
    return pairs


def shown(text: str) -> str:
    """Quoted for a message, not too long."""
    return repr(text if len(text) <= 160 else text[:157] + "...")


def _hint(text: str) -> str:
    """What the author of a near miss probably meant."""
    stripped = text.strip()
    if stripped != text and _URI.fullmatch(stripped):
        return f"remove the white space around it: {stripped}"
    if stripped != text and stripped.startswith("sha1-enc://"):
        return "remove the white space around it"
    if _BARE_HEX.fullmatch(stripped):
        return f"did you mean sha1://{stripped.lower()} ?"
    lowered = stripped.lower()
    for scheme, why in (
        ("sha1dir://", "what names a directory is sha1dir:// and 40 lower-case hex digits, then /path, then ?label="),
        ("sha1-enc://", "it is an encrypted URI, which is taken where members of its group can open it, in lower case"),
        ("kachery:", "kachery-2 URIs name the SHA-1 inside; write it as sha1://<40 hex>"),
    ):
        if lowered.startswith(scheme):
            return why
    found = _HEX_INSIDE.search(stripped)
    if found and lowered.startswith("sha1:"):
        rest = stripped[found.end() :]
        if rest.startswith("/"):
            return f"a file has no parts; did you mean sha1://{found[0].lower()} ?"
        if found[0] != found[0].lower():
            return f"the hex digits must be lower case; did you mean sha1://{found[0].lower()} ?"
        return f"did you mean sha1://{found[0]} ?"
    if lowered.startswith("sha1://"):
        digits = re.match(r"[0-9a-f]*", lowered[7:])
        count = len(digits[0]) if digits else 0
        why = "was it cut off when copied?" if count < 40 else "is something glued to it?"
        return f"after sha1:// come 40 hex digits, here {count}; {why}"
    if found:
        return f"did you mean sha1://{found[0].lower()} ?"
    return "it should look like sha1://<40 hex digits>?label=<name>"
