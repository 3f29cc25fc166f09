"""The commands for whose word is taken: trust list, add, remove, key."""

from __future__ import annotations

import click

from kacas.cli import names, output
from kacas.cli.command import CommandGroup, ExampleCommand, json_option
from kacas.cli.session import Session

_PUBLISHER = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


@click.group(cls=CommandGroup, examples=["kacas trust list", f"kacas trust add ana {_PUBLISHER}", "kacas trust key"])
def trust() -> None:
    """Choose whose signature is enough to read a part of content.

    All of a content is always checked against its SHA-1. A part cannot be: its recipe is believed if somebody whom you
    trust signed it.
    """


@click.command("list", cls=ExampleCommand, examples=["kacas trust list", "kacas trust list --json"])
@json_option('Print {"name", "publisher"} for each, one object per line.')
@click.pass_obj
def list_(session: Session, as_json: bool) -> None:
    """List the publishers whom you trust. You yourself are always one."""
    from kacas_remote.signing import publisher_text
    from kacas_remote.trust import read_publishers, trust_file

    for publisher, name in sorted(read_publishers(trust_file()).items(), key=lambda item: item[1]):
        if as_json:
            output.json_line({"name": name, "publisher": publisher_text(publisher)})
        else:
            output.line(f"{publisher_text(publisher)}  {name}")


@click.command(cls=ExampleCommand, examples=[f"kacas trust add ana {_PUBLISHER}"])
@click.argument("name")
@click.argument("publisher")
@click.pass_obj
def add(session: Session, name: str, publisher: str) -> None:
    """Trust PUBLISHER, and call it NAME.

    Get the key from its owner, who prints it with: kacas trust key. Not from the bucket.
    """
    from kacas_remote.signing import parse_publisher
    from kacas_remote.trust import add_publisher, trust_file

    try:
        key = parse_publisher(publisher)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    add_publisher(trust_file(), name, key)


@click.command(cls=ExampleCommand, examples=["kacas trust remove ana", f"kacas trust remove {_PUBLISHER}"])
@click.argument("name_or_publisher", shell_complete=names.of_publishers)
@click.pass_obj
def remove(session: Session, name_or_publisher: str) -> None:
    """Trust a publisher no more.

    What was read whole stays believed: its SHA-1 was checked.
    """
    from kacas_remote.trust import remove_publisher, trust_file

    remove_publisher(trust_file(), name_or_publisher)


@click.command(cls=ExampleCommand, examples=["kacas trust key", "kacas trust key --json | jq -r .publisher"])
@json_option('Print {"publisher"}.')
@click.pass_obj
def key(session: Session, as_json: bool) -> None:
    """Print your own public key, to give to others.

    The pair is made if you have none, and pushes are signed from then on. Its private half is in identity.toml beside
    your settings: keep a copy where you keep passwords.
    """
    from kacas_remote.identity import own_or_new
    from kacas_remote.signing import publisher_text

    publisher = publisher_text(own_or_new().public)
    if as_json:
        output.json_line({"publisher": publisher})
    else:
        output.line(publisher)


trust.add_section("Commands", list_, add, remove, key)
