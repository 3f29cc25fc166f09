"""Encrypted URIs on the command line: every command that takes a URI takes one, of members, and a new command is not forgotten."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import kacas as library
from kacas.cli.main import commands
from kacas_remote.errors import GroupAccessError
from kacas_remote.signing import new_private_key
from tests.access_group import become
from tests.cli.conftest import Answer, Runner
from tests.encrypted_contents import Contents, store_contents

STRANGER = new_private_key()
OF_FEEDS = {"feed append", "feed read", "feed follow"}  # kachery-feed://

# Command lines; what stands in braces is one of `Contents`.
LINES = {
    "load": ["load {text}", "load {directory} -o restored", "load {member} -o a.txt"],
    "cat": ["cat {text}", "cat {member} --range 0:2"],
    "info": ["info {npy}", "info {directory} --json"],
    "find": ["find {text} {member} {directory}", "find --json {npy}"],
    "forget": ["forget {text} {directory}"],
    "ls": ["ls {directory}", "ls {directory} 'day 1'", "ls {h5}", "ls --json {directory}"],
    "diff": ["diff {directory} {other}"],
    "push": ["push {text} {directory} {member}", "push --dry-run {npy}"],
    "pull": ["pull {text} {directory}", "pull --dry-run {npy}"],
    "remote rm": ["remote rm bucket {text} {other} --yes"],
    "encrypt-uri": ["encrypt-uri {text} {member} --group lab", "encrypt-uri --hide-label {npy} --group lab --json"],
    "decrypt-uri": ["decrypt-uri {text} {member}"],
}


def commands_with_uris(group: click.Group = commands, path: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_with_uris(command, f"{path}{name} ")
        elif any(
            (
                "uri" in f"{one.name} {one.metavar} {getattr(one, 'help', '')}".lower().split("hidden")[0]
                and not getattr(one, "is_flag", False)
            )
            or one.name == "other"
            for one in command.params
        ):
            yield path + name


@pytest.fixture
def contents(tmp_path: Path, home: None, monkeypatch: pytest.MonkeyPatch) -> Contents:
    monkeypatch.chdir(tmp_path)
    return store_contents(tmp_path)


def test_every_command_that_takes_a_uri_is_among_those_that_are_tried() -> None:
    assert set(commands_with_uris()) - OF_FEEDS == set(LINES)


def run(kacas: Runner, line: str, uris: Contents) -> Answer:
    words = [word.strip("'") for word in line.replace("'day 1'", "'day_1'").split()]
    return kacas(*(word.replace("day_1", "day 1").format(**uris._asdict()) for word in words))


@pytest.mark.parametrize("line", [line for lines in LINES.values() for line in lines])
def test_every_command_takes_an_encrypted_uri_of_a_member_and_refuses_it_to_others(
    kacas: Runner, contents: Contents, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encrypted = contents.encrypted()
    if line.startswith(("remote rm", "pull")):
        library.push([*contents])
    become(STRANGER, monkeypatch)
    refused = run(kacas, line, encrypted)
    assert refused.code == GroupAccessError.exit_code, refused
    assert refused.out == b""
    assert contents.hides(refused.error)
    monkeypatch.delenv("KACAS_CLIENT_ID")
    monkeypatch.delenv("KACAS_PRIVATE_KEY")
    answer = run(kacas, line, encrypted)
    assert answer.code == 0, answer
    if line.startswith("forget"):
        assert not any(
            library.exists(uri) and library.describe(uri).claims for uri in (contents.text, contents.directory)
        )
        return
    if line.startswith(("find", "push", "pull", "remote")) or line.endswith("--json"):
        return  # what it says is of the URIs that were given, or of what was sent
    again = run(kacas, line, contents)
    assert answer.out == again.out


def test_content_goes_to_a_bucket_and_back_by_an_encrypted_uri(
    kacas: Runner, contents: Contents, tmp_path: Path
) -> None:
    encrypted = contents.encrypted()
    assert kacas("push", encrypted.npy, encrypted.directory).code == 0
    elsewhere = tmp_path / "elsewhere"
    library.Store.open(elsewhere).close()
    assert kacas("--store", elsewhere, "pull", "--from", "bucket", encrypted.npy, encrypted.directory).code == 0
    assert kacas("--store", elsewhere, "cat", encrypted.member).out == b"first"
    assert kacas("remote", "rm", "bucket", encrypted.npy, "--yes").code == 0
    assert kacas("remote", "rm", "bucket", encrypted.npy, "--yes").code == 3


def test_uris_come_on_standard_input_and_go_back_to_what_they_were(kacas: Runner, contents: Contents) -> None:
    given = "\n".join(contents).encode() + b"\n\n"
    encrypted = kacas("encrypt-uri", "-", "--group", "lab", stdin=given)
    assert encrypted.lines == list(contents.encrypted())
    assert kacas("decrypt-uri", "-", stdin=encrypted.out).lines == list(contents)
    several = kacas("decrypt-uri", encrypted.lines[1], "-", contents.text, stdin=encrypted.out)
    assert several.lines == [contents.json, *contents, contents.text]
    told = kacas("decrypt-uri", "--json", encrypted.lines[0]).object
    assert told == {"uri": encrypted.lines[0], "decrypted": contents.text}
    told = kacas("encrypt-uri", "--json", contents.text, "--group", "lab").object
    assert told == {"uri": contents.text, "encrypted": encrypted.lines[0]}


def test_all_or_none_are_decrypted(kacas: Runner, contents: Contents) -> None:
    one, other, *_ = contents.encrypted()
    altered = other.replace(other[20:24], "0000")
    answer = kacas("decrypt-uri", one, altered)
    assert (answer.code, answer.out) == (2, b"")
    assert "it was altered" in answer.error


def test_errors_name_what_was_given_and_not_what_it_stands_for(kacas: Runner, contents: Contents) -> None:
    gone = library.encrypt_uri(f"sha1://{'0a' * 20}?label=gone.txt", access_group="lab", hide_label=True)
    for line in (["load", gone], ["cat", gone], ["info", gone], ["forget", gone], ["push", gone], ["pull", gone]):
        answer = kacas(*line)
        assert answer.code == 3
        said = (answer.out + answer.err).decode()
        assert gone in said
        assert "0a0a" not in said
        assert "gone.txt" not in said
    assert kacas("find", gone).err.decode() == f"kacas: not in the store: {gone}\n"


def test_a_thousand_uris_are_decrypted_by_one_program(program: Runner, contents: Contents) -> None:
    uris = [f"sha1://{number:040x}?label=trial-{number}.npy" for number in range(1000)]
    encrypted = program("encrypt-uri", "-", "--group", "lab", stdin="\n".join(uris).encode())
    assert program("decrypt-uri", "-", stdin=encrypted.out).lines == uris


@pytest.mark.parametrize(
    "line", [["load", "{text}"], ["decrypt-uri", "{text}"], ["identity", "show"], ["group", "list"]]
)
@pytest.mark.parametrize("package", ["nacl", "obstore"])
def test_without_the_packages_it_is_said_what_to_install(contents: Contents, line: list[str], package: str) -> None:
    words = [word.format(**contents.encrypted()._asdict()) for word in line]
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = {words!r}; from kacas.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:  # not all of them need both
        assert (done.returncode, "pip install 'kacas[remote]'" in done.stderr) == (6, True), done.stderr
    assert done.returncode == 6 or package == "obstore"
