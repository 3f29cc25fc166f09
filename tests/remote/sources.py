"""What is pushed in tests, and a remote in memory that counts: `from tests.remote.sources import blobs, remote`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import kacas
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.remote import Remote, new_remote
from tests.remote.counting import CountingBlobs

MIB = 1 << 20


@pytest.fixture
def blobs() -> CountingBlobs:
    return CountingBlobs(MemoryBlobs())


@pytest.fixture
def remote(blobs: CountingBlobs) -> Remote:
    remote = new_remote("lab", blobs)
    blobs.take()
    return remote


def recording(seed: int = 0, size: int = 8 * MIB) -> NDArray[np.int16]:
    steps = np.random.default_rng(seed).integers(-3, 4, size // 2, dtype=np.int16)
    return np.cumsum(steps, dtype=np.int16)


def directory(path: Path, number: int) -> dict[str, bytes]:
    """Small files in two directories, one twice, and a large one: bytes by path."""
    random = np.random.default_rng(7)
    files = {f"sub/{one}.dat": random.bytes(50 + 100 * one) for one in range(number)}
    files |= {"sub/deep/again.dat": files["sub/0.dat"], "large.dat": random.bytes(17 * MIB)}
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return files


def damage(store: kacas.Store, data: bytes) -> None:
    """Flip a bit of the bytes wherever they lie raw in packs."""
    for path in (store.path / "packs").glob("*.pack"):
        at = path.read_bytes().find(data[:1000])
        if at >= 0:
            path.chmod(0o644)
            with open(path, "r+b") as file:
                file.seek(at + 1000)
                now = path.read_bytes()[at + 1000]
                file.write(bytes([now ^ 1]))
