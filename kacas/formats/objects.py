"""Bytes, text, JSON and pickles: small values, stored as the file that they make."""

from __future__ import annotations

import re
from typing import Any

import simplejson

from kacas.errors import UnsupportedDataError
from kacas.formats import pickles
from kacas.model.entry import Kind
from kacas.model.uri import Uri
from kacas.repository import Repository

_NOT_TEXT = re.compile(rb'"(?:-?[0-9][^"]*|true|false|null)":')  # in JSON, keys that may have been none


def store_bytes(repository: Repository, data: bytes | bytearray | memoryview, label: str | None) -> str:
    """Store bytes. Raises UnsupportedDataError for anything that is not a buffer."""
    try:
        view = memoryview(data).cast("B")
    except (TypeError, ValueError) as exc:
        raise UnsupportedDataError(
            f"store_bytes takes bytes, bytearray or a contiguous buffer, not {type(data).__name__}"
        ) from exc
    return str(repository.put_small(data if isinstance(data, bytes) else view, Kind.BYTES, label))


def store_text(repository: Repository, text: str, label: str | None) -> str:
    """Store text as UTF-8."""
    if not isinstance(text, str):
        raise UnsupportedDataError(f"store_text takes str, not {type(text).__name__}")
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise UnsupportedDataError(
            f"the text cannot be written as UTF-8: {exc.reason} at position {exc.start}"
        ) from exc
    return str(repository.put_small(encoded, Kind.TEXT, label))


def load_text(repository: Repository, uri: Uri) -> str:
    """The content as text. Raises WrongKindError if it is not UTF-8."""
    try:
        return repository.read_whole(uri).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise repository.wrong_kind(uri, f"it is not UTF-8 text (byte {exc.start})") from exc


def store_json(repository: Repository, value: Any, label: str | None) -> str:
    """Store a value as canonical JSON: sorted keys, no spaces, no NaN; the ancestor's identities are reproduced."""
    try:
        text = simplejson.dumps(value, sort_keys=True, separators=(",", ":"), indent=None, allow_nan=False)
    except (ValueError, TypeError, RecursionError, OverflowError) as exc:
        raise UnsupportedDataError(
            f"the value cannot be written as JSON: {exc}. NaN and infinity have no JSON; "
            "arrays go to store_npy, other objects to store_pkl"
        ) from exc
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise UnsupportedDataError(f"the value holds text that is not Unicode: {exc.reason}") from exc
    if _NOT_TEXT.search(encoded):
        _check_keys(value)
    return str(repository.put_small(encoded, Kind.JSON, label))


def _check_keys(value: Any) -> None:
    """Raises UnsupportedDataError for keys that are one in JSON, as 1 and "1": all but one of their values would be lost."""
    waiting = [value]  # a dict, or one is inside
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            others = [key for key in found if not isinstance(key, str)]
            if 0 < len(others) < len(found):  # among themselves they differ in JSON, too
                written = {*simplejson.loads(simplejson.dumps(dict.fromkeys(others)))}
                if twice := written.intersection(found):
                    raise UnsupportedDataError(
                        f"a dict has the key {twice.pop()!r} twice, as text and not: JSON has texts only, and one value would be "
                        "lost; choose another key"
                    )
            found = found.values()
        waiting.extend(item for item in found if isinstance(item, (dict, list, tuple)))


def load_json(repository: Repository, uri: Uri) -> Any:
    """The content parsed as JSON. Raises WrongKindError if it is not."""
    data = repository.read_whole(uri)
    try:
        return simplejson.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise repository.wrong_kind(uri, f"it is not JSON ({exc})") from exc


def store_pkl(repository: Repository, value: Any, label: str | None) -> str:
    """Store plain data and NumPy arrays as a pickle; anything else is refused by name."""
    return str(repository.put_small(pickles.dumps(value), Kind.PKL, label))


def load_pkl(repository: Repository, uri: Uri) -> Any:
    """Load plain data and NumPy arrays from a pickle; nothing in it can run code."""
    data = repository.read_whole(uri)
    try:
        return pickles.loads(data)
    except pickles.WrongKindError as exc:
        raise repository.wrong_kind(uri, str(exc)) from exc
