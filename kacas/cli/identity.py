"""The commands for who you are: identity create, show, export, import."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kacas.cli import output
from kacas.cli.command import CommandGroup, ExampleCommand, filled, json_option
from kacas.cli.session import Session

if TYPE_CHECKING:
    from kacas_remote.identity import Identity

_JSON = json_option('Print {"public_key", "client_id", "source"}: the last is "environment" or a path.')


@click.group(
    cls=CommandGroup,
    examples=["kacas identity create", "kacas identity show", "kacas identity export /media/key/kacas-identity.toml"],
)
def identity() -> None:
    """Make, show and carry the key pair by which others know you.

    Admins let its public key into access groups, and publishers whom others trust sign with it. It is in identity.toml beside
    your settings, or, on clusters and in CI, in KACAS_CLIENT_ID and KACAS_PRIVATE_KEY, which come first.
    """


@click.command(cls=ExampleCommand, examples=["kacas identity create"])
@_JSON
@click.pass_obj
def create(session: Session, as_json: bool) -> None:
    """Make a key pair, and print its public key, to give to others.

    One that is there is never replaced. Without a copy of the private key nobody can give you back what is encrypted for you
    when this disk is lost.
    """
    from kacas_remote.identity import create as make

    made = make()
    _print(made, as_json)
    output.note(f"made {made.source}; keep a copy where you keep passwords: kacas identity export FILE")


@click.command(cls=ExampleCommand, examples=["kacas identity show", "kacas identity show --json | jq -r .client_id"])
@_JSON
@click.pass_obj
def show(session: Session, as_json: bool) -> None:
    """Print your public key, to give to others. The private one is never shown."""
    from kacas_remote.identity import required

    found = required()
    _print(found, as_json)
    if not as_json:
        output.note(f"from {found.where}")


@click.command(
    cls=ExampleCommand,
    examples=[
        "kacas identity export /media/key/kacas-identity.toml",
        "kacas identity export - | ssh node7 'umask 077; cat > me.toml; kacas identity import me.toml; rm me.toml'",
        "kacas identity export --pem ~/kachery-keys",
    ],
)
@click.argument("file", required=False, type=click.Path(readable=False), callback=filled)
@click.option(
    "--pem",
    "directory",
    metavar="DIR",
    type=click.Path(readable=False),
    callback=filled,
    help="As public.pem and private.pem, which kachery-cloud reads, in this directory.",
)
@click.pass_obj
def export(session: Session, file: str | None, directory: str | None) -> None:
    """Write your key pair to a new file that only you can read.

    The private key is in it. Keep it where you keep passwords, or carry it to another machine: kacas identity import FILE. With -
    it goes to standard output, but to no terminal. Nothing is overwritten.
    """
    if (file is None) == (directory is None):
        raise click.UsageError("name a FILE, or --pem DIR")
    if file == "-" and sys.stdout.isatty():
        raise click.UsageError("a private key is not shown on a terminal; name a file, or a program behind |")
    from kacas_remote.identity import required
    from kacas_remote.identity_copies import export as write
    from kacas_remote.identity_copies import export_pem, exported

    found = required()
    if directory is not None:
        export_pem(found, Path(directory))
    elif file == "-":
        output.write_bytes(memoryview(exported(found)))
    else:
        write(found, Path(file or ""))


@click.command(
    "import",
    cls=ExampleCommand,
    examples=["kacas identity import /media/key/kacas-identity.toml", "kacas identity import ~/.kachery-cloud"],
)
@click.argument("source", metavar="FILE|DIR", type=click.Path(readable=False), callback=filled)
@_JSON
@click.pass_obj
def import_(session: Session, source: str, as_json: bool) -> None:
    """Make a key pair from elsewhere yours, and print its public key.

    FILE is what `kacas identity export` wrote; DIR is the directory of kachery-cloud, with public.pem and private.pem. Another
    identity that is here is never replaced.
    """
    from kacas_remote.identity import find
    from kacas_remote.identity_copies import bring
    from kacas_remote.signing import publisher_text

    found, is_new = bring(Path(source))
    _print(found, as_json)
    if not is_new:
        output.note(f"it is here already, in {found.source}")
    if os.path.isfile(source) and os.stat(source).st_mode & 0o077:
        output.warn(f"others can read {source}, and the private key in it: chmod 600 it, or delete it")
    now = find()
    if now is not None and now.public != found.public:
        output.warn(
            f"you are still {publisher_text(now.public)}, from {now.where}; unset them to use what was imported"
        )


def _print(found: Identity, as_json: bool) -> None:
    from kacas_remote.signing import publisher_text

    public = publisher_text(found.public)
    if as_json:
        output.json_line({"public_key": public, "client_id": found.public.hex(), "source": found.source})
    else:
        output.line(public)


identity.add_section("Commands", create, show, export, import_)
