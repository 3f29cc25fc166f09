"""A process that holds one system and the caller's array, and times single calls: `python -m bench.array_worker SYSTEM`.

The requests of bench/arrays.py. Seconds cover the system's own call and nothing else; whatever is loaded is compared
with what was stored, after the clock has stopped.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.array_systems import SYSTEMS, Array
from bench.machine import delete_large_files, disk_size, leave_page_cache, settle, sync_tree
from bench.worker import serve
from bench.workloads import MIB, recording_block

COMPARED_AT_ONCE = 16 * MIB  # bytes
STREAMED_BLOCKS = 8  # recordings of 8 MiB that a stream is made of, each time with another number added


class Requests:
    """What a worker does when asked."""

    def __init__(self, system: str) -> None:
        self._system: Any = SYSTEMS[system]()
        self._path = ""
        self._array: Array = np.empty((0, 0), dtype=np.int16)
        self._directory = Path()
        self._opened: Any = None

    def version(self) -> dict[str, object]:
        return {"version": self._system.version}

    def array(self, path: str) -> dict[str, object]:
        """Take the array into memory: it is the caller's, and no part of any figure."""
        if path != self._path:
            self._array = np.empty((0, 0), dtype=np.int16)  # two would need twice the memory
            self._array, self._path = np.load(path), path
        return {"size": self._array.nbytes}

    def open(self, directory: str) -> dict[str, object]:
        self._directory = Path(directory)
        self._system.open(self._directory)
        settle()
        return {}

    def store(self, way: str = "", chunks: list[int] | None = None) -> dict[str, object]:
        start = time.perf_counter()
        key = self._system.store(self._array, way, tuple(chunks) if chunks else None)
        return {"seconds": time.perf_counter() - start, "key": key}

    def sync(self) -> dict[str, object]:
        start = time.perf_counter()
        sync_tree(self._directory)
        return {"seconds": time.perf_counter() - start, "disk": disk_size(self._directory)}

    def close(self) -> dict[str, object]:
        """Forget everything but the files, and let the kernel forget their pages."""
        self._opened = None
        self._system.close()
        leave_page_cache(self._directory)
        return {}

    def reopen(self) -> dict[str, object]:
        self._opened = None
        self._system.close()
        self._system.reopen()
        return {}

    def delete(self) -> dict[str, object]:
        """Close, and delete the large files: many small ones wait for the end of the run."""
        self.close()
        delete_large_files(self._directory, MIB)
        return {}

    def load(self, key: str) -> dict[str, object]:
        start = time.perf_counter()
        loaded = self._system.load(key)
        seconds = time.perf_counter() - start
        self._check(same(loaded, self._array), key)
        return {"seconds": seconds}

    def load_only(self, key: str) -> dict[str, object]:
        """Load and compare nothing: comparing takes memory of its own."""
        return {"size": self._system.load(key).nbytes}

    def map(self, key: str, times: int) -> dict[str, object]:
        """Map the array so many times, nothing of it read; seconds are of the median."""
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            mapped = self._system.map(key)
            seconds.append(time.perf_counter() - start)
            self._check(mapped.shape == self._array.shape and mapped.dtype == self._array.dtype, key)
            del mapped  # unmapping the last one is no part of mapping the next
        return {"seconds": statistics.median(seconds)}

    def map_and_compare(self, key: str) -> dict[str, object]:
        """Map the array for the first time; seconds are of the mapping, all of it is compared."""
        start = time.perf_counter()
        mapped = self._system.map(key)
        seconds = time.perf_counter() - start
        self._check(same(mapped, self._array), key)
        return {"seconds": seconds}

    def map_only(self, key: str) -> dict[str, object]:
        return {"size": self._system.map(key).nbytes}

    def open_array(self, key: str) -> dict[str, object]:
        """Open the array for `slices`."""
        self._opened = self._system.opened(key)
        return {}

    def slices(self, starts: list[int], width: int, axis: int) -> dict[str, object]:
        """Read slices of `width` along `axis`, one after the other; of width 1, without that axis.

        Each is compared and dropped before the next: memory for all at once would be most of what is timed.
        """
        every = (slice(None),) * axis
        seconds = 0.0
        for start in starts:
            index = (*every, slice(start, start + width) if width > 1 else start)
            begun = time.perf_counter()
            part = self._opened[index]
            seconds += time.perf_counter() - begun
            self._check(same(part, self._array[index]), f"slice {index}")
            del part
        return {"seconds": seconds}

    def prepare_stream(self, size: int) -> dict[str, object]:
        """Make the blocks that a stream of `size` bytes is made of: they are the caller's."""
        self._stream = Stream(size)
        return {"size": self._stream.size}

    def stream(self) -> dict[str, object]:
        """Write the stream; seconds hold the making of the blocks, one sum for each."""
        start = time.perf_counter()
        with self._system.writer(self._stream.shape, self._stream.dtype) as writer:
            for block in self._stream.blocks():
                writer.append(block)
        return {"seconds": time.perf_counter() - start, "key": writer.uri}

    def check_stream(self, key: str, count: int) -> dict[str, object]:
        """Compare the first block, the last, and some between them."""
        stored = self._system.opened(key)
        assert stored.shape == self._stream.shape
        for number in sorted({round(at) for at in np.linspace(0, self._stream.count - 1, count)}):
            rows = self._stream.rows
            self._check(
                same(stored[number * rows : (number + 1) * rows], self._stream.block(number)), f"block {number}"
            )
        return {}

    @staticmethod
    def _check(equal: bool, what: str) -> None:
        if not equal:
            raise AssertionError(f"{what} was loaded with other values than were stored")


class Stream:
    """An int16 recording that is made block by block: a few blocks again and again, each time with another number added.

    No two blocks have a chunk in common, so that none is recognised. size: bytes, of which whole blocks of 8 MiB are taken.
    """

    def __init__(self, size: int) -> None:
        self._made = [recording_block(index) for index in range(STREAMED_BLOCKS)]
        self._next = np.empty_like(self._made[0])
        self.count = max(1, size // self._next.nbytes)
        self.rows = len(self._next)
        self.dtype = self._next.dtype
        self.shape = (self.rows * self.count, *self._next.shape[1:])
        self.size = self.count * self._next.nbytes

    def block(self, number: int) -> Array:
        """Valid until the next one is made."""
        turn, which = divmod(number, STREAMED_BLOCKS)
        np.add(self._made[which], np.int16(turn), out=self._next)
        return self._next

    def blocks(self) -> Iterator[Array]:
        return map(self.block, range(self.count))


def same(one: Array, other: Array) -> bool:
    """Whether two arrays are equal in shape, dtype and every element, in little memory."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    step = max(1, COMPARED_AT_ONCE // max(1, one.nbytes // max(1, len(one))))
    return all(np.array_equal(one[at : at + step], other[at : at + step]) for at in range(0, len(one), step))


if __name__ == "__main__":
    serve(Requests(sys.argv[1]))
