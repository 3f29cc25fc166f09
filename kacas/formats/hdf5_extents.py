"""Where the datasets of an HDF5 file lie in it: a program of its own, as libhdf5 may crash or loop on a damaged file.

It is started by `hdf5_process.py`: its standard input is a socket that files come through. Only metadata is read; links to
other files are never followed. h5py is imported here and nowhere on the way of a put.
"""

from __future__ import annotations

import array
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from kacas.model.hdf5_cuts import (
    MAX_USER_BLOCK,
    MIN_RUN,
    Order,
    Spans,
    is_in_order,
    mixed,
    order_of,
    places,
    signature_at,
    spans_of,
)

IDLE_S = 10.0  # without a file, the program ends
MOST_S = 300  # for one file on a slow disk, and
MOST_PROCESSOR_S = 20.0  # of the processor's time; then a signal ends the program wherever it is
_MOST_MEMORY = 1 << 30  # bytes
_MOST_EXTENTS = 1 << 22  # what follows is cut by content
_MOST_SPANS = 1 << 20
_TOGETHER = 1 << 16  # chunks
_WRITTEN, _SHARED = (
    1,
    4,
)  # marks of a file: somebody writes to it, or ended without closing it; others may read meanwhile (SWMR)
_AREAS = 16  # of the largest dataset, to take samples from


class Extents:
    """What is found, dataset by dataset."""

    def __init__(self, file_size: int) -> None:
        self._file_size = file_size
        self._found: list[NDArray[np.int64]] = []
        self._count = 0
        self._orders: list[Order] = []
        self.largest: dict[str, Any] = {}
        """Of the dataset with most bytes that no filter was applied to: what its items are, and where some of them lie."""
        self._most = 0

    def add(self, dataset: Any) -> None:
        """dataset: h5py's DatasetID."""
        made = dataset.get_create_plist()
        layout = made.get_layout()
        # Of a virtual dataset not even the shape is asked for: that may open the files it is made of.
        if layout == h5py.h5d.CONTIGUOUS and not made.get_external_count():
            self._add_contiguous(dataset)
        elif layout == h5py.h5d.CHUNKED:
            self._add_chunked(dataset, made.get_chunk(), made.get_nfilters() > 0)

    def _add_contiguous(self, dataset: Any) -> None:
        size, start = dataset.get_storage_size(), dataset.get_offset()
        if start is None or size < MIN_RUN or start + size > self._file_size:
            return
        order = order_of(dataset.shape, dataset.get_type().get_size())
        extents = np.array([[start, start + size, len(self._orders), 0]], np.int64)
        self._take(extents, order, dataset, dataset.shape)

    def _add_chunked(self, dataset: Any, chunk: tuple[int, ...], filtered: bool) -> None:
        shape, item_size = dataset.shape, dataset.get_type().get_size()
        in_order = not filtered and is_in_order(shape, chunk, dataset.get_space().get_simple_extent_dims(True))
        parts: list[NDArray[np.int64]] = []
        pending = array.array("q")
        width = 2 + len(shape)
        left = _MOST_EXTENTS - self._count

        def flush() -> None:
            nonlocal pending
            rows = np.frombuffer(pending, np.int64).reshape(-1, width)
            place = places(shape, item_size, rows[:, 2:]) if in_order else mixed(rows[:, 2:])
            parts.append(np.column_stack([rows[:, :2], np.full(len(rows), len(self._orders)), place]))
            pending = array.array("q")

        def take(found: Any) -> bool | None:
            nonlocal left
            stop = found.byte_offset + found.size
            if found.size and stop <= self._file_size:
                pending.extend((found.byte_offset, stop, *found.chunk_offset))
                left -= 1
                if len(pending) >= width * _TOGETHER:
                    flush()
            return None if left > 0 else True  # anything but None ends it

        if left > 0:
            dataset.chunk_iter(take)
        if pending:
            flush()
        if parts:
            order = order_of(shape, item_size) if in_order else Order()
            self._take(np.concatenate(parts), order, None if filtered else dataset, chunk)

    def _take(self, extents: NDArray[np.int64], order: Order, unfiltered: Any, box: tuple[int, ...]) -> None:
        """unfiltered: the dataset, if items lie there as they are; box: what an extent is in the array."""
        self._found.append(extents)
        self._count += len(extents)
        self._orders.append(order)
        size = int((extents[:, 1] - extents[:, 0]).sum())
        if unfiltered is None or size <= self._most:
            return
        self._most = size
        item_size = unfiltered.get_type().get_size()
        some = extents[np.linspace(0, len(extents) - 1, min(len(extents), _AREAS)).astype(int), :2]
        self.largest = {
            "size": size, "kind": _kind(unfiltered), "item_size": item_size, "areas": some.tolist(),
            "row_sizes": [item_size * int(np.prod(box[axis + 1 :], dtype=np.int64)) for axis in range(len(box))],
        }  # fmt: skip

    def spans(self) -> Spans:
        if not self._found:
            return np.empty((0, 5), np.int64)
        return spans_of(np.concatenate(self._found), np.array(self._orders, np.int64), self._file_size)[:_MOST_SPANS]


def _kind(dataset: Any) -> str:
    try:
        return str(dataset.dtype.kind)
    except (TypeError, ValueError):  # a type that NumPy does not have
        return "V"


def _datasets(file: h5py.File) -> Iterator[Any]:
    """All that hard links lead to, each once. h5py's own visit would end at the first object that is damaged."""
    seen = set[int]()
    waiting = [h5py.h5g.open(file.id, b"/")]
    while waiting:
        group = waiting.pop()
        try:
            names = list(group)
        except Exception:  # noqa: BLE001 - whatever is wrong with this one, the others are as good as before
            continue
        for name in names:
            try:
                if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                    continue
                found = h5py.h5o.open(group, name)
                address = h5py.h5o.get_info(found).addr
            except Exception:  # noqa: BLE001 - as above
                continue
            if address in seen:
                continue
            seen.add(address)
            if isinstance(found, h5py.h5g.GroupID):
                waiting.append(found)
            elif isinstance(found, h5py.h5d.DatasetID):
                yield found


@contextmanager
def _opened(fd: int) -> Iterator[h5py.File]:
    """As its marks want it, of which the newer superblocks have some."""
    name = f"/proc/self/fd/{fd}"
    with open(name, "rb", MAX_USER_BLOCK) as anew:  # who sent us the file has its position in common with us
        front = anew.read(MAX_USER_BLOCK)
        at = signature_at(front)
        marks = front[at + 11] if at is not None and len(front) > at + 11 and front[at + 8] == 3 else 0
        # By name, one that is written would be refused. The size of one that others may read meanwhile is not held against it.
        source = anew if marks == _WRITTEN else name
        with h5py.File(source, "r", locking=False, swmr=marks == _WRITTEN | _SHARED) as file:
            yield file


def read_extents(fd: int) -> Extents:
    """Of all datasets in the file. What cannot be read is left out. Raises OSError for no HDF5."""
    extents = Extents(os.fstat(fd).st_size)
    with _opened(fd) as file:
        for dataset in _datasets(file):
            try:
                extents.add(dataset)
            except Exception:  # noqa: BLE001 - whatever is wrong with this one, the others are as good as before
                pass
    return extents


def _reply(fd: int) -> bytes:
    """A line of JSON, and the spans. Empty if the file is not to be had as HDF5."""
    try:
        extents = read_extents(fd)
        spans = extents.spans()
    except Exception:  # noqa: BLE001 - the file is cut by content then
        return b'{"spans": 0, "largest": {}}\n'
    return json.dumps({"spans": len(spans), "largest": extents.largest}).encode() + b"\n" + spans.tobytes()


def main() -> None:
    """Answer one file after the other, until none comes."""
    ends = (signal.SIGALRM, signal.SIGPROF)
    for number in ends:
        signal.signal(number, signal.SIG_DFL)  # whoever started us may ignore them
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
    for limit, most in ((resource.RLIMIT_DATA, _MOST_MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.setrlimit(limit, (most, most))
    with socket.socket(fileno=0) as connection:
        connection.settimeout(IDLE_S)
        while True:
            try:
                _, fds, _, _ = socket.recv_fds(connection, 1, 1)
            except TimeoutError:
                return
            if not fds:
                return
            signal.alarm(MOST_S)
            signal.setitimer(signal.ITIMER_PROF, MOST_PROCESSOR_S)
            connection.sendall(_reply(fds[0]))
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            os.close(fds[0])


if __name__ == "__main__":
    main()
