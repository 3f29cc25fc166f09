"""Nothing that a fault test started outlives it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import children


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    children.end_all()
