"""A durable volume, its lookup, and a disk whose syncs wait or fail; a test file that needs another volume has its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kacas.disk.lookup import Lookup
from kacas.disk.volume import Volume, open_volume
from tests.disk.full_batches import Disk


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(os.fsync)
    monkeypatch.setattr(os, "fsync", made)
    return made


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_volume(tmp_path / "store", create=True, durability="full")


@pytest.fixture
def lookup(volume: Volume, tmp_path: Path) -> Iterator[Lookup]:
    (tmp_path / "cache").mkdir()
    opened = Lookup(volume, tmp_path / "cache")
    yield opened
    opened.close()
