"""What one host does behind the back of another: python -m tests.faults.programs.nfs_surprises

Runs in a guest of tests/faults/nfs.py, on host b. Host a makes a store and segments where b has just found none, restores
packs from a backup while b has them open, and is killed while it stores.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kacas
from tests.faults.examination import check_verified

THERE, HERE = (Path(os.environ[f"KACAS_NFS_{host}"]) / "lab" / "store" for host in "AB")
PUT = "import kacas, os; s = kacas.Store.open('/mnt/a/lab/store')\n"


def on_a(program: str) -> str:
    done = subprocess.run(
        ["on", "a", sys.executable, "-c", PUT + program], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def check_store_that_was_missed() -> None:
    try:
        kacas.Store.open(HERE, create=False)
    except kacas.StoreNotFoundError:
        uri = on_a("print(s.store_text('from a'))")
    with kacas.Store.open(HERE, create=False) as store:
        assert store.load_text(uri) == "from a"


def check_segments_that_were_missed(store: kacas.Store) -> None:
    assert not store.segment_stats().segments
    on_a("for i in range(3): s.store_bytes(os.urandom(2_000_000))\ns.repository.segment_maker.make_all()")
    store.repository.lookup.look_for_segments()
    assert store.segment_stats().segments == 1


def check_pack_that_was_replaced(store: kacas.Store) -> None:
    """Each time by a new file under the name: the server soon knows nothing of the old one."""
    data = os.urandom(3_000_000)
    uri = store.store_bytes(data)
    pack = max((THERE / "packs").glob("*.pack"), key=lambda path: path.stat().st_mtime_ns)
    backup = THERE / "backup"
    backup.write_bytes(pack.read_bytes())
    for start in range(0, 3_000_000, 1_000_000):
        copy = THERE / "copy"
        copy.write_bytes(backup.read_bytes())
        os.replace(copy, pack)
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("3")  # else this host need not ask the server
        assert store.load_bytes(uri, start, start + 500_000) == data[start : start + 500_000]
    backup.unlink()


def check_writers_that_were_killed(store: kacas.Store) -> None:
    program = PUT + "while True: print(s.store_bytes(os.urandom(300_000)), flush=True)"
    for number in range(3):
        writer = subprocess.Popen(["on", "a", sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(0.2 + 0.13 * number)
        writer.send_signal(signal.SIGKILL)
        for uri in [first, *writer.stdout.read().splitlines()]:
            assert len(store.load_bytes(uri.strip())) == 300_000
        writer.wait()
    check_verified(store)


def main() -> None:
    check_store_that_was_missed()
    with kacas.Store.open(HERE, create=False) as store:
        check_segments_that_were_missed(store)
        check_pack_that_was_replaced(store)
        check_writers_that_were_killed(store)
    print("all right")


if __name__ == "__main__":
    main()
