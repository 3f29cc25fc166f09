"""Spools: bytes come back as they were written, and nothing is left, however the process ends."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacas.disk.spool import Spool
from kacas.errors import WriteError
from tests.faults import children


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.binary(max_size=300), max_size=5), max_size=6), st.integers(0, 500), st.binary(max_size=300)
)
def test_a_spool_gives_back_what_was_written(tmp_path: Path, groups: list[list[bytes]], at: int, over: bytes) -> None:
    expected = bytearray()
    with Spool(tmp_path) as spool:
        for parts in groups:
            spool.append(parts)
            expected += b"".join(parts)
        if over:
            spool.write_at(at, over)
            expected += bytes(max(0, at - len(expected)))
            expected[at : at + len(over)] = over
        assert spool.size == len(expected)
        found = bytearray(len(expected) + 10)
        assert spool.read_into(0, memoryview(found)) == len(expected)
        assert found[: len(expected)] == expected
        assert spool.read_into(len(expected), memoryview(found)) == 0
        assert os.listdir(tmp_path) == []


def test_more_parts_than_the_kernel_takes_at_once_are_appended(tmp_path: Path) -> None:
    parts = [bytes([i % 256]) * (i % 3) for i in range(5000)]
    with Spool(tmp_path) as spool:
        spool.append(parts)
        found = bytearray(spool.size)
        spool.read_into(0, memoryview(found))
        assert found == b"".join(parts)


def test_reserved_space_can_be_mapped(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.reserve(3 << 20)
        assert spool.size == 3 << 20
        assert os.fstat(spool.fd).st_blocks * 512 >= 3 << 20
        with mmap.mmap(spool.fd, spool.size) as mapped:
            mapped[2 << 20 : (2 << 20) + 4] = b"here"
        found = bytearray(4)
        spool.read_into(2 << 20, memoryview(found))
        assert found == b"here"


def test_a_spool_that_is_too_large_or_has_no_place_is_a_write_error(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="making a temporary file"):
        Spool(tmp_path / "missing")

    def write_too_much() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        with Spool(tmp_path) as spool, pytest.raises(WriteError, match="File too large"):
            spool.append([bytes(2 << 20)])

    children.run(write_too_much).get()


def test_nothing_is_left_of_a_spool_when_its_process_is_killed(tmp_path: Path) -> None:
    def spool_and_wait() -> None:
        spool = Spool(tmp_path)
        spool.append([bytes(1 << 20)])
        (tmp_path / "written").touch()
        time.sleep(60)

    child = children.fork(spool_and_wait)
    while not (tmp_path / "written").exists():
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait().killed_by == "SIGKILL"
    assert os.listdir(tmp_path) == ["written"]
