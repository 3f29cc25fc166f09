"""HDF5 files in a store: what an appended file adds, and what reading one dataset of a large file touches.

    python -m bench.hdf5           # about three minutes, 14 GB of disk
    python -m bench.hdf5 --quick   # a look, not a figure

How to read it: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bench import machine
from bench.machine import GIB
from bench.measure import figure
from bench.report import Target, table
from bench.running import new_run, require_disk, say, write_json
from bench.worker import ROOT
from bench.workloads import MIB
from kacas import Store

CHANNELS = 128
ROW = 2 * CHANNELS  # bytes
GROWN: Mapping[str, tuple[str, dict[str, Any]]] = {
    "chunks of 1 MiB": ("earliest", {}),
    "chunks of 1 MiB, latest": ("latest", {}),
    "chunks of 1 MiB, gzip 1": ("earliest", {"compression": "gzip", "compression_opts": 1}),
    "chunks of 64 KiB, lzf, latest": ("latest", {"compression": "lzf", "chunks": (65_536 // ROW, CHANNELS)}),
}
"""Files that grow: the libver that they are made with, and how their dataset is kept."""
READ = ("contiguous", "chunked", "packed")
_BLOCK = 16 * MIB
_MOST_TOUCHED_MIB = 8
_MOST_GROWTH = 1.1


def noise(size: int, seed: int) -> NDArray[np.int16]:
    """So many bytes of int16 in 128 columns, 9 bits of noise in each."""
    return np.random.default_rng(seed).integers(-256, 256, (size // ROW, CHANNELS), dtype=np.int16)


def append_rows(dataset: Any, size: int, seed: int) -> None:
    """So many bytes of rows."""
    for part in range(0, size, _BLOCK):
        rows = noise(min(_BLOCK, size - part), seed + part // _BLOCK)
        dataset.resize(len(dataset) + len(rows), axis=0)
        dataset[-len(rows) :] = rows


def change(path: Path, size: int, libver: str) -> None:
    """Append so many bytes of rows to the file, and change attributes, as another program may."""
    with h5py.File(path, "a", libver=libver) as file:
        append_rows(file["recording"], size, 1_000_000)
        file["recording"].attrs["note"] = "rows were appended; " * 100
        file.create_group("added").attrs["by"] = libver


def measure_appended(workdir: Path, size: int, more: int, libver: str, filters: dict[str, Any]) -> dict[str, float]:
    """What the second version of a file adds to a store, after another process appended rows and changed attributes.

    workdir: empty; emptied at the end. size, more: bytes of rows. Returns bytes, seconds, and `growth`: the new bytes for each
    byte that the file grew by.
    """
    path = workdir / "recording.h5"
    with h5py.File(path, "w", libver=libver) as file:
        how = {"chunks": (MIB // ROW, CHANNELS), **filters}
        append_rows(file.create_dataset("recording", (0, CHANNELS), "i2", maxshape=(None, CHANNELS), **how), size, 0)
    other = "earliest" if libver == "latest" else "latest"
    with Store.open(workdir / "store", durability="relaxed") as store:
        first_s = _store_s(store, path)
        before, file_size = store.stats(), path.stat().st_size
        subprocess.run([*_SELF, "--change", path, str(more), other], check=True, cwd=ROOT)
        second_s = _store_s(store, path)
        after, grown = store.stats(), path.stat().st_size - file_size
    _empty(workdir)
    new = after.raw_size - before.raw_size
    return {
        "appended": more, "file_grew": grown, "new": new, "new_in_packs": after.pack_size - before.pack_size,
        "growth": new / grown, "first_s": first_s, "second_s": second_s,
    }  # fmt: skip


def measure_one_dataset(workdir: Path, size: int) -> dict[str, dict[str, float]]:
    """What it takes to read a dataset of 1 MiB, of each kind, from a file of `size` bytes, each in a new process.

    workdir: empty; emptied at the end. Returns bytes that the process read after it had opened the store, and seconds.
    """
    path, small = workdir / "large.h5", MIB
    rows = (64 * 1024 // ROW, CHANNELS)
    with h5py.File(path, "w") as file:
        count = size // 4 // (len(READ) * small)
        large = file.create_dataset(
            "recording", (0, CHANNELS), "i2", maxshape=(None, CHANNELS), chunks=(MIB // ROW, CHANNELS)
        )
        for number in range(count):
            group = file.create_group(f"sessions/{number}")
            group.attrs["number"] = number
            group.create_dataset("contiguous", data=noise(small, 3 * number))
            group.create_dataset("chunked", data=noise(small, 3 * number + 1), chunks=rows)
            group.create_dataset("packed", data=noise(small, 3 * number + 2), chunks=rows, compression="lzf")
            append_rows(large, size * 3 // 4 // count // ROW * ROW, 5_000 + number)
    with Store.open(workdir / "store", durability="relaxed") as store:
        store_s = _store_s(store, path)
        uri = store.store_file(path)
    found = {"store": {"size": float(path.stat().st_size), "store_s": store_s}}
    for kind in READ:
        name = f"sessions/{count // 2}/{kind}"
        answer = subprocess.run(
            [*_SELF, "--read", workdir / "store", uri, name], check=True, cwd=ROOT, capture_output=True, text=True
        )
        found[kind] = json.loads(answer.stdout)
    _empty(workdir)
    return found


def read_one(place: Path, uri: str, name: str) -> dict[str, float]:
    """Read a dataset from the store; bytes that this process asked the system for meanwhile, and seconds."""
    with Store.open(place, create=False) as store:
        begun, before = time.perf_counter(), _read_bytes()
        with store.open_h5(uri) as file:
            size = file[name][:].nbytes
        touched = _read_bytes() - before
        return {"size": size, "touched": touched, "read_s": time.perf_counter() - begun}


_SELF = (sys.executable, "-m", "bench.hdf5")


def _store_s(store: Store, path: Path) -> float:
    begun = time.perf_counter()
    store.store_file(path, rehash=True)
    return time.perf_counter() - begun


def _read_bytes() -> int:
    """Of all files, from the disk or from memory."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def _empty(workdir: Path) -> None:
    for found in workdir.iterdir():
        shutil.rmtree(found) if found.is_dir() else found.unlink()


def report(grown: Mapping[str, dict[str, float]], read: Mapping[str, dict[str, float]]) -> str:
    """As Markdown."""
    head = ("file", "rows appended, MB", "file grew, MB", "new in the store, MB", "growth", "stored first, again, s")
    rows = [
        (
            name, *(figure(found[what] / 1e6) for what in ("appended", "file_grew", "new")),
            f"{found['growth']:.3f}", f"{figure(found['first_s'])}, {figure(found['second_s'])}",
        )
        for name, found in grown.items()
    ]  # fmt: skip
    touched = [
        (kind, figure(read[kind]["size"] / MIB), f"{read[kind]['touched'] / MIB:.2f}", figure(read[kind]["read_s"]))
        for kind in READ
    ]
    parts = [
        table(head, rows),
        table(("dataset read", "MiB", "MiB touched", "s"), touched),
        table(("target", "measured", "limit", "holds"), [target.row() for target in targets(grown, read)]),
    ]
    return "\n\n".join(parts)


def targets(grown: Mapping[str, dict[str, float]], read: Mapping[str, dict[str, float]]) -> list[Target]:
    most = max(read[kind]["touched"] / MIB for kind in READ)
    growth = max(found["growth"] for found in grown.values())
    return [
        Target("new bytes for each byte appended", growth, _MOST_GROWTH, " ×"),
        Target("MiB touched for a dataset of 1 MiB", most, _MOST_TOUCHED_MIB, " MiB"),
    ]


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--change"]:
        change(Path(arguments[1]), int(arguments[2]), arguments[3])
        return
    if arguments[:1] == ["--read"]:
        print(json.dumps(read_one(Path(arguments[1]), arguments[2], arguments[3])))
        return
    parser = argparse.ArgumentParser(prog="python -m bench.hdf5", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="64 MiB instead of 1 GiB and 4 GiB: a look, not a figure")
    parser.add_argument("--dir", dest="workdir", type=Path, default=Path(tempfile.gettempdir()) / "kacas-bench")
    parser.add_argument(
        "--json", dest="output", type=Path, default=ROOT / "bench-out" / "hdf5.json", help="the JSON file (%(default)s)"
    )
    options = parser.parse_args(arguments)
    size, more, large = (64 * MIB, 8 * MIB, 64 * MIB) if options.quick else (GIB, 64 * MIB, 4 * GIB)
    with new_run(options.workdir) as run:
        require_disk(run, 3 * large)
        grown = {}
        for name, (libver, filters) in GROWN.items():
            say(f"appending: {name}")
            grown[name] = measure_appended(run, size, more, libver, filters)
        say("reading one dataset")
        read = measure_one_dataset(run, large)
        about = machine.describe(run)
    versions = {"h5py": h5py.version.version, "HDF5": h5py.version.hdf5_version}
    result = {
        "machine": about, "versions": versions, "grown": grown, "read": read,
        "targets": [target.as_json() for target in targets(grown, read)],
    }  # fmt: skip
    write_json(options.output, result)
    print(report(grown, read))
    say(f"\nwritten: {options.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
