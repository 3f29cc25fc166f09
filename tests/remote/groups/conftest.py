"""Fixtures for tests of groups: people, and each kind of place."""

from __future__ import annotations

from pathlib import Path

import pytest

from kacas.disk.volume import open_volume
from tests.remote.groups.people import MakePerson, Person


@pytest.fixture
def person(tmp_path: Path) -> MakePerson:
    return lambda name: Person(name, tmp_path / "homes" / name)


@pytest.fixture(params=["file", "bucket", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As people name it; everything of it is below tmp_path/place."""
    (tmp_path / "place").mkdir()
    if request.param == "file":
        return str(tmp_path / "place" / "lab.group")
    if request.param == "store":
        open_volume(tmp_path / "place" / "store", create=True)
        return f"store:{tmp_path / 'place' / 'store'}"
    return "lab-bucket"
