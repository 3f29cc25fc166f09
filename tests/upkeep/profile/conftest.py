"""A profile of a tiny sample, made once."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kacas.settings import Settings
from kacas.upkeep.profile import Profile, profile

TINY = 2 << 20


def settings_in(directory: Path) -> Settings:
    return Settings(directory / "store", directory / "cache", "alice", 2, 1 << 30)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory whose parents everybody may enter, as tmp_path's are not."""
    place = Path("/var/tmp") / f"kacas-test-{os.getpid()}-{time.monotonic_ns()}"
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    yield place
    for path in [place, *place.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """Of generated data, where no store is."""
    directory = tmp_path_factory.mktemp("tiny")
    return profile(directory / "store", settings=settings_in(directory), size=TINY)
