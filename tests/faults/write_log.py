"""What a disk was told, in order: the log of dm-log-writes, and the disks that a power cut at any moment may leave.

A disk may keep what it was told in a volatile cache until it is told to flush: of that, a power cut leaves any part. The log
has each write where it was flushed, and marks where somebody said something.
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# drivers/md/dm-log-writes.c of Linux; all numbers are little-endian.
_SUPER = struct.Struct("<QQQI")
_MAGIC = 0x6A736677736872
_ENTRY = struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
_SECTOR = 512


@dataclass(frozen=True)
class Told:
    """One thing that the disk was told. sector: of 512 bytes, where `size` bytes go; data_at: where they are in the log."""

    flags: int
    sector: int
    size: int
    data_at: int
    mark: str


def read_log(log: Path) -> Iterator[Told]:
    """Everything in the log, in order."""
    with open(log, "rb") as file:
        magic, _, count, sector_size = _SUPER.unpack(file.read(_SUPER.size))
        assert magic == _MAGIC, "this is no log of writes"
        at = sector_size
        for _ in range(count):
            file.seek(at)
            head = file.read(sector_size)
            sector, sectors, flags, data_size = _ENTRY.unpack_from(head)
            at += sector_size
            mark = head[_ENTRY.size : _ENTRY.size + data_size].decode("ascii") if flags & MARK else ""
            size = 0 if flags & (MARK | DISCARD) else sectors * sector_size
            yield Told(flags, sector * (sector_size // _SECTOR), size, at, mark)
            at += size


def flushes(told: list[Told]) -> list[int]:
    """Where the disk was told to flush what it had been told before."""
    return [number for number, one in enumerate(told) if one.flags & FLUSH]


def last_mark(told: list[Told], stop: int) -> str:
    """What was said last before `stop`; "" if nothing was."""
    return next((one.mark for one in reversed(told[:stop]) if one.flags & MARK), "")


def cut(base: Path, log: Path, told: list[Told], flush: int, draw: random.Random, target: Path) -> None:
    """The disk as a power cut just before the end of that flush may leave it.

    base: the disk before the first write. Of what was told since the flush before, any part is there, and what was
    told to be there at once (FUA).
    """
    subprocess.run(["cp", "--sparse=always", base, target], check=True)
    before = max((number for number in flushes(told[:flush])), default=-1)
    share = draw.choice([0.0, 0.2, 0.5, 0.8, 1.0])
    with open(log, "rb") as source, open(target, "r+b") as disk:
        for number, one in enumerate(told[: flush + 1]):
            kept = number <= before or one.flags & FUA or draw.random() < share
            if one.size and kept and number != flush:
                source.seek(one.data_at)
                disk.seek(one.sector * _SECTOR)
                disk.write(source.read(one.size))
