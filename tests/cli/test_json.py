"""`--json`: on every command whose output a script reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from kacas.cli.main import commands
from tests.cli.conftest import Runner

# Content as it is, a script for the shell, or nothing at all on stdout.
WITHOUT = {
    "cat", "completion", "identity export",
    "mutable set", "mutable delete", "remote remove", "trust add", "trust remove",
    "group join", "group add-member", "group remove-member", "group move", "group forget",
}  # fmt: skip


def _without_json(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _without_json(command, (*path, name))
        elif not any("--json" in parameter.opts for parameter in command.params):
            yield " ".join((*path, name))


def test_only_what_prints_nothing_to_read_has_none() -> None:
    assert set(_without_json(commands)) == WITHOUT


def test_where_content_was_loaded_to(kacas: Runner, notes_uri: str, tmp_path: Path) -> None:
    path = tmp_path / "a \x1b b"
    assert kacas("load", "--json", notes_uri, "-o", path).object == {"uri": notes_uri, "path": str(path)}


def test_a_new_feed(kacas: Runner) -> None:
    made = kacas("feed", "create", "--json").object
    assert list(made) == ["uri"]
    assert kacas("feed", "read", made["uri"]).code == 0


def test_who_one_is(kacas: Runner, tmp_path: Path) -> None:
    made = kacas("identity", "create", "--json").object
    assert made == kacas("identity", "show", "--json").object
    kacas("identity", "export", tmp_path / "copy.toml")
    assert kacas("identity", "import", "--json", tmp_path / "copy.toml").object == made
    assert kacas("trust", "key", "--json").object == {"publisher": made["public_key"]}


def test_a_new_group(kacas: Runner, tmp_path: Path) -> None:
    kacas("identity", "create")
    made = kacas("group", "create", "lab", "--at", tmp_path / "lab.group", "--json").object
    assert kacas("group", "list", "--json").object == made


def test_the_default_remote_and_its_marker(kacas: Runner, notes_uri: str, tmp_path: Path) -> None:
    assert kacas("remote", "default", "--json").object == {"name": None, "push": False}
    (tmp_path / "bucket").mkdir()
    kacas("remote", "add", "lab", f"file://{tmp_path / 'bucket'}", "--no-probe")
    assert kacas("remote", "default", "lab", "--push").code == 0
    assert kacas("remote", "default", "--json").object == {"name": "lab", "push": True}
    assert kacas("remote", "default", "--none", "--json").code == 2
    assert kacas("push", notes_uri).code == 0
    marked = kacas("remote", "mark", "--json").object
    assert kacas("remote", "mark").lines == [f"lab has the id {marked['id']}"]
    assert marked["name"] == "lab"
