"""A push that is killed at any moment: the next one goes on, sends nothing that arrived, and nobody saw what was not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.layout import MARKER, PACKS, RECIPES, pack_id_of
from kacas_remote.pack_tables import read_table
from kacas_remote.pending import pending, taken
from kacas_remote.push import push, push_pending
from kacas_remote.remote import Remote, new_remote
from tests.remote.counting import CountingBlobs
from tests.remote.proved import proved

MIB = 1 << 20

# Pushes, and kills itself at the given call: before it, or after it was done.
KILLED = """
import os, signal, sys
import kacas
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.push import push
from kacas_remote.remote import Remote
from tests.remote.counting import CountingBlobs

store_path, bucket, uris, call, prefix, number, after = *sys.argv[1:3], sys.argv[3].split(","), *sys.argv[4:8]

class Killed(CountingBlobs):
    met = 0

    def _note(self, done, key, size, ranges=0):
        if done == call and key.startswith(prefix):
            Killed.met += 1
            if Killed.met == int(number) + (after == "after"):
                os.kill(os.getpid(), signal.SIGKILL)

with kacas.Store.open(store_path) as store:
    push(store, Remote("lab", Killed(DirectoryBlobs(bucket))), uris, limit_bytes_s=1 << 20 if len(sys.argv) > 8 else None)
"""


@pytest.fixture
def lab_remote(tmp_path: Path) -> Remote:
    (tmp_path / "bucket").mkdir()
    return new_remote("lab", DirectoryBlobs(tmp_path / "bucket"))


@pytest.fixture
def uris(store: kacas.Store, tmp_path: Path) -> list[str]:
    """More than 64 MiB that no codec makes smaller: three packs; and a directory of small files."""
    random = np.random.default_rng(3)
    (tmp_path / "run").mkdir()
    for number in range(200):
        (tmp_path / "run" / f"{number}.dat").write_bytes(random.bytes(1000 + number))
    return [store.store_bytes(random.bytes(70 * MIB)), store.store_dir(tmp_path / "run")]


def killed(store: kacas.Store, bucket: Path, uris: list[str], *at: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", KILLED, str(store.path), str(bucket), ",".join(uris), *at]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


POINTS = [
    ("put", "leases/", "1", "before"),
    ("list", PACKS, "1", "before"),
    ("put", PACKS, "1", "before"),
    ("put", PACKS, "2", "before"),
    ("put", PACKS, "3", "before"),
    ("list", "condemned/", "2", "before"),
    ("put", RECIPES, "1", "before"),
    ("put", RECIPES, "1", "after"),
    ("get", "leases/", "1", "before"),
    ("delete", "leases/", "1", "before"),
]


@pytest.mark.parametrize("at", POINTS, ids=lambda at: "-".join(at).replace("/", ""))
def test_after_a_kill_the_next_push_sends_only_what_did_not_arrive(
    store: kacas.Store, lab_remote: Remote, uris: list[str], tmp_path: Path, at: tuple[str, ...]
) -> None:
    assert killed(store, tmp_path / "bucket", uris, *at).wait(60) == -signal.SIGKILL
    assert [set(one.uris) for one in pending()] == [set(uris)]
    nobody_sees_what_is_not_there(lab_remote)
    resumed(store, lab_remote, uris)


# Of a push that counts on packs of others: it lists packs a second time, beside the last pack.
POINTS_BESIDE_OTHERS = [
    ("put", PACKS, "1", "before"),
    ("put", PACKS, "2", "before"),
    ("list", PACKS, "2", "before"),
    ("put", RECIPES, "1", "before"),
    ("put", RECIPES, "1", "after"),
    ("get", "leases/", "1", "before"),
    ("list", "condemned/", "2", "before"),
    ("get", MARKER, "2", "before"),
]


@pytest.mark.parametrize("at", POINTS_BESIDE_OTHERS, ids=lambda at: "-".join(at).replace("/", ""))
def test_after_a_kill_in_a_bucket_with_packs_the_next_push_counts_on_them_and_sends_only_what_did_not_arrive(
    store: kacas.Store, lab_remote: Remote, uris: list[str], tmp_path: Path, at: tuple[str, ...]
) -> None:
    earlier = store.store_bytes(store.load_bytes(uris[0], 0, 30 * MIB))
    push(store, lab_remote, [earlier])
    assert killed(store, tmp_path / "bucket", uris, *at).wait(60) == -signal.SIGKILL
    assert [set(one.uris) for one in pending()] == [set(uris)]
    nobody_sees_what_is_not_there(lab_remote)
    resumed(store, lab_remote, uris)
    assert proved(lab_remote, earlier) == store.load_bytes(earlier)


@pytest.mark.parametrize("wait_s", [0.3, 1.2, 2.5])
def test_a_kill_from_outside_costs_no_more(
    store: kacas.Store, lab_remote: Remote, uris: list[str], tmp_path: Path, wait_s: float
) -> None:
    process = killed(store, tmp_path / "bucket", uris, "never", "", "0", "before", "slowly")
    while not list(lab_remote.blobs.list("leases/")):
        time.sleep(0.01)
        assert process.poll() is None
    time.sleep(wait_s)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    nobody_sees_what_is_not_there(lab_remote)
    resumed(store, lab_remote, uris)


def nobody_sees_what_is_not_there(remote: Remote) -> None:
    for info in remote.blobs.list(RECIPES):
        proved(remote, "sha1://" + os.path.basename(info.key))


def resumed(store: kacas.Store, remote: Remote, uris: list[str]) -> None:
    counted = CountingBlobs(remote.blobs)
    arrived = {info.key for info in remote.blobs.list(PACKS)}
    with taken() as (note,):
        push_pending(note, store, Remote("lab", counted))
    put = [one for one in counted.take() if one.call == "put" and one.key.startswith(PACKS)]
    assert {one.key for one in put} == {info.key for info in remote.blobs.list(PACKS)} - arrived
    assert pending() == []
    seen: Counter[bytes] = Counter()
    for info in remote.blobs.list(PACKS):
        pack_id = pack_id_of(info.key)
        assert pack_id is not None
        for piece in read_table(remote.blobs, remote.remote_id, pack_id, info.size):
            seen.update(piece.records["digest"].tolist())
    assert set(seen.values()) == {1}  # no payload was sent twice
    assert proved(remote, uris[0]) == store.load_bytes(uris[0])
    assert remote.blobs.head(f"recipes/{uris[1][10:12]}/{uris[1][12:14]}/{uris[1][10:50]}")


def test_the_lease_of_a_killed_push_hinders_nobody(
    store: kacas.Store, lab_remote: Remote, uris: list[str], tmp_path: Path
) -> None:
    assert killed(store, tmp_path / "bucket", uris, "put", RECIPES, "1", "before").wait(60) == -signal.SIGKILL
    assert len(list(lab_remote.blobs.list("leases/"))) == 1
    resumed(store, lab_remote, uris)


def test_processes_that_push_the_same_at_once_all_succeed(
    store: kacas.Store, lab_remote: Remote, uris: list[str], tmp_path: Path
) -> None:
    processes = [killed(store, tmp_path / "bucket", uris, "never", "", "0", "before") for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert pending() == []
    assert proved(lab_remote, uris[0]) == store.load_bytes(uris[0])
    assert list(lab_remote.blobs.list("leases/")) == []
