"""Standard input, as a stream to be stored or as a list."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, cast

import click

from kacas.errors import UnreadableSourceError

_MOST = 1 << 30  # bytes of a list


class Stdin:
    """Standard input, which must be open; its errors are those of a source, and a signal ends the wait for more. A context manager.

    Python notices a signal between two steps of the program, or when a system call is cut short by it. One that
    comes just before the call, or that another thread takes, leaves a plain read waiting for ever; so the wait
    is for the input or for the byte that the signal writes, whichever comes first.
    """

    def __init__(self) -> None:
        self._number = sys.stdin.fileno()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def __enter__(self) -> BinaryIO:
        return cast(BinaryIO, self)  # all of it that is used: read

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._woken)
        os.close(self._wake)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, as soon as there are any; none at the end."""
        while True:
            try:
                ready, _, _ = select.select([self._number, self._woken], [], [])
                if self._woken in ready:
                    os.read(self._woken, 64)  # the handler runs before the next line
                if self._number in ready:
                    return os.read(self._number, size)
            except OSError as exc:
                raise UnreadableSourceError(f"standard input cannot be read: {exc.strerror}", path="-") from exc


def lines(of_what: str) -> Iterator[str]:
    """What standard input lists, one in each line. of_what: for messages."""
    with Stdin() as stdin:
        parts: list[bytes] = []
        size = 0
        while part := stdin.read(1 << 16):
            parts.append(part)
            size += len(part)
            if size > _MOST:
                raise click.UsageError(f"standard input is no list of {of_what}: it is too long")
    for line in b"".join(parts).decode("utf-8", "surrogateescape").splitlines():
        if found := line.strip():
            yield found
