"""What the command prints: results on stdout, all else on stderr, nothing that a terminal would obey."""

from __future__ import annotations

import json
import math
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def human_size(size: float) -> str:
    """Bytes for people: 17 B, 1.5 KiB, 2.0 GiB.

    >>> human_size(1536)
    '1.5 KiB'
    """
    if size < 1024:
        return f"{size:.0f} B"
    step = 0
    while size >= 1023.95 and step < len(_UNITS):  # 1023.95 and more would be shown as 1024.0
        size, step = size / 1024, step + 1
    return f"{size:.1f} {_UNITS[step - 1]}"


def exact_size(size: int) -> str:
    """Bytes for people who may want to count: 1.5 KiB (1,536 bytes)."""
    return f"{human_size(size)} ({size:,} bytes)" if size >= 1024 else f"{size} bytes"


def count(number: int, noun: str, nouns: str = "") -> str:
    """1 pack, 2 packs. nouns: where it is not the noun and an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {nouns or noun + 's'}"


def local_time(time_s: float) -> str:
    """Seconds since the epoch as local ISO time with its zone."""
    return datetime.fromtimestamp(time_s).astimezone().isoformat(timespec="seconds")


def plain(text: str) -> str:
    """Text on one line, that a terminal shows and does not obey: labels and messages may hold anything.

    >>> plain("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8, as surrogateescape carries it
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise click.ClickException(f"the output cannot be written: {exc.strerror}") from exc


def line(text: str = "") -> None:
    """One line of a result."""
    with _writing():
        sys.stdout.write(plain(text) + "\n")


def path_line(path: str | os.PathLike[str]) -> None:
    """A path, byte for byte, for programs that open it."""
    with _writing():
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")


def json_line(value: dict[str, Any]) -> None:
    """One JSON object on a line of its own, in ASCII."""
    with _writing():
        sys.stdout.write(json.dumps(value) + "\n")


def text_block(text: str) -> None:
    """Text of ours as it is, such as a script or a help."""
    with _writing():
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


def write_bytes(data: memoryview) -> None:
    """Content, byte for byte."""
    with _writing():
        sys.stdout.buffer.write(data)


def pause(time_s: float) -> None:
    """Wait for so long. Raises BrokenPipeError as soon as nobody reads the output any more."""
    try:
        stdout = sys.stdout.fileno()
    except (AttributeError, ValueError, OSError):  # it is closed, or no file
        time.sleep(time_s)
        return
    watched = select.poll()
    watched.register(stdout, 0)  # errors are told unasked
    end = time.monotonic() + time_s
    for _, event in watched.poll(math.ceil(time_s * 1000)):
        if event & (select.POLLERR | select.POLLHUP):
            raise BrokenPipeError("nobody reads the output any more")
        time.sleep(max(0.0, end - time.monotonic()))


def flush() -> None:
    """Until here a full disk behind stdout may have gone unnoticed."""
    with _writing():
        sys.stdout.flush()


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, one pair on a line."""
    pairs = list(pairs)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        line(f"{name:{width}}  {value}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under a header, as wide as they need; nothing is cut off."""
    shown = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(header), *shown]) for column in range(len(header))]
    for row in [header, *shown]:
        line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def drawn_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> None:
    """The same for a terminal: numbers to the right. words: columns that are none, from the left."""
    # Rich takes longer to import than most commands: only this one pays for it.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        drawn.add_column(
            Text(name), justify="left" if number < words or not name else "right", style="" if name else "cyan"
        )
    for row in rows:
        drawn.add_row(*(Text(plain(cell)) for cell in row))
    with _writing():
        Console(file=sys.stdout, highlight=False).print(drawn)


def _say(text: str) -> None:
    try:
        sys.stderr.write(plain(text) + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody listens; the exit code still speaks


def note(text: str) -> None:
    """Something that the user may want to know, on stderr."""
    _say(f"kacas: {text}")


def warn(text: str) -> None:
    """Something that the user should change, on stderr."""
    _say(f"kacas: warning: {text}")


def interrupted(text: str) -> None:
    """The end that the user wanted; begins anew behind the terminal's own ^C."""
    if sys.stderr.isatty():
        _say("")
    note(text)


def error(text: str) -> None:
    """Why the command failed: one line on stderr."""
    _say(f"kacas: error: {' '.join(text.split())}")


def trace(text: str) -> None:
    """A traceback, for those who asked for it."""
    for row in text.splitlines():
        _say(row)
