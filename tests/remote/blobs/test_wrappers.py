"""Limits, URLs and the directory: what is around blob stores."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas_remote.blobs.bounded import Bounded
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.joined_ranges import handed_out, joined_ranges
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.blobs.throttled import Throttled
from kacas_remote.errors import BlobNotFoundError, InvalidRemoteError, NotSupportedError, RemoteNotFoundError


@given(
    data=st.binary(max_size=300),
    ranges=st.lists(st.tuples(st.integers(0, 350), st.integers(0, 60)).map(lambda r: (r[0], r[0] + r[1]))),
    gap=st.integers(0, 20),
    most=st.integers(1, 100),
)
def test_joined_ranges_give_what_was_asked_for(data: bytes, ranges: list[tuple[int, int]], gap: int, most: int) -> None:
    joined = joined_ranges(ranges, gap=gap, most=most)
    answers = [memoryview(data)[part.start : part.stop] for part in joined]
    assert [bytes(part) for part in handed_out(ranges, joined, answers)] == [data[a:b] for a, b in ranges]
    assert [part.start for part in joined] == sorted(part.start for part in joined)


def test_near_ranges_are_one_request_and_far_ones_two() -> None:
    assert [(part.start, part.stop) for part in joined_ranges([(100, 110), (0, 10)])] == [(0, 110)]
    assert len(joined_ranges([(0, 10), (1 << 30, (1 << 30) + 1)])) == 2


def test_a_limit_holds_over_threads_up_and_down() -> None:
    blobs = Throttled(MemoryBlobs(), 1_000_000)
    start = time.monotonic()
    threads = [threading.Thread(target=blobs.put, args=(f"{n}", bytes(100_000))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        blobs.get(f"{n}", 100_000)
    assert time.monotonic() - start >= 1.0


class _Counting(MemoryBlobs):
    """How many are in it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now: list[int] = []
        self.most = 0

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        self.now.append(1)
        self.most = max(self.most, len(self.now))
        time.sleep(0.01)
        self.now.pop()
        return super().get_ranges(key, ranges)


def test_no_more_requests_run_than_were_granted() -> None:
    inner = _Counting()
    blobs = Bounded(inner, 3)
    blobs.put("a", b"1")
    threads = [threading.Thread(target=blobs.get_ranges, args=("a", [(0, 1)])) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= inner.most <= 3


@pytest.mark.parametrize(
    "url",
    ["s3://user:password@bucket", "https://me@server/x", "https://me:very-secret@server"],
)
def test_a_url_with_a_password_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidRemoteError) as caught:
        open_blobs(url)
    assert "password@" not in str(caught.value)
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "bucket", "s3://", "ftp://server", "file://host/path", "s3://b/a/../c", "https://", "s3://b?x=1"]
)
def test_what_is_no_url_of_a_remote_is_refused(url: str) -> None:
    with pytest.raises(InvalidRemoteError):
        open_blobs(url)


def test_memory_is_shared_by_name_and_prefix(tmp_path: Path) -> None:
    open_blobs(f"memory://{tmp_path.name}/a").put("b", b"1")
    assert open_blobs(f"memory://{tmp_path.name}").get("a/b", 1) == b"1"


def test_links_in_a_directory_lead_nowhere(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret").write_bytes(b"1")
    (inside / "link").symlink_to(outside / "secret")
    (inside / "way").symlink_to(outside)
    blobs = DirectoryBlobs(inside)
    for key in ("link", "way/secret"):
        with pytest.raises(BlobNotFoundError):
            blobs.get(key, 10)
        assert blobs.head(key) is None
    with pytest.raises(NotSupportedError):
        blobs.put("way/new", b"1")
    blobs.delete(["way/secret"])
    assert [*outside.iterdir()] == [outside / "secret"]
    assert not [*blobs.list("")]
    blobs.put("link", b"2")
    assert (outside / "secret").read_bytes() == b"1"


def test_what_a_crash_leaves_is_not_listed(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    pid = os.fork()
    if pid == 0:
        blobs.put_parts("a/blob", (part if part else os._exit(0) for part in (b"1", b"")))
    os.waitpid(pid, 0)
    assert [path.name for path in (tmp_path / "a").iterdir()] != []
    assert not [*blobs.list("")]
    assert blobs.put_if_absent("a/blob", b"whole")


def test_a_directory_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path / "unmounted")
    for call in (lambda: blobs.put("a", b""), lambda: blobs.head("a"), lambda: [*blobs.list("")]):
        with pytest.raises(RemoteNotFoundError, match="mounted"):
            call()
