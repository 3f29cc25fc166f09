"""What operations cost on NFS, in requests to the server: python -m tests.faults.programs.nfs_costs PACKS...

Runs in a guest of tests/faults/nfs.py. For each number, a store with so many packs, which nothing merges, is made on the
server itself; host a, which knows nothing of it, then does one operation after another. Prints a line of JSON for each
store: operation → request → count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

import kacas
from kacas.model.merging import MergeRule
from tests.faults import contents

MOUNT = Path(os.environ["KACAS_NFS_A"])
EXPORT = Path("/mnt/export")
NEVER = MergeRule(fan_in=1 << 20)
MISSING = "sha1://" + "00" * 20
ARRAY = contents.noise("costs", 9 * contents.MIB // 128)


def requests() -> Counter[str]:
    """How many the mount has made so far, by their kind."""
    here, found = False, Counter[str]()
    for line in Path("/proc/self/mountstats").read_text().splitlines():
        if line.startswith("device "):
            here = f" mounted on {MOUNT} " in line
        elif here and line.startswith("\t") and ": " in line:
            name, _, numbers = line.strip().partition(": ")
            if name.isupper() and numbers.split()[0].isdigit():
                found[name] = int(numbers.split()[0])
    return found


def make(packs: int) -> None:
    """On the server, by its own name of the place."""
    with kacas.Store.open(EXPORT / f"store-{packs}") as store:
        store.repository.lookup.rule = NEVER
        ARRAY.put(store)
        for number in range(packs - 1):
            contents.text(f"costs-{number}").put(store)


def measure(name: str) -> None:
    counts: dict[str, dict[str, int]] = {}
    store: kacas.Store | None = None

    def count(name: str, work: Callable[[], object]) -> None:
        before = requests()
        work()
        time.sleep(0.2)  # what is done in the background: temporaries lose their names
        counts[name] = dict(requests() - before)

    def open_it() -> None:
        nonlocal store
        store = kacas.Store.open(MOUNT / name, create=False)
        store.repository.lookup.rule = NEVER

    count("open, cold", open_it)
    assert store is not None
    store.close()
    count("open", open_it)
    there = contents.text("costs-7")
    uri, array = f"sha1://{there.sha1}", f"sha1://{ARRAY.sha1}"
    count("hit", lambda: there.check(store, uri))
    count("hit again", lambda: there.check(store, uri))
    count("miss", lambda: store.exists(MISSING))
    count("miss again", lambda: store.exists(MISSING))
    count("put", lambda: store.store_text("of host a"))
    count("put again", lambda: store.store_text("of host a, too"))
    count("put what is there", lambda: there.put(store))
    count("put of 9 MiB", lambda: store.store_npy(ARRAY.value[::-1]))
    lazy = store.open_npy(array)
    count("slice", lambda: np.array_equal(lazy[30_000:30_512], ARRAY.value[30_000:30_512]))
    count("whole array", lambda: store.load_npy(array))
    # Another host stores: the next look must find it.
    subprocess.run(["on", "b", sys.executable, "-c", OTHER, name], check=True)
    count("miss after another's put", lambda: store.exists(MISSING))
    store.close()
    print(json.dumps(counts))


OTHER = "import kacas, sys; kacas.Store.open(f'/mnt/b/{sys.argv[1]}', create=False).store_text('of host b')"


def main() -> None:
    match sys.argv[1:]:
        case ["measure", name]:
            measure(name)
        case numbers:
            for packs in map(int, numbers):
                make(packs)
                program = [sys.executable, "-m", "tests.faults.programs.nfs_costs"]
                subprocess.run(["on", "a", *program, "measure", f"store-{packs}"], check=True)


if __name__ == "__main__":
    main()
