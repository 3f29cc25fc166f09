"""Reading on genuine NFS: what it takes beside NumPy on the same mount, and of a large store that a host does not know.

Figures are printed (pytest -s) and stand in docs/reliability.md; only what no clock decides is asserted.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.growth import ask
from tests.faults import nfs

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(bool(nfs.missing()), reason=nfs.missing()),
    pytest.mark.timeout(900),
]
versions = pytest.mark.parametrize("version", nfs.VERSIONS)
PROGRAM = "on a python -m tests.faults.programs.nfs_speed"


@versions
def test_an_array_is_loaded_beside_numpy(version: str) -> None:
    output = nfs.run(version, f"{PROGRAM} arrays", memory_mib=3072, in_memory=True, timeout_s=600).check()
    print(f"\nNFS {version}:\n{output}")
    assert len(output.splitlines()) == 2


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 file system with a store of 10,000 packs and 10 million chunk records, which segments hold."""
    place = tmp_path_factory.mktemp("large")
    (place / "root").mkdir()
    for step, host in (("make", "maker"), ("settle", "maker")):
        ask(step, place / "root", f"../{host}", 10_000, 1_024, segments=True)
    disk = place / "disk"
    with open(disk, "wb") as file:
        file.truncate(4 << 30)
    # Holes stay holes: the packs say that they have 1.2 TB.
    subprocess.run(
        ["/usr/sbin/mkfs.ext4", "-q", "-O", "^has_journal", "-d", place / "root", disk], check=True, timeout=600
    )
    shutil.rmtree(place / "root")
    return disk


@versions
def test_a_host_that_knows_nothing_opens_ten_million_chunks_without_reading_their_tables(
    version: str, image: Path
) -> None:
    output = nfs.run(
        version,
        f"{PROGRAM} cold store 1024; {PROGRAM} cold store 1024",
        disk=image,
        timeout_s=300,
    ).check()
    print(f"\nNFS {version}, a cold host, then once more:\n{output}")
    cold, warm = map(json.loads, output.splitlines())
    assert sum(cold["requests"].values()) < 1000
    assert sum(warm["requests"].values()) < 100
