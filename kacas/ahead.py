"""Ahead: what will be needed next is worked at in other threads while what came before is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Ahead:
    """Threads of one piece of work. When the block is left they have ended, and what was not begun never is."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """As the built-in map: results in order. So many items are taken ahead as there are threads, and one more."""
        return (one.result() for _, one in self.begun(work, items))

    def begun(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Future[Result]]]:
        """As `map`, without waiting for the results."""
        flying: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            flying.append((item, self._pool.submit(work, item)))
            if len(flying) > self._threads:
                yield flying.popleft()
        while flying:
            yield flying.popleft()
