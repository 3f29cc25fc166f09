"""The JSON of a profile: what the schema says, nothing else is read, and what a newer kacas made is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.errors import InvalidProfileError, NewerFormatError, UnreadableSourceError
from kacas.upkeep.profile import Profile
from kacas.upkeep.profile.comparison import compare
from kacas.upkeep.profile.figures import PROFILE_VERSION
from kacas.upkeep.profile.profile_json import as_object, parse_profile, read_profile, schema

DOCUMENTED = Path(__file__).resolve().parents[3] / "docs" / "bench.schema.json"
TYPES: dict[str, Any] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list, "null": type(None),
}  # fmt: skip


def violations(value: Any, rules: dict[str, Any], at: str = "") -> list[str]:
    """What a validator of JSON Schema would say, for the words that this schema uses."""
    assert rules.keys() <= {
        "$schema", "title", "description", "type", "properties", "required", "additionalProperties", "items", "anyOf", "const",
    }  # fmt: skip
    if "const" in rules:
        return [] if value == rules["const"] else [f"{at}: not {rules['const']}"]
    if "anyOf" in rules:
        return [] if any(not violations(value, one, at) for one in rules["anyOf"]) else [f"{at}: none of them"]
    kind = rules["type"]
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return [f"{at}: not a {kind}"]
    found = []
    if kind == "object":
        found += [f"{at}.{name}: missing" for name in rules.get("required", ()) if name not in value]
        known = rules.get("properties", {})
        for name, one in value.items():
            further = known.get(name, rules["additionalProperties"])
            found += violations(one, further, f"{at}.{name}") if further else [f"{at}.{name}: unknown"]
    if kind == "array":
        for number, one in enumerate(value):
            found += violations(one, rules["items"], f"{at}[{number}]")
    return found


@pytest.fixture(scope="session")
def printed(tiny: Profile) -> Any:
    return json.loads(json.dumps(as_object(tiny), allow_nan=False))


def test_the_documented_schema_is_that_of_the_code() -> None:
    assert json.loads(DOCUMENTED.read_text("utf-8")) == schema()


def test_what_is_printed_is_what_the_documented_schema_says(tiny: Profile, printed: Any) -> None:
    documented = json.loads(DOCUMENTED.read_text("utf-8"))
    assert violations(printed, documented) == []
    compared = json.loads(json.dumps(as_object(tiny, compare(tiny, tiny)), allow_nan=False))
    assert violations(compared, documented) == []
    for name in printed:  # the validator notices
        assert violations({key: value for key, value in printed.items() if key != name}, documented)
        assert violations(printed | {name: None}, documented)


def test_a_profile_that_was_printed_is_read_as_it_was(tiny: Profile, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps(as_object(tiny, compare(tiny, tiny))))
    assert read_profile(tmp_path / "old.json") == tiny


def test_a_newer_profile_is_refused_by_its_version(printed: Any) -> None:
    newer = {"version": PROFILE_VERSION + 1, "entirely": "different"}
    with pytest.raises(
        NewerFormatError, match=rf"version {PROFILE_VERSION + 1}, this kacas reads up to {PROFILE_VERSION}"
    ):
        parse_profile(json.dumps(newer).encode(), "old.json")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"{}", b'{"version": "1"}', b'{"version": true}', b'{"version": 0}', b'{"version": 1}',
     b"\xff\xfe", b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_profile_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(InvalidProfileError, match=r"old\.json is no profile of kacas bench"):
        parse_profile(data, "old.json")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside: list[tuple[Any, ...]] = [path] if path else []
    if isinstance(value, dict):
        inside += [found for name, one in value.items() for found in places(one, (*path, name))]
    elif isinstance(value, list) and value:
        inside += places(value[0], (*path, 0))
    return inside


@given(data=st.data())
def test_a_value_of_another_type_anywhere_is_a_typed_error(printed: Any, data: st.DataObject) -> None:
    changed = copy.deepcopy(printed)
    path = data.draw(st.sampled_from(places(changed)))
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    kind = type(inner[path[-1]])
    others = st.none() | st.text() | st.booleans() | st.lists(st.none()) | st.floats(allow_nan=False)
    wrong = data.draw(others.filter(lambda value: type(value) is not kind and not (kind is int and value == 0)))
    if kind in (int, float) and isinstance(wrong, float):
        return  # a number is a number where one is wanted
    if kind is list and wrong == []:
        return
    inner[path[-1]] = wrong
    with pytest.raises((InvalidProfileError, NewerFormatError)):
        parse_profile(json.dumps(changed).encode(), "old.json")


def test_a_file_that_is_not_there_or_huge_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSourceError):
        read_profile(tmp_path / "missing.json")
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(InvalidProfileError, match="more than 16 MiB"):
        read_profile(tmp_path / "huge.json")
