"""A put that runs beside the caller, who hands it the data bit by bit: a put pulls, whoever appends pushes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import Empty, SimpleQueue

from kacas.errors import ArrayStreamError
from kacas.formats.array_source import FrontSource, copy_bytes
from kacas.formats.npy import SampledSource
from kacas.gathering import GatheringBatch
from kacas.repository import Repository

_LOOK_S = 0.5  # how often a put that waits for data looks whether the program has ended


Put = Callable[[SampledSource, int], str]
"""put(source, rows) stores the data as an array of so many rows and returns its URI."""


class AbandonedError(ArrayStreamError):
    """No more data will come, and what came is not stored."""


class PutBeside:
    """A put in a thread of its own, whose buffers the appending thread fills.

    It joins the batch that is open here, or has one of its own, which is published by the thread that calls `finish`. While
    the appending thread has a buffer of the put, the put waits for it. `wanted`: buffers to be filled, None when the put has
    ended. `filled`: bytes in the buffer, 0 at the end, None to give up.
    """

    _pid = 0  # until it is made

    def __init__(self, repository: Repository, put: Put, rows: int, row_size: int, item_size: int) -> None:
        """rows: that will be appended. row_size, item_size: bytes."""
        self._filled: SimpleQueue[int | None] = SimpleQueue()
        self._wanted: SimpleQueue[memoryview | None] = SimpleQueue()
        self._pid = os.getpid()
        self._repository = repository
        self._rows = rows
        self._room = memoryview(b"")  # what is left of the buffer that the put wants filled
        self._done = 0  # bytes in its front
        self._results: list[str | BaseException] = []
        self._batch = repository.begin_batch() if repository.current_batch.get() is None else None
        context = copy_context()
        if self._batch is not None:
            context.run(repository.current_batch.set, self._batch)
        self._appender = [threading.current_thread()]
        handing = _Handing(self._wanted, self._filled, self._appender)
        source = FrontSource(handing.readinto, rows * row_size, item_size)
        # Nothing that it holds leads to the writer, which could else never be collected.
        self._thread = threading.Thread(
            target=context.run,
            args=(_run, lambda: put(source, rows), self._results, self._wanted, self._batch),
            name="kacas-npy-writer",
        )
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C: the thread may run, and nobody has what would end it
            self.abandon()
            if self._thread.ident is not None:
                self.wait()
            raise

    def __del__(self) -> None:
        # Whatever thread collects it must not wait: the put may wait for that very thread.
        if os.getpid() == self._pid:
            self.abandon()

    def append(self, part: memoryview) -> None:
        """Copy bytes into the put's buffers. Raises what the put raises."""
        self._appender[0] = threading.current_thread()
        while part:
            if not self._room:
                self._room = self._next_room()
            count = min(len(part), len(self._room))
            copy_bytes(self._room[:count], part[:count])
            part, self._room = part[count:], self._room[count:]
            self._done += count
            if not self._room:
                self._hand_over()

    def _next_room(self) -> memoryview:
        room = self._wanted.get()
        if room is None:
            raise self._failure()
        return room

    def _hand_over(self) -> None:
        done, self._done = self._done, 0
        self._room = memoryview(b"")
        self._filled.put(done)

    def _failure(self) -> BaseException:
        self._thread.join()
        (result,) = self._results
        assert isinstance(result, BaseException)  # a put does not end before it was told that the data does
        return result

    def finish(self, rows: int) -> str:
        """Publish, unless a batch is joined that will. rows: all that were announced. Raises what the put raises."""
        assert rows == self._rows
        if self._done:
            self._hand_over()
        self._filled.put(0)
        self._thread.join()
        (result,) = self._results
        if isinstance(result, BaseException):
            raise result
        if self._batch is not None:
            self._repository.end_batch(self._batch)
        return result

    def abandon(self) -> None:
        """Let the put end. Does not wait; safe to call at any time, and twice."""
        self._filled.put(None)

    def wait(self) -> None:
        """Until nothing is left of what was abandoned."""
        self._thread.join()
        if self._batch is not None:
            self._batch.discard()


class _Handing:
    """The put's end of the queues."""

    def __init__(
        self,
        wanted: SimpleQueue[memoryview | None],
        filled: SimpleQueue[int | None],
        appender: list[threading.Thread],
    ) -> None:
        """appender: its only item is the thread that appended last."""
        self._wanted = wanted
        self._filled = filled
        self._appender = appender

    def readinto(self, buffer: memoryview) -> int:
        self._wanted.put(buffer)
        while True:
            try:
                count = self._filled.get(timeout=_LOOK_S)
            except Empty:
                if threading.main_thread().is_alive() or self._appender[0].is_alive():
                    continue
                count = None  # nobody is left who would append, and Python waits for this thread
            if count is None:
                raise AbandonedError("the writer was abandoned before all rows had come; nothing of it is stored")
            return count


def _run(
    put: Callable[[], str],
    results: list[str | BaseException],
    wanted: SimpleQueue[memoryview | None],
    batch: GatheringBatch | None,
) -> None:
    try:
        results.append(put())
    except BaseException as exc:  # noqa: BLE001 - raised in the thread that appends
        results.append(exc)
        if batch is not None:
            batch.discard()  # the writer may be gone already
    finally:
        wanted.put(None)
