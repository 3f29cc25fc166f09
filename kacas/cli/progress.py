"""A progress bar on stderr, for a person who waits: only on a terminal, only if the work takes a while."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from kacas.cli.output import human_size, plain

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_S = 0.5  # shorter work needs no bar
_NAME_SIZE = 32  # columns


class Bar:
    """Called as bar(stage, done_size, total_size or None), from the thread that works. A context manager.

    visible: whether it may appear at all. Several files in a row are shown as one piece of work:
    `expect` their total, `begin` each by name, and tell when one is `finished`.
    """

    def __init__(self) -> None:
        self.visible = sys.stderr is not None and sys.stderr.isatty()
        self._started_s = time.monotonic()
        self._name = ""
        self._stage = ""
        self._before = 0
        self._expected: int | None = None
        self._shown: tuple[Progress, TaskID] | None = None

    def expect(self, total: int | None) -> None:
        """Bytes of all files together, or None if that is not known."""
        self._expected = total

    def begin(self, name: str) -> None:
        """The next file's name, to be shown."""
        self._name = plain(name)
        if len(self._name) > _NAME_SIZE:
            self._name = "…" + self._name[1 - _NAME_SIZE :]

    def finished(self, size: int) -> None:
        """A file is done; small ones do not report themselves."""
        self._before += size
        self("storing", 0, None)

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if not self.visible or (self._shown is None and time.monotonic() - self._started_s < _PATIENCE_S):
            return
        appearing = self._shown is None
        progress, task = self._shown = self._shown or _new_bar()
        if stage != self._stage:
            self._stage = stage
            progress.reset(task)
        done += self._before
        total = total if self._expected is None else self._expected
        speed = progress.tasks[0].speed
        progress.update(
            task,
            description=f"{stage} {self._name}".rstrip(),
            completed=done,
            total=total,
            amount=human_size(done) if total is None else f"{human_size(done)} of {human_size(total)}",
            speed=f"{human_size(speed)}/s" if speed else "",
        )
        if appearing:
            progress.start()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away: what is printed next stands alone."""
        if self._shown is not None:
            self._shown[0].stop()
            self._shown = None


def _new_bar() -> tuple[Progress, TaskID]:
    # Rich takes longer to import than a small store: only those who wait pay for it.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TextColumn("{task.fields[speed]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
    )
    return progress, progress.add_task("", total=None, amount="", speed="")
