"""The help: every command says what it is for, how it is used and how it ends."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import kacas.cli
from kacas import errors
from kacas.cli.command import CommandGroup, ExampleCommand
from kacas.cli.main import commands
from kacas.cli.running import EXIT_CODES
from kacas_remote import errors as remote_errors
from tests.cli.conftest import Runner


def _tree(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _tree(command, (*path, name))


TREE = dict(_tree(commands))
NAMES = [" ".join(path) for path in TREE]


@pytest.fixture(params=TREE, ids=NAMES)
def path(request: pytest.FixtureRequest) -> tuple[str, ...]:
    chosen: tuple[str, ...] = request.param
    return chosen


def test_all_commands_of_the_documentation_are_there() -> None:
    named = {
        "init", "store", "link", "load", "cat", "info", "find", "forget", "log", "stats", "verify", "doctor", "index",
        "index rebuild", "index merge", "bench",
        "import-kachery",
        "config", "version", "completion", "ls", "diff",
        "mutable", "mutable set", "mutable get", "mutable delete", "mutable list", "mutable history",
        "feed", "feed create", "feed append", "feed read", "feed follow",
        "remote", "remote add", "remote list", "remote show", "remote default", "remote remove", "remote probe",
        "remote usage", "remote verify", "remote gc", "remote rm", "remote index", "remote mark",
        "push", "pull", "sync",
        "group", "group create", "group join", "group list", "group show", "group members", "group add-member",
        "group remove-member", "group log", "group move", "group forget",
        "identity", "identity create", "identity show", "identity export", "identity import", "encrypt-uri", "decrypt-uri",
        "trust", "trust list", "trust add", "trust remove", "trust key",
    }  # fmt: skip
    assert set(NAMES) == named


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_help_has_a_purpose_and_examples(kacas: Runner, path: tuple[str, ...], option: str) -> None:
    answer = kacas(*path, option)
    assert (answer.code, answer.err) == (0, b"")
    assert answer.lines[0].startswith(f"Usage: kacas {' '.join(path)} ")
    purpose = answer.lines[2].strip()
    assert purpose.endswith((".", ":"))
    examples = answer.text.partition("Examples:\n")[2].splitlines()
    assert 1 <= len(examples) <= 3
    assert all("kacas " in example for example in examples)


@pytest.mark.parametrize("group", [path for path, command in TREE.items() if command.no_args_is_help])
def test_a_group_of_commands_alone_shows_its_help(kacas: Runner, group: tuple[str, ...]) -> None:
    answer, helped = kacas(*group), kacas(*group, "--help")
    assert (answer.code, answer.err, answer.out) == (2, b"", helped.out)


def test_examples_are_command_lines_that_are_understood(path: tuple[str, ...]) -> None:
    command = TREE[path]
    assert isinstance(command, ExampleCommand | CommandGroup)
    for example in command.examples:
        line = re.search(r"kacas [^|>)]*", example)
        assert line, example
        words = shlex.split(line[0].replace("$(cat uris.txt", "sha1://" + 40 * "0"))[1:]
        with commands.make_context("kacas", list(words), resilient_parsing=False) as ctx:
            found: click.Command = commands
            rest = [*ctx._protected_args, *ctx.args]
            while isinstance(found, click.Group):
                _, chosen, rest = found.resolve_command(ctx, rest)
                assert chosen is not None
                found = chosen
            found.make_context("kacas", rest, parent=ctx).close()


def test_the_main_help_lists_every_command_and_every_exit_code(kacas: Runner) -> None:
    text = kacas("--help").text
    for path in TREE:
        assert re.search(rf"^  {path[0]} ", text, re.MULTILINE)
    for code, _ in EXIT_CODES:
        assert re.search(rf"^  {code} ", text, re.MULTILINE)


def test_the_exit_codes_of_all_errors_are_documented() -> None:
    every = [*vars(errors).values(), *vars(remote_errors).values()]
    kinds = [kind for kind in every if isinstance(kind, type) and issubclass(kind, errors.KacasError)]
    assert len(kinds) > 20
    assert {str(kind.exit_code) for kind in kinds} <= {code for code, _ in EXIT_CODES}


def test_no_command_shows_the_help_and_is_a_usage_error(kacas: Runner) -> None:
    answer = kacas()
    assert answer.code == 2
    assert answer.lines[0].startswith("Usage: kacas ")
    assert kacas("index").code == 2


def test_the_command_line_imports_the_engine_only_when_it_works() -> None:
    """`kacas version` and completion would take four times as long with NumPy."""
    allowed = {"click", "__future__"} | set(sys.stdlib_module_names)
    for module in Path(kacas.cli.__file__).parent.glob("*.py"):
        for node in ast.parse(module.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in names:
                light = name.startswith("kacas.cli") or name == "kacas.errors"
                assert light or name.split(".")[0] in allowed, f"{module.name} imports {name} at the start"
