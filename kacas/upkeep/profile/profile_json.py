"""A profile as JSON: written, read with every type checked, and its JSON Schema, all three from the dataclasses."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from kacas.errors import InvalidProfileError, NewerFormatError, UnreadableSourceError
from kacas.upkeep.profile.comparison import Comparison
from kacas.upkeep.profile.figures import PROFILE_VERSION, Profile

_MOST_SIZE = 16 << 20  # bytes of a file
_NAMES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def as_object(profile: Profile, comparison: Comparison | None = None) -> dict[str, Any]:
    """What `json.dumps` takes. A comparison is beside the profile, which can be compared with as it stands."""
    found = dataclasses.asdict(profile)
    return found if comparison is None else found | {"comparison": dataclasses.asdict(comparison)}


def read_profile(path: Path) -> Profile:
    """Raises UnreadableSourceError, InvalidProfileError; NewerFormatError if a newer kacas made it."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_SIZE + 1)
    except OSError as exc:
        raise UnreadableSourceError(f"{path} cannot be read: {exc.strerror or exc}", path=str(path)) from exc
    if len(data) > _MOST_SIZE:
        raise InvalidProfileError(
            f"{path} is no profile of kacas bench --json: it has more than {_MOST_SIZE >> 20} MiB"
        )
    return parse_profile(data, str(path))


def parse_profile(data: bytes, where: str) -> Profile:
    """As `read_profile`. where: for the message."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise InvalidProfileError(f"{where} is no profile of kacas bench --json: {exc}") from exc
    if not isinstance(value, dict) or type(version := value.get("version")) is not int or version < 1:
        raise InvalidProfileError(f"{where} is no profile of kacas bench --json: it has no version")
    if version > PROFILE_VERSION:
        raise NewerFormatError(
            f"{where} is a profile of version {version}, this kacas reads up to {PROFILE_VERSION}; upgrade kacas",
            needed=version,
        )
    value.pop("comparison", None)
    profile = _typed(Profile, value, "profile", where)
    assert isinstance(profile, Profile)
    return profile


def _typed(kind: Any, value: Any, at: str, where: str) -> Any:
    """The value as the annotation says, or InvalidProfileError."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            names = sorted(set(hints) ^ set(value)) if isinstance(value, dict) else []
            detail = f"{at} has not exactly the expected names" + (f" ({names[0]!r})" if names else "")
            raise InvalidProfileError(f"{where} is no profile of kacas bench --json: {detail}")
        assert isinstance(kind, type)
        return kind(**{name: _typed(hint, value[name], f"{at}.{name}", where) for name, hint in hints.items()})
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_typed(get_args(kind)[0], one, f"{at}[{number}]", where) for number, one in enumerate(value))
    if get_origin(kind) is dict and isinstance(value, dict):
        return {name: _typed(get_args(kind)[1], one, f"{at}.{name}", where) for name, one in value.items()}
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) is not kind:
        raise InvalidProfileError(
            f"{where} is no profile of kacas bench --json: {at} is not a {_NAMES.get(kind, 'list')}"
        )
    return value


def schema() -> dict[str, Any]:
    """The JSON Schema of what `kacas bench --json` prints; docs/bench.schema.json is this."""
    found = _schema_of(Profile)
    found["properties"]["version"] = {"const": PROFILE_VERSION}
    found["properties"]["comparison"] = _schema_of(Comparison)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What kacas bench --json prints",
        "description": "Sizes are bytes, times seconds, rates per second. comparison: with --compare only.",
        **found,
    }


def _schema_of(kind: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return {
            "type": "object",
            "properties": {name: _schema_of(hint) for name, hint in hints.items()},
            "required": list(hints),
            "additionalProperties": False,
        }
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _schema_of(get_args(kind)[0])}
    if get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": _schema_of(get_args(kind)[1])}
    if get_origin(kind) is types.UnionType:
        return {"anyOf": [_schema_of(one) for one in get_args(kind)]}
    if kind is types.NoneType:
        return {"type": "null"}
    return {"type": _NAMES[kind]}
