"""A bucket that was used before a fork works in the children: plain forks, pools, data loaders, dask."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.blobs.sealed import SealedBlobs
from kacas_remote.errors import BlobNotFoundError
from tests.remote.group_keys import FixedKeys
from tests.remote.servers import S3Bucket
from tests.remote.servers import s3_bucket as s3_bucket
from tests.remote.servers import s3_server as s3_server

_LONGEST_S = 60
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(params=["plain", "sealed"])
def used(request: pytest.FixtureRequest, s3_bucket: S3Bucket) -> Iterator[BlobStore]:
    """A bucket that this process has used, in the open or sealed for a group."""
    blobs = open_blobs(s3_bucket.url, endpoint=s3_bucket.endpoint, credentials=s3_bucket.credentials)
    if request.param == "sealed":
        blobs = SealedBlobs(blobs, FixedKeys("forking"))
    blobs.put("before", b"the fork")
    yield blobs
    blobs.close()


def in_a_fork(work: Callable[[], None]) -> int:
    """Exit status of a forked child that does this; killed if it hangs."""
    pid = os.fork()
    if pid == 0:
        signal.signal(
            signal.SIGALRM, signal.SIG_DFL
        )  # pytest-timeout has a handler that a hanging child never comes to
        signal.alarm(_LONGEST_S)
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - the child must not go on with the parent's tests
            os.write(2, repr(exc).encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_client_alone_would_hang(s3_bucket: S3Bucket) -> None:
    """Why there is another process. When this test fails, it can go."""
    import obstore

    store = s3_bucket.store()
    obstore.put(store, "a", b"1")

    def hangs() -> None:
        signal.alarm(3)
        obstore.get(store, "a")

    assert in_a_fork(hangs) == -signal.SIGALRM


def test_a_forked_child_reads_and_writes(used: BlobStore) -> None:
    def work() -> None:
        assert used.get("before", 100) == b"the fork"
        assert used.put_if_absent("child", b"1")
        assert [bytes(part) for part in used.get_ranges("before", [(0, 3), (4, 8)])] == [b"the", b"fork"]
        assert [info.key for info in used.list("")] == ["before", "child"]
        used.put_parts("parts", iter([bytes(8 << 20), b"end"]))
        assert used.head("missing") is None
        with pytest.raises(BlobNotFoundError, match="missing"):
            used.get("missing", 1)
        with pytest.raises(LookupError):
            used.put_parts("failed", (_ for _ in [{}["nothing"]]))
        used.close()
        assert used.get("child", 1) == b"1"

    assert in_a_fork(work) == 0
    info = used.head("parts")
    assert info is not None
    assert info.size == (8 << 20) + 3
    assert used.get("before", 100) == b"the fork"  # the parent goes on


def test_the_child_of_a_child_has_its_own(used: BlobStore) -> None:
    def work() -> None:
        assert used.get("before", 100) == b"the fork"
        assert in_a_fork(lambda: used.put("grandchild", b"1")) == 0
        assert used.get("grandchild", 1) == b"1"

    assert in_a_fork(work) == 0


def test_its_process_ends_with_the_child(used: BlobStore, tmp_path: Path) -> None:
    def work() -> None:
        used.get("before", 100)
        found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
        (tmp_path / "pid").write_text(found[0], encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_fork(work) == -signal.SIGKILL
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    until = time.monotonic() + _LONGEST_S
    while _is_alive(pid):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_when_its_process_is_killed_another_one_is_started(used: BlobStore) -> None:
    def work() -> None:
        used.get("before", 100)
        found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
        os.kill(int(found[0]), signal.SIGKILL)
        assert used.get("before", 100) == b"the fork"

    assert in_a_fork(work) == 0


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


_shared: BlobStore | None = None


def _read(number: int) -> bytes:
    assert _shared is not None
    _shared.put(f"by/{number}", b"1")
    return _shared.get("before", 100)


def test_a_pool_of_forked_processes_reads(used: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "_shared", used)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_read, range(6)).get(_LONGEST_S) == [b"the fork"] * 6
    assert len([*used.list("by/")]) == 6


class Samples:
    """What a data loader reads one by one."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def __getitem__(self, number: int) -> bytes:
        start, stop = ((0, 3), (4, 8))[number % 2]
        return bytes(self._blobs.get_ranges("before", [(start, stop)])[0])


def _load(samples: Samples, numbers: list[int], results: multiprocessing.Queue[tuple[int, bytes]]) -> None:
    for number in numbers:
        results.put((number, samples[number]))


def test_the_workers_of_a_data_loader_read(used: BlobStore) -> None:
    """As torch.utils.data.DataLoader starts them on Linux: daemonic, forked, one queue back."""
    forking = multiprocessing.get_context("fork")
    results = forking.Queue()
    samples = Samples(used)
    assert samples[0] == b"the"
    workers = [
        forking.Process(target=_load, args=(samples, [*range(first, 8, 2)], results), daemon=True) for first in (0, 1)
    ]
    for worker in workers:
        worker.start()
    got = dict(results.get(timeout=_LONGEST_S) for _ in range(8))
    for worker in workers:
        worker.join(_LONGEST_S)
        assert worker.exitcode == 0
    assert got == {number: (b"the", b"fork")[number % 2] for number in range(8)}


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_dask_reads_in_processes(
    used: BlobStore, s3_bucket: S3Bucket, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spawned process does not know what was given here by hand: the environment tells it."""
    import dask

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_bucket.credentials["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_bucket.credentials["secret_access_key"])
    parts = [dask.delayed(used.get)("before", 100) for _ in range(4)]
    with dask.config.set({"multiprocessing.context": start}):
        assert dask.compute(*parts, scheduler="processes", num_workers=2) == (b"the fork",) * 4
