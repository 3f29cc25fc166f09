"""A directory of kachery-cloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.kachery import Kachery


@pytest.fixture
def kachery(tmp_path: Path) -> Kachery:
    return Kachery(tmp_path / "kachery-cloud")
