"""`kacas remote add --private`: two people, a group and a bucket, from the command line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, Answer

Person = Callable[..., Answer]


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path}/bucket"


@pytest.fixture
def person(tmp_path: Path) -> Callable[[str], Person]:
    """Somebody with a home, and so an identity and a store, of their own."""

    def at_home(name: str) -> Person:
        home = tmp_path / name
        home.mkdir()
        (home / "notes.txt").write_text("the animal is called Konstantin")
        xdg = {f"XDG_{what}_HOME": str(home / what.lower()) for what in ("CONFIG", "STATE")}
        env = (
            os.environ
            | xdg
            | {"HOME": str(home), "KACAS_DIR": str(home / "store"), "KACAS_CACHE_DIR": str(home / "cache")}
        )

        def run(*arguments: str) -> Answer:
            done = subprocess.run(
                [*PROGRAM, *arguments], capture_output=True, env=env, cwd=home, timeout=60, check=False
            )
            return Answer(done.returncode, done.stdout, done.stderr)

        assert run("init").code == 0
        assert run("identity", "create").code == 0
        return run

    return at_home


def test_two_members_share_what_the_bucket_does_not_tell(
    person: Callable[[str], Person], bucket: str, tmp_path: Path
) -> None:
    anna, bert = person("anna"), person("bert")
    added = anna("remote", "add", "vault", bucket, "--private", "lab")
    assert (added.code, b"kacas group create lab --at vault" in added.err) == (0, True)
    group = anna("group", "create", "lab", "--at", "vault").text.strip()
    key = bert("identity", "show").text.strip()
    assert anna("group", "add-member", "lab", key, "--name", "bert").code == 0
    uri = anna("store", "notes.txt").text.strip()
    assert anna("push", uri, "--to", "vault").code == 0

    assert bert("remote", "add", "vault", bucket, "--private", "lab").code == 0
    assert bert("group", "join", "lab", group, "--at", "vault").code == 0
    assert bert("remote", "probe", "vault").code == 0
    assert bert("cat", uri).text == "the animal is called Konstantin"
    assert bert("remote", "list").lines[1].endswith("default, private to lab")
    assert bert("remote", "show", "vault", "--json").object["private"] == "lab"
    files = [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()]
    assert not [path for path in files if b"Konstantin" in path.read_bytes() or "notes" in str(path)]

    assert anna("group", "remove-member", "lab", "bert").code == 0
    (tmp_path / "anna" / "notes.txt").write_text("and it is a cat")
    later = anna("store", "notes.txt").text.strip()
    assert anna("push", later, "--to", "vault").code == 0
    answer = bert("cat", later)
    assert (answer.code, answer.out) == (15, b"")
    assert b"removed you" in answer.err


def test_what_a_private_remote_has_not_is_said_in_words(person: Callable[[str], Person], bucket: str) -> None:
    anna = person("anna")
    anna("remote", "add", "vault", bucket, "--private", "lab")
    anna("group", "create", "lab", "--at", "vault")
    uri = anna("store", "notes.txt").text.strip()
    assert anna("push", uri, "--to", "vault").code == 0
    for arguments, words in (
        (["push", uri, "--to", "vault", "--plain"], "without --plain"),
        (["remote", "index", "vault"], "no plain objects"),
        (["remote", "add", "both", bucket, "--plain", "--private", "lab"], "both plain and private"),
        (["remote", "add", "open", bucket], "--private GROUP"),
    ):
        answer = anna(*arguments)
        assert answer.code
        assert words in answer.error
    anna("group", "create", "others", "--at", "vault")
    answer = anna("remote", "add", "theirs", bucket, "--private", "others")
    assert (answer.code, "not to others" in answer.error) == (15, True)
    assert anna("remote", "verify", "vault").text.endswith("clean\n")
