"""Fixtures of the fault tests; nothing that one of them started outlives it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kacas
from tests.faults import children, contents
from tests.faults.lab import Lab, NoLabError, lab_in, people
from tests.faults.specimen import Specimen, make

Mount = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    children.end_all()


@pytest.fixture
def specimen(tmp_path: Path) -> Specimen:
    """A small store with every kind of payload in one pack."""
    return make(tmp_path)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """mount(name, options): an empty file system in memory at tmp_path/name."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted: list[Path] = []

    def make(name: str, options: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"this machine does not let root mount: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        # Lazily: an index may still be mapped by a store that a failed test left open.
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(scope="module")
def members() -> Iterator[tuple[str, list[str]]]:
    made = people()
    try:
        found = made.__enter__()
    except NoLabError as exc:
        pytest.skip(str(exc))
    yield found
    made.__exit__(None, None, None)


@pytest.fixture
def lab(open_place: Path, members: tuple[str, list[str]]) -> Lab:
    # Modules are read by root: a user may not be let into the place where they are.
    with kacas.Store.open(open_place / "warm") as store:
        for content in (contents.array("warm", 3000), contents.text("warm")):
            content.check(store, content.put(store))
    return lab_in(open_place, *members)
