"""The commands for logs of messages: feed create, append, read, follow."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kacas.cli import output
from kacas.cli.command import CommandGroup, ExampleCommand, json_option
from kacas.cli.session import Session
from kacas.cli.stdin import Stdin

if TYPE_CHECKING:
    from kacas.feeds import Feed

_URI = "kachery-feed://00112233445566778899aabbccddeeff"
_READ_SIZE = 1 << 20
_LONGEST_LINE = 2 << 20  # bytes; the store refuses less, this bounds the memory


@click.group(
    cls=CommandGroup,
    examples=["kacas feed create", f"""kacas feed append {_URI} '{{"step": 1}}'""", f"kacas feed follow {_URI}"],
)
def feed() -> None:
    """Append messages to a log, read and follow it.

    A message is a JSON object. Many may append at once: all messages of a feed have one order.
    """


@click.command(cls=ExampleCommand, examples=["kacas feed create", "kacas feed create --json | jq -r .uri"])
@json_option('Print {"uri"}.')
@click.pass_obj
def create(session: Session, as_json: bool) -> None:
    """Make a feed and print its URI."""
    if session.make_store():
        output.note(f"made a new store at {session.directory(session.settings())}")
    with session.open_store() as store:
        uri = store.create_feed()
    if as_json:
        output.json_line({"uri": uri})
    else:
        output.line(uri)


@click.command(
    cls=ExampleCommand,
    examples=[
        f"""kacas feed append {_URI} '{{"step": 1}}' '{{"step": 2}}'""",
        f"tail -f log.jsonl | kacas feed append {_URI} -",
    ],
)
@click.argument("uri")
@click.argument("messages", metavar="MESSAGE...", nargs=-1, required=True)
@json_option('Print {"position"} of the first message, for each batch.')
@click.pass_obj
def append(session: Session, uri: str, messages: tuple[str, ...], as_json: bool) -> None:
    """Append messages, each a JSON object.

    With - those of stdin, one per line, as they come. Messages that are given together follow each other.
    """
    if "-" in messages and len(messages) > 1:
        raise click.UsageError("- stands for all messages, those of stdin")
    with session.open_store() as store:
        opened = store.load_feed(uri)
        for lines in _from_stdin() if messages == ("-",) else [list(messages)]:
            first = opened.append_messages([_parsed(line) for line in lines])
            if as_json:
                output.json_line({"position": first})
                output.flush()


@click.command(cls=ExampleCommand, examples=[f"kacas feed read {_URI}", f"kacas feed read {_URI} --from 100 -n 10"])
@click.argument("uri")
@click.option(
    "--from", "start", type=click.IntRange(min=0), default=0, metavar="N", help="Begin with message N, from 0."
)
@click.option("-n", "count", type=click.IntRange(min=0), metavar="N", help="At most N messages.")
@json_option('Print {"position", "message"} for each.')
@click.pass_obj
def read(session: Session, uri: str, start: int, count: int | None, as_json: bool) -> None:
    """Print the messages there are, one JSON object per line.

    A message that was altered or removed is an error, with exit code 5.
    """
    with session.open_store() as store:
        opened = store.load_feed(uri)
        opened.set_position(start)
        _print(opened, 0.0, count, as_json)


@click.command(
    cls=ExampleCommand, examples=[f"kacas feed follow {_URI}", f"kacas feed follow {_URI} --new --timeout 60"]
)
@click.argument("uri")
@click.option(
    "--from", "start", type=click.IntRange(min=0), default=0, metavar="N", help="Begin with message N, from 0."
)
@click.option("--new", is_flag=True, help="Only messages that come from now on.")
@click.option("-n", "count", type=click.IntRange(min=0), metavar="N", help="End after N messages.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="S", help="End when none has come for so many seconds."
)
@json_option('Print {"position", "message"} for each.')
@click.pass_obj
def follow(
    session: Session, uri: str, start: int, new: bool, count: int | None, timeout: float | None, as_json: bool
) -> None:
    """Print messages as they come, one JSON object per line, until Ctrl-C.

    It ends, too, when nobody reads what it prints any more, as behind `head -1`.
    """
    if new and start:
        raise click.UsageError("--new and --from exclude each other")
    with session.open_store() as store:
        opened = store.load_feed(uri)
        opened.set_position(opened.message_count() if new else start)
        _print(opened, math.inf if timeout is None else timeout, count, as_json)


def _print(opened: Feed, timeout_s: float, count: int | None, as_json: bool) -> None:
    left = math.inf if count is None else count
    while left > 0:
        position = opened.position
        messages = opened.get_next_messages(timeout_s=timeout_s, pause=output.pause)
        if not messages:
            return
        for number, message in enumerate(messages, start=position):
            if left > 0:
                output.json_line({"position": number, "message": message} if as_json else message)
                left -= 1
        output.flush()


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise click.UsageError(f"{line[:80]!r} is no JSON: {exc}") from exc


def _from_stdin() -> Iterator[list[str]]:
    """The lines that have come, as soon as there are some."""
    if sys.stdin is None:
        raise click.UsageError("standard input is closed")
    rest = b""
    with Stdin() as stream:
        while data := stream.read(_READ_SIZE):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise click.UsageError("a line of standard input is too long for a message")
            if texts := [_text(line) for line in lines if line.strip()]:
                yield texts
    if rest.strip():
        yield [_text(rest)]


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise click.UsageError(f"{line[:80]!r} is not UTF-8, which messages are") from exc


feed.add_section("Commands", create, append, read, follow)
