"""Files and directories to be stored or linked."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.formats import trees
from tests.formats.trees import make

LARGE = random.Random(1).randbytes((3 << 20) + 12_345)
SMALL = b"test-content\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small directory with one of everything."""
    make(tmp_path / "source", trees.SMALL)
    return tmp_path / "source"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(LARGE)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.txt"
    path.write_bytes(SMALL)
    return path


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        byte = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)


def gone(path: Path) -> None:
    path.unlink()


def grown(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")
