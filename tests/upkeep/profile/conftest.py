"""A profile of a tiny sample, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from kacas.settings import Settings
from kacas.upkeep.profile import Profile, profile

TINY = 2 << 20


def settings_in(directory: Path) -> Settings:
    return Settings(directory / "store", directory / "cache", "alice", 2, 1 << 30)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Of generated data, where no store is."""
    directory = tmp_path_factory.mktemp("tiny")
    return profile(directory / "store", settings=settings_in(directory), size=TINY)
