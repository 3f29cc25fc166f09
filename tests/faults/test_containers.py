"""Containers with pid namespaces of their own on one cache directory: the same pids, the same hostname, the same user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kacas
from kacas.settings import Settings
from kacas.upkeep.doctor.run import examine
from tests.faults import contents, strace
from tests.faults.examination import check_verified, make_store, open_store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a pid namespace")

_UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]


@contextmanager
def container(place: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [*_UNSHARE, *strace.command("contained", place, name)]
    process = subprocess.Popen(command, cwd=strace.ROOT, env=strace.environment(), stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def events(place: Path, name: str) -> list[dict[str, Any]]:
    file = place / name
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def await_events(place: Path, name: str, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while len(events(place, name)) < count:
        assert process.poll() is None, f"container {name} ended"
        assert time.monotonic() < deadline, f"container {name} stands still"
        time.sleep(0.02)


def test_containers_on_one_index_lose_nothing_and_one_that_is_killed_disturbs_no_other(tmp_path: Path) -> None:
    make_store(tmp_path, [])
    (tmp_path / "restored").mkdir()
    with container(tmp_path, "one") as one, container(tmp_path, "two") as two:
        for name, process in (("one", one), ("two", two)):
            await_events(tmp_path, name, 30, process)
        one.kill()
        one.wait()
        # What takes its place has the same pids again, perhaps the number of the namespace too.
        with container(tmp_path, "three") as three:
            await_events(tmp_path, "three", 30, three)
            await_events(tmp_path, "two", len(events(tmp_path, "two")) + 30, two)
            (tmp_path / "stop").touch()
            assert [three.wait(60), two.wait(60)] == [0, 0]
    said = {name: events(tmp_path, name) for name in ("one", "two", "three")}
    assert {of_one[0]["pid"] for of_one in said.values()} == {1}
    assert said["one"][0]["namespace"] != said["two"][0]["namespace"] != said["three"][0]["namespace"]
    with open_store(tmp_path / "store", tmp_path / "cache") as store:
        for event in [event for of_one in said.values() for event in of_one if "uri" in event]:
            assert contents.sha1_of(store.load_bytes(event["uri"])) == event["sha1"]
        check_verified(store)
    (cache,) = (tmp_path / "cache").iterdir()
    assert len(list((cache / "index").iterdir())) in (3, 4)  # the host's too


def test_doctor_outside_does_not_take_the_writer_in_a_container_of_the_same_name_for_dead(store: kacas.Store) -> None:
    names = [
        subprocess.run(
            [*before, sys.executable, "-c", "from kacas.disk.durable import temporary_name as name; print(name('x'))"],
            cwd=strace.ROOT, env=strace.environment(), stdout=subprocess.PIPE, text=True, check=True,
        ).stdout.strip()
        for before in (_UNSHARE, [])
    ]  # fmt: skip
    gone = names[1].split(".")[-2]  # nobody has it outside; inside, somebody might
    names[0] = ".".join([*names[0].split(".")[:-2], gone, names[0].split(".")[-1]])
    then = time.time() - 2 * 24 * 3600
    for name in names:
        (store.path / "packs" / name).touch()
        os.utime(store.path / "packs" / name, (then, then))
    report = examine(store.path, Settings.from_environment(), fix=True)
    assert {(one.id, one.fixed) for one in report.findings} == {("old-temporary", False), ("stale-temporary", True)}
    assert [(store.path / "packs" / name).exists() for name in names] == [True, False]
