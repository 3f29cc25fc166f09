"""Fixtures for all tests: an environment of their own, and a store in a temporary place."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import kacas

# Timings never fail a test: a busy machine is no defect.
settings.register_profile("kacas", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kacas")


@pytest.fixture(autouse=True)
def isolated_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's store, cache or settings file."""
    for name in (
        "KACAS_OWNER",
        "KACAS_THREADS",
        "KACAS_CACHE_SIZE",
        "KACAS_MEMORY",
        "KACAS_UPSTREAM",
        "KACAS_STORE_IN",
        "KACAS_REMOTE",
        "KACAS_CLIENT_ID",
        "KACAS_PRIVATE_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KACAS_DIR", str(tmp_path / "default-store"))
    monkeypatch.setenv("KACAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[kacas.Store]:
    """An empty store with a cache directory of its own."""
    with kacas.Store.open(tmp_path / "store") as opened:
        yield opened


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


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[kacas.Store]:
    """A store that is the upstream of `node`."""
    with kacas.Store.open(tmp_path / "lab") as store:
        yield store


@pytest.fixture
def node(tmp_path: Path, lab: kacas.Store) -> Iterator[kacas.Store]:
    """An empty store before that of the lab."""
    with kacas.Store.open(tmp_path / "node", upstream=lab.path) as store:
        yield store
