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

    visible: whether it may appear at all. usual: the stage of files that are too small to tell theirs. description, done, total:
    what it says, sizes in bytes. Several files in a row are shown as one piece of work: `expect` their total, `begin` each by
    name, and tell when one is `finished`.
    """

    def __init__(self) -> None:
        self.visible = sys.stderr is not None and sys.stderr.isatty()
        self.usual = "storing"
        self.description = ""
        self.done = 0
        self.total: int | None = None
        self._started_s = time.monotonic()
        self._name = ""
        self._stage = ""
        self._before = 0
        self._files = False
        self._screen: tuple[Progress, TaskID] | None = None

    @property
    def shown(self) -> bool:
        """Whether it is on the screen now."""
        return self._screen is not None

    def expect(self, total: int | None) -> None:
        """Bytes of all files together, or None if that is not known."""
        self._files, self.total = True, total

    def begin(self, name: str) -> None:
        """The next file's name, to be shown."""
        self._name = plain(name)
        if len(self._name) > _NAME_SIZE:
            self._name = "…" + self._name[1 - _NAME_SIZE :]

    def finished(self, size: int) -> None:
        """A file is done; small ones do not report themselves."""
        self._before += size
        self(self._stage or self.usual, 0, None)

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if not self.visible or (not self.shown and time.monotonic() - self._started_s < _PATIENCE_S):
            return
        self.description = f"{stage} {self._name}".rstrip()
        self.done = self._before + done
        if not self._files:
            self.total = total
        amount = human_size(self.done)
        appearing = not self.shown
        progress, task = self._screen = self._screen or _new_bar()
        if stage != self._stage:
            self._stage = stage
            progress.reset(task)
        speed = progress.tasks[0].speed
        progress.update(
            task,
            description=self.description,
            completed=self.done,
            total=self.total,
            amount=amount if self.total is None else f"{amount} of {human_size(self.total)}",
            speed=f"{human_size(speed)}/s" if speed else "",
        )
        if appearing:
            progress.start()

    def __enter__(self) -> Bar:
        self._started_s = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away: what is printed next stands alone."""
        if self._screen is not None:
            self._screen[0].stop()
            self._screen = None


class Steps:
    """Called as steps(what comes now): the step at hand and the time, on a terminal only. A context manager.

    doing: what is done in each step.
    """

    def __init__(self, doing: str = "measuring") -> None:
        self._doing = doing
        self.visible = sys.stderr is not None and sys.stderr.isatty()
        self._screen: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Steps:
        return self

    def __call__(self, step: str) -> None:
        if not self.visible:
            return
        if self._screen is None:
            self._screen = _new_steps(self._doing)
            self._screen[0].start()
        progress, task = self._screen
        progress.update(task, description=plain(step))

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen is not None:
            self._screen[0].stop()
            self._screen = None


def _new_steps(doing: str) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        SpinnerColumn(),
        TextColumn(f"{doing} {{task.description}}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    return progress, progress.add_task("", total=None)


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
