"""Fixtures of the fault tests; nothing that one of them started outlives it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import children
from tests.faults.specimen import Specimen, make


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    children.end_all()


@pytest.fixture
def specimen(tmp_path: Path) -> Specimen:
    """A small store with every kind of payload in one pack."""
    return make(tmp_path)
