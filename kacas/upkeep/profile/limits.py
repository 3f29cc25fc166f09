"""What the machine can do at best: hashing, copying, the disk under the store, the index. One thread each."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kacas.disk.index import Index
from kacas.disk.index_places import place_in
from kacas.formats.array_source import copy_bytes
from kacas.model.codec import MIB, Codec
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.digest import DIGEST_SIZE, ID_SIZE, PayloadKind, chunk_digest, new_sha1
from kacas.model.pack_format import Footer, PayloadHeader, Table, decode_table, encode_table
from kacas.upkeep.profile.figures import Figure
from kacas.upkeep.profile.stopwatch import timed

_IN_MEMORY = 32 * MIB
_WRITE, _READ = 4 * MIB, 1 * MIB  # bytes of one call
DISK_SIZE = 128 * MIB
_DISK_S = 2.0  # a slow disk gets less to do
INDEX_ROWS = 20_000
_BATCH = 16  # digests that a put or load looks up at a time

_fdatasync = getattr(os, "fdatasync", os.fsync)


def rate(key: str, title: str, per_second: float, unit: str = "B/s") -> Figure:
    """A figure of which more is better."""
    return Figure(key, title, per_second, unit, "higher")


def processor_limits() -> list[Figure]:
    """SHA-1, BLAKE3 and copying."""
    data = memoryview(np.random.default_rng(0).bytes(_IN_MEMORY))
    copy = memoryview(bytearray(_IN_MEMORY))
    chunks = [data[start : start + CHUNK_TARGET] for start in range(0, len(data), CHUNK_TARGET)]
    limits: list[tuple[str, str, Callable[[], object]]] = [
        ("sha1", "SHA-1, which a sha1:// store cannot outrun", lambda: new_sha1().update(data)),
        ("blake3", "BLAKE3 of chunks", lambda: [chunk_digest(chunk) for chunk in chunks]),
        ("copy", "copying memory", lambda: copy_bytes(copy, data)),
    ]
    copy_bytes(copy, data)  # fresh pages cost more than the copy
    return [rate(key, title, len(data) / timed(work, 7, kept=min)) for key, title, work in limits]


def disk_limits(directory: Path, size: int = DISK_SIZE) -> tuple[list[Figure], list[str]]:
    """Writing and reading one file where the store is; notes.

    Bytes that no file system compresses. Cold: the system was asked to drop the file from its memory.
    """
    path = directory / "disk"
    block = memoryview(np.random.default_rng(1).bytes(_WRITE))
    buffer = memoryview(bytearray(_READ))
    notes: list[str] = []
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        written, begun = 0, time.perf_counter()
        while written < size and (not written or time.perf_counter() - begun < _DISK_S):
            written += os.write(fd, block[: size - written])
        buffered_s = time.perf_counter() - begun
        _fdatasync(fd)
        synced_s = time.perf_counter() - begun
        figures = [
            rate("disk_write", "writing a file, into the system's memory", written / buffered_s),
            rate("disk_write_sync", "writing a file and syncing it", written / synced_s),
        ]
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            figures.append(rate("disk_read_cold", "reading it cold", _read_rate(fd, written, buffer)))
        else:
            notes.append("reading cold was not measured: this system has no posix_fadvise")
        figures.append(rate("disk_read_warm", "reading it warm", _read_rate(fd, written, buffer)))
    finally:
        os.close(fd)
        os.unlink(path)
    return figures, notes


def _read_rate(fd: int, size: int, buffer: memoryview) -> float:
    at, begun = 0, time.perf_counter()
    while at < size and time.perf_counter() - begun < _DISK_S:
        count = os.preadv(fd, [buffer], at)
        if count == 0:
            break
        at += count
    return at / max(time.perf_counter() - begun, 1e-9)


def index_limits(cache: Path, rows: int = INDEX_ROWS) -> list[Figure]:
    """Taking tables in, looking up, opening, in a host-local cache directory."""
    place = place_in(cache)
    digests = [secrets.token_bytes(DIGEST_SIZE) for _ in range(rows)]
    table = made_up_table(digests)
    index = Index(place)
    try:
        begun = time.perf_counter()
        index.add([(secrets.token_bytes(ID_SIZE), table)])
        put_s = time.perf_counter() - begun
        groups = [digests[start : start + _BATCH] for start in range(0, rows, _BATCH)]
        get_s = timed(lambda: [index.locate(group) for group in groups], 3, kept=min)
    finally:
        index.close()
    open_s = timed(lambda: Index(place).close(), 5, kept=min)
    return [
        rate("index_put", "index: chunk records taken in", rows / put_s, "/s"),
        rate("index_get", "index: chunks looked up, 16 at a time", rows / get_s, "/s"),
        Figure("index_open", "index: opening it", open_s, "s", "lower"),
    ]


def made_up_table(digests: list[bytes]) -> Table:
    """The table of a pack with such chunks."""
    headers = [PayloadHeader(PayloadKind.CHUNK, Codec.RAW, 64, 64, digest) for digest in digests]
    records = [header.record(64 + number * header.total_size) for number, header in enumerate(headers)]
    table = encode_table(records, [])
    end = 64 + sum(header.total_size for header in headers)
    footer = Footer(bytes(ID_SIZE), end, len(table), len(records), 0, end + len(table), chunk_digest(table))
    return decode_table(table, footer)
