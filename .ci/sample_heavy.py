"""A pytest plugin: run tests in an order drawn from a seed until a time budget is spent, then skip the rest.

Each commit runs another sample of the heavy tests, the same one whenever that commit is run again.
"""

from __future__ import annotations

import random
import time

import pytest

_started_s = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--heavy-budget-s", type=float, required=True, help="start no test after this many seconds")
    parser.addoption("--heavy-seed", required=True, help="draws the order, e.g. the commit's hash")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    random.Random(config.getoption("--heavy-seed")).shuffle(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    started_s = item.session.stash.setdefault(_started_s, time.monotonic())
    if time.monotonic() - started_s > item.config.getoption("--heavy-budget-s"):
        pytest.skip("not in this commit's sample: the time is spent")
