"""The commands for values that may be set anew: mutable set, get, delete, list, history."""

from __future__ import annotations

import dataclasses
import sys
from itertools import chain, islice

import click

from kacas.cli import output
from kacas.cli.command import CommandGroup, ExampleCommand, json_option
from kacas.cli.session import Session
from kacas.cli.stdin import Stdin

_KEY = "@lab/@run7/state"
_NOT_FOUND = 3
_UTF_8_SIZE = 4  # bytes of a character at most


@click.group(
    cls=CommandGroup,
    examples=[f"kacas mutable set {_KEY} done", f"kacas mutable get {_KEY}", "kacas mutable list @lab"],
)
def mutable() -> None:
    """Share values under names: set them anew, get the newest.

    A key is a name in folders, which begin with @, as in @lab/@run7/state. All who share the store see it.
    """


@click.command(
    "set",
    cls=ExampleCommand,
    examples=[
        f"kacas mutable set {_KEY} started --absent",
        f"kacas mutable set {_KEY} done --expect started",
        "kacas store recording.dat | kacas mutable set @lab/newest -",
    ],
)
@click.argument("key")
@click.argument("value")
@click.option("--expect", metavar="VALUE", help="Only if it has this value now.")
@click.option("--absent", is_flag=True, help="Only if it is not there.")
@click.pass_obj
def set_(session: Session, key: str, value: str, expect: str | None, absent: bool) -> None:
    """Give KEY a value: text, such as a URI.

    With - it is read from standard input, without the line end behind it, as `kacas mutable get` writes it.

    With --expect or --absent, of several who do so at once one succeeds; the others get exit code 12.
    """
    from kacas.model.mutable import check_key, check_value
    from kacas.mutables import ANYTHING

    if expect is not None and absent:
        raise click.UsageError("--expect and --absent exclude each other")
    check_key(key)
    value = _from_stdin() if value == "-" else value
    check_value(value)
    if session.make_store():
        output.note(f"made a new store at {session.directory(session.settings())}")
    with session.open_store() as store:
        store.set_mutable(key, value, expect=None if absent else ANYTHING if expect is None else expect)


def _from_stdin() -> str:
    """All of it, without one line end behind it."""
    from kacas.model.mutable import MAX_VALUE_LENGTH

    if sys.stdin is None:
        raise click.UsageError("standard input is closed")
    data = b""
    with Stdin() as stream:
        while part := stream.read(1 << 16):
            data += part
            if len(data) > _UTF_8_SIZE * MAX_VALUE_LENGTH + len(b"\r\n"):
                raise click.UsageError(
                    f"standard input is too long for a mutable, which has at most {MAX_VALUE_LENGTH:,} characters; "
                    "store it as content, and set the mutable to its URI"
                )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise click.UsageError("standard input is not UTF-8, which the values of mutables are") from exc
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


@click.command(cls=ExampleCommand, examples=[f"kacas mutable get {_KEY}", f"kacas mutable get --json {_KEY}"])
@click.argument("key")
@json_option('Print {"key", "value"}.')
@click.pass_obj
def get(session: Session, key: str, as_json: bool) -> None:
    """Print the value of KEY.

    The exit code is 3 if it is not there.
    """
    with session.open_store() as store:
        value = store.get_mutable(key)
    if as_json:
        output.json_line({"key": key, "value": value})
    else:
        output.text_block(value + "\n")


@click.command(
    cls=ExampleCommand, examples=[f"kacas mutable delete {_KEY}", "kacas mutable delete --recursive @lab/@run7"]
)
@click.argument("key")
@click.option("-r", "--recursive", is_flag=True, help="KEY is a folder: delete all that is in it.")
@click.pass_obj
def delete(session: Session, key: str, recursive: bool) -> None:
    """Delete KEY.

    Its history stays, for a while. The exit code is 3 if it is not there.
    """
    if key.rpartition("/")[2].startswith("@") and not recursive:
        raise click.UsageError(f"{key} is a folder: to delete all that is in it, add --recursive")
    with session.open_store() as store:
        if recursive:
            output.note(f"deleted {output.count(store.delete_mutable_folder(key), 'mutable')}")
        elif not store.delete_mutable(key):
            output.note(f"there is no mutable {key}")
            raise click.exceptions.Exit(_NOT_FOUND)


@click.command("list", cls=ExampleCommand, examples=["kacas mutable list", "kacas mutable list --json @lab/@run7"])
@click.argument("folder", default="")
@json_option('Print {"key", "value"} for each, one object per line.')
@click.pass_obj
def list_(session: Session, folder: str, as_json: bool) -> None:
    """List the keys in FOLDER and in the folders in it; without FOLDER all.

    With --json, the exit code is 5 if the value of one is damaged; the others are printed.
    """
    from kacas.errors import DamagedRecordError

    damaged: DamagedRecordError | None = None
    with session.open_store() as store:
        for key in store.list_mutables(folder):
            if not as_json:
                output.line(key)
                continue
            try:
                value = store.get_mutable(key, default=None)
            except DamagedRecordError as exc:
                output.error(f"{key}: {exc}")
                damaged = exc
                continue
            if value is not None:
                output.json_line({"key": key, "value": value})
    if damaged is not None:
        raise click.exceptions.Exit(damaged.exit_code)


@click.command(
    cls=ExampleCommand, examples=[f"kacas mutable history {_KEY}", f"kacas mutable history -n 10 --json {_KEY}"]
)
@click.argument("key")
@click.option("-n", "count", type=click.IntRange(min=0), metavar="N", help="At most N lines.")
@json_option()
@click.pass_obj
def history(session: Session, key: str, count: int | None, as_json: bool) -> None:
    """List what KEY was set to, by whom and when, newest first.

    The last hundred changes are kept, and all of the last hour. The exit code is 3 if it never was there.
    """
    with session.open_store() as store:
        changes = store.mutable_history(key)
        newest = next(changes, None)
        if newest is None:
            output.note(f"there never was a mutable {key}")
            raise click.exceptions.Exit(_NOT_FOUND)
        for change in islice(chain([newest], changes), count):
            if as_json:
                output.json_line(dataclasses.asdict(change))
                continue
            value = "(deleted)" if change.value is None else change.value
            output.line(f"{output.local_time(change.time_s)}  {change.generation:>6}  {change.owner:12}  {value}")


mutable.add_section("Commands", set_, get, delete, list_, history)
