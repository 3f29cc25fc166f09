"""The commands for URIs that only an access group can read: encrypt-uri and decrypt-uri."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kacas.cli import names, output
from kacas.cli.command import ExampleCommand, json_option
from kacas.cli.session import Session
from kacas.cli.stdin import lines

_EXAMPLE = "sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230"
_ENCRYPTED = f"sha1-enc://{48 * '0a'}.ag_0123456789abcdef0123456789abcdef"


@click.command(
    "encrypt-uri",
    cls=ExampleCommand,
    examples=[
        f"kacas encrypt-uri {_EXAMPLE} --group lab",
        "kacas encrypt-uri - --group lab --hide-label < uris.txt",
    ],
)
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@click.option(
    "--group",
    "name",
    metavar="GROUP",
    required=True,
    shell_complete=names.of_groups,
    help="For its members: a name of `kacas group list`.",
)
@click.option("--hide-label", is_flag=True, help="Encrypt the label, too: it can be seen otherwise.")
@json_option('Print {"uri", "encrypted"} for each URI, one object per line.')
@click.pass_obj
def encrypt_uri(session: Session, uris: tuple[str, ...], name: str, hide_label: bool, as_json: bool) -> None:
    """Print URIs of the same content that only the members of a group can use.

    All commands take them as any URI. - stands for standard input, one URI in each line. One that is encrypted already, for
    this group or another, is decrypted first.

    The URI is encrypted, and the content is not: who has that already can find it again, and knows it.
    """
    from kacas.private_uris import any_uris, encrypted_uris

    given = _given(uris)
    _print(given, "encrypted", encrypted_uris(any_uris(given), name, hide_label=hide_label), as_json)


@click.command(
    "decrypt-uri",
    cls=ExampleCommand,
    examples=[f"kacas decrypt-uri {_ENCRYPTED}", "kacas decrypt-uri - < uris.txt"],
)
@click.argument("uris", metavar="URI...", nargs=-1, required=True)
@json_option('Print {"uri", "decrypted"} for each URI, one object per line.')
@click.pass_obj
def decrypt_uri(session: Session, uris: tuple[str, ...], as_json: bool) -> None:
    """Print what encrypted URIs stand for, if you are a member of their groups.

    - stands for standard input, one URI in each line. A URI that is not encrypted is printed as it is. All or none: if one
    cannot be decrypted, nothing is printed.
    """
    from kacas.private_uris import any_uris

    given = _given(uris)
    _print(given, "decrypted", [uri.plain for uri in any_uris(given)], as_json)


def _given(uris: Sequence[str]) -> list[str]:
    """With the lines of standard input in the place of the first -."""
    given: list[str] = []
    is_read = False
    for uri in uris:
        if uri != "-":
            given.append(uri)
        elif not is_read:
            given += lines("URIs")
            is_read = True
    return given


def _print(given: Sequence[str], name: str, results: Sequence[str], as_json: bool) -> None:
    for uri, result in zip(given, results, strict=True):
        if as_json:
            output.json_line({"uri": uri, name: result})
        else:
            output.line(result)
