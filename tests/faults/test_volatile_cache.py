"""A disk with a volatile cache: whatever part of what was not flushed a power cut leaves, what was acknowledged is there."""

from __future__ import annotations

import random
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults import strace, uml
from tests.faults.children import run
from tests.faults.examination import check_verified
from tests.faults.programs.powered import look, open_here, said
from tests.faults.write_log import cut, flushes, last_mark, read_log

DISK_SIZE, LOG_SIZE = 256 << 20, 2 << 30
THINGS = 60
NEEDED = {"mkfs.ext4": "e2fsprogs", "dmsetup": "dmsetup", "losetup": "mount"}


@contextmanager
def mounted(disk: Path, place: Path) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop", disk, place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine does not let root mount a file: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def record(place: Path, durability: str) -> None:
    """A machine stores things on place/disk and says so; what the disk was told is in place/log."""
    for name, size in (("disk", DISK_SIZE), ("log", LOG_SIZE)):
        with open(place / name, "wb") as file:
            file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", place / "disk"], check=True, env={"PATH": uml.ADMIN_PATH})
    subprocess.run(["cp", "--sparse=always", place / "disk", place / "base"], check=True)
    program = ["powered", "/mnt/disk/store", "/mnt/disk/cache", place, "0", durability, "told", str(THINGS)]
    script = f"""
        load_modules dm-mod dm-log-writes && mkdir /mnt/disk &&
        dmsetup create told --table "0 {DISK_SIZE // 512} log-writes /dev/ubda /dev/ubdb" --noudevsync &&
        dmsetup mknodes && mount -t ext4 /dev/mapper/told /mnt/disk && {shlex.join(strace.command(*program))} &&
        umount /mnt/disk && dmsetup remove --noudevsync told
    """
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/run"}
    uml.run(script, memory_mib=512, disks=[place / "disk", place / "log"], environment=environment).check()


def lost_after_cuts(place: Path, cuts: int, durability: str) -> list[str]:
    """What was acknowledged and is not there, after so many power cuts at moments drawn at random."""
    told = list(read_log(place / "log"))
    moments = [flush for flush in flushes(told) if last_mark(told, flush)]
    assert len(moments) > 10
    draw = random.Random()
    lost: list[str] = []
    for _ in range(cuts):
        flush = draw.choice(moments)
        cut(place / "base", place / "log", told, flush, draw, place / "cut")
        events = said(place, "0")[: int(last_mark(told, flush))]

        def check(events: list[dict[str, object]] = events) -> list[str]:
            with open_here(place / "mounted" / "store", place / "mounted" / "cache", durability) as store:
                found: list[str] = look(store, events, "last")["lost"]
                if durability == "full":
                    check_verified(store)
            return found

        with mounted(place / "cut", place / "mounted"):
            lost += run(check).get()
    return lost


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    if lacking := uml.missing(NEEDED):
        pytest.skip(lacking)
    yield tmp_path
    for name in ("disk", "base", "log", "cut"):
        (tmp_path / name).unlink(missing_ok=True)


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_whatever_part_of_what_was_not_flushed_is_lost_what_was_acknowledged_is_there(place: Path) -> None:
    record(place, "full")
    assert lost_after_cuts(place, 40, "full") == []


@pytest.mark.heavy
def test_a_store_that_does_not_sync_loses_content_on_such_a_disk(place: Path) -> None:
    record(place, "relaxed")
    assert lost_after_cuts(place, 10, "relaxed") != []
