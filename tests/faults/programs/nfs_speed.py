"""How long reading takes on NFS: python -m tests.faults.programs.nfs_speed arrays | cold STORE

Runs in a guest of tests/faults/nfs.py. arrays: load_npy of 256 MiB beside np.load of the same file on the same mount, cold
(nothing of it in this host's memory) and warm. cold: a host that knows nothing of the store opens it, and finds a chunk.
Prints lines of JSON. Server, client and program share one processor: ratios tell more than times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import kacas
from bench.growth_worker import records_of
from tests.faults.programs.nfs_costs import MISSING, requests

EXPORT, MOUNT = Path("/mnt/export"), Path(os.environ["KACAS_NFS_A"])
SHAPE = (1 << 20, 128)  # int16: 256 MiB
ROUNDS = 3


def timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def forget() -> None:
    """Drop what this kernel has cached; the export is in memory, and stays."""
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")


def array(kind: str) -> np.ndarray:
    """noise: nothing compresses it. signal: a slow drift with some noise, as from an instrument."""
    rng = np.random.default_rng(7)
    values = np.empty(SHAPE, np.int16)
    for start in range(0, SHAPE[0], 1 << 16):
        part = values[start : start + (1 << 16)]
        if kind == "noise":
            part[:] = rng.integers(-32768, 32767, part.shape, dtype=np.int16)
        else:
            drift = 1000 * np.sin(np.arange(start, start + len(part)) / 5000)
            part[:] = drift[:, None] + rng.normal(0, 10, part.shape).astype(np.float32)
    return values


def arrays() -> None:
    for kind in ("noise", "signal"):
        with kacas.Store.open(EXPORT / f"store-{kind}") as maker:
            values = array(kind)
            uri = maker.store_npy(values)
            np.save(EXPORT / f"{kind}.npy", values)
            size = sum(path.stat().st_size for path in (EXPORT / f"store-{kind}" / "packs").iterdir())
        del values
        figures: dict[str, list[float]] = {"np.load, cold": [], "np.load": [], "load_npy, cold": [], "load_npy": []}
        with kacas.Store.open(MOUNT / f"store-{kind}", create=False) as store:
            store.exists(uri)
            for _ in range(ROUNDS):
                for name, load in (
                    ("np.load", lambda: np.load(MOUNT / f"{kind}.npy")),  # noqa: B023
                    ("load_npy", lambda: store.load_npy(uri)),  # noqa: B023
                ):
                    forget()
                    figures[f"{name}, cold"].append(timed(load))
                    figures[name].append(timed(load))
        print(json.dumps({"array": kind, "pack_bytes": size} | {k: sorted(v)[1] for k, v in figures.items()}))
        subprocess.run(["rm", "-rf", EXPORT / f"store-{kind}", EXPORT / f"{kind}.npy"], check=True)


def cold(name: str, records: int) -> None:
    forget()
    before = requests()
    begun = time.monotonic()
    with kacas.Store.open(MOUNT / name, create=False) as store:
        opened_s = time.monotonic() - begun
        digest = records_of(17, records)["digest"][5].tobytes()
        assert store.repository.lookup.locate([digest])[digest]
        found_s = time.monotonic() - begun
        asked = requests() - before
        missed_s = timed(lambda: store.exists(MISSING))
        missed = requests() - before - asked
        again_s = timed(lambda: store.exists(MISSING))
        print(
            json.dumps(
                {"open_s": opened_s, "found_s": found_s, "miss_s": missed_s, "miss_again_s": again_s}
                | {"requests": asked, "requests_of_the_miss": missed}
            )
        )


def main() -> None:
    match sys.argv[1:]:
        case ["arrays"]:
            arrays()
        case ["cold", name, records]:
            cold(name, int(records))


if __name__ == "__main__":
    main()
