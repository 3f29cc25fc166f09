"""Whose word is taken: kept in a file of this user's, and shown."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Runner

ANA = "ed25519:" + "a1" * 32
BEN = "ed25519:" + "b2" * 32


def test_publishers_are_added_listed_and_removed_by_name_or_key(kacas: Runner) -> None:
    assert kacas("trust", "list").out == b""
    assert kacas("trust", "add", "ben", BEN).code == 0
    assert kacas("trust", "add", "ana", ANA).code == 0
    assert kacas("trust", "add", "ana", ANA).code == 0
    assert kacas("trust", "list").lines == [f"{ANA}  ana", f"{BEN}  ben"]
    assert kacas("trust", "list", "--json").objects == [
        {"name": "ana", "publisher": ANA},
        {"name": "ben", "publisher": BEN},
    ]
    assert kacas("trust", "remove", "ana").code == 0
    assert kacas("trust", "remove", BEN).code == 0
    assert kacas("trust", "list").out == b""
    assert "kacas trust list" in kacas("trust", "remove", "ana").error


def test_a_name_is_not_given_to_another_key_unseen(kacas: Runner) -> None:
    kacas("trust", "add", "ana", ANA)
    assert "kacas trust remove ana" in kacas("trust", "add", "ana", BEN).error
    assert kacas("trust", "list").lines == [f"{ANA}  ana"]


@pytest.mark.parametrize("name", ["", "-x", 'a"b', "a b", "x" * 65, "ä"])
def test_a_name_that_could_spoil_the_file_is_refused(kacas: Runner, name: str) -> None:
    assert kacas("trust", "add", "--", name, ANA).code == 2
    assert kacas("trust", "list").out == b""


@pytest.mark.parametrize("key", ["", "ed25519:12", ANA.upper(), "a1" * 32, ANA + "00"])
def test_what_is_no_key_is_refused_with_what_one_looks_like(kacas: Runner, key: str) -> None:
    answer = kacas("trust", "add", "ana", key)
    assert answer.code == 2
    assert b"64 lower-case hex digits" in answer.err


def test_ones_own_key_is_made_once_for_this_user_alone(kacas: Runner, tmp_path: Path) -> None:
    first = kacas("trust", "key").lines
    assert kacas("trust", "key").lines == first
    path = tmp_path / "config" / "kacas" / "identity.toml"
    assert os.stat(path).st_mode & 0o777 == 0o600
    table = tomllib.loads(path.read_text())
    assert first == [f"ed25519:{table['public_key']}"]
    assert table["private_key"] not in first[0]


def test_a_damaged_file_is_named_and_left_as_it_is(kacas: Runner, tmp_path: Path) -> None:
    path = tmp_path / "config" / "kacas" / "trust.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    for text in ("no toml [", "format = 2\n", 'format = 1\n[publishers]\nana = "x"\n', "format = 1\npublishers = 3\n"):
        path.write_text(text)
        assert str(path) in kacas("trust", "list").error
        assert str(path) in kacas("trust", "add", "ben", BEN).error
        assert path.read_text() == text
