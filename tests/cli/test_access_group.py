"""Access groups on the command line: two people, each with a home of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Answer, Runner

As = Callable[..., Answer]


@pytest.fixture
def person(kacas: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> As:
    """Run a command as somebody, who has an identity."""

    def call(who: str, *arguments: str | Path) -> Answer:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / who / "config"))
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / who / "state"))
        monkeypatch.setenv("KACAS_OWNER", who)
        if not (tmp_path / who).exists():
            assert kacas("identity", "create").code == 0
        return kacas(*arguments)

    return call


def key(person: As, who: str) -> str:
    return person(who, "identity", "show").text.strip()


@pytest.fixture(params=["file", "remote", "store", "--store"])
def place(request: pytest.FixtureRequest, person: As, tmp_path: Path) -> tuple[str, ...]:
    """The options that name it."""
    if request.param == "file":
        return ("--at", str(tmp_path / "lab.group"))
    if request.param == "remote":
        (tmp_path / "bucket").mkdir()
        for who in ("ana", "ben"):
            assert person(who, "remote", "add", "lab-bucket", f"file://{tmp_path}/bucket", "--no-probe").code == 0
        return ("--at", "lab-bucket")
    if request.param == "store":
        person("ana", "init")
        return ("--at", "store")
    person("ana", "--store", tmp_path / "lab", "init")
    return ("--store", str(tmp_path / "lab"), "--at", "store")


def test_people_come_and_go(person: As, place: tuple[str, ...]) -> None:
    made = person("ana", "group", "create", "lab", *place)
    assert made.code == 0, made.err
    (id_,) = made.lines
    assert b"made the group lab" in made.err
    joined = person("ben", "group", "join", "our-lab", id_, *place)
    assert joined.code == 0
    assert b"you are no member yet" in joined.err
    assert person("ana", "group", "add-member", "lab", key(person, "ben"), "--name", "ben").code == 0
    shown = person("ben", "group", "show", "our-lab", "--json").object
    assert {name: shown[name] for name in ("name", "id", "version", "epoch", "members", "you_are", "is_now")} == {
        "name": "our-lab", "id": id_, "version": 2, "epoch": 1, "members": 2, "you_are": "ben, a member", "is_now": True,
    }  # fmt: skip
    assert len(shown["digest"]) == 64
    assert person("ana", "group", "show", "lab", "--json").object["digest"] == shown["digest"]
    assert person("ben", "group", "members", "our-lab", "--json").objects == [
        {"name": "ana", "key": key(person, "ana"), "admin": True},
        {"name": "ben", "key": key(person, "ben"), "admin": False},
    ]
    assert person("ben", "group", "members", "our-lab").lines == [
        f"{key(person, 'ana')}  ana  (admin)",
        f"{key(person, 'ben')}  ben",
    ]
    refused = person("ben", "group", "remove-member", "our-lab", "ana")
    assert refused.code == 15
    assert "only they change it" in refused.error
    removed = person("ana", "group", "remove-member", "lab", "ben")
    assert removed.code == 0
    assert b"They may have kept the older secrets" in removed.err
    assert b"credentials for the bucket" in removed.err
    shown = person("ben", "group", "show", "our-lab").text
    assert "you are     no member" in shown
    log = person("ben", "group", "log", "our-lab")
    assert [line.split("  ", 2)[2] for line in log.lines] == [
        "ana  added ana; made admin ana; epoch 1 began",
        "ana  added ben",
        "ana  removed ben; epoch 2 began",
    ]
    assert person("ben", "group", "log", "our-lab", "--json").objects[2]["removed"] == [
        {"name": "ben", "key": key(person, "ben")}
    ]


def test_what_show_prints_for_a_new_member_is_what_they_run(person: As, place: tuple[str, ...]) -> None:
    person("ana", "group", "create", "lab", *place)
    command = person("ana", "group", "show", "lab").lines[-1].removeprefix("A new member runs: kacas ")
    assert person("ben", *command.split()).code == 0
    assert person("ben", "group", "list", "--json").objects == person("ana", "group", "list", "--json").objects


def test_groups_are_listed_joined_and_forgotten(person: As, tmp_path: Path) -> None:
    assert b"make one by: kacas group create NAME" in person("ana", "group", "list").err
    (id_,) = person("ana", "group", "create", "lab", "--at", tmp_path / "lab.group").lines
    assert person("ana", "group", "list", "--json").object == {
        "name": "lab", "id": id_, "place": f"file:{tmp_path}/lab.group",
    }  # fmt: skip
    assert id_ in person("ana", "group", "list").text
    assert person("ana", "group", "forget", "lab").code == 0
    assert person("ana", "group", "list").out == b""
    assert "you have none" in person("ana", "group", "show", "lab").error
    assert "join NAME" in person("ana", "group", "show", id_).error
    assert person("ana", "group", "join", "lab", id_, "--at", tmp_path / "lab.group").code == 0
    assert person("ana", "group", "show", "lab", "--json").object["you_are"] == "ana, an admin"


def test_the_usual_place_is_the_default_remote_else_the_store(person: As, tmp_path: Path) -> None:
    person("ana", "init")
    assert person("ana", "group", "create", "one").code == 0
    (tmp_path / "bucket").mkdir()
    person("ana", "remote", "add", "lab", f"file://{tmp_path}/bucket", "--no-probe")
    assert person("ana", "group", "create", "two").code == 0
    places = {one["name"]: one["place"] for one in person("ana", "group", "list", "--json").objects}
    assert places == {"one": f"store:{tmp_path}/store", "two": "remote:lab"}


def test_who_is_trusted_is_let_in_by_name(person: As, tmp_path: Path) -> None:
    at = ("--at", str(tmp_path / "lab.group"))
    for who in ("ben", "cem", "eve"):
        person("ana", "trust", "add", f"{who}-t", key(person, who))
    assert person("ana", "group", "create", "lab", *at, "--admin", "ben-t", "--my-name", "me").code == 0
    assert person("ana", "group", "add-member", "lab", "cem-t", "eve-t").code == 0
    found = [(one["name"], one["admin"]) for one in person("ana", "group", "members", "lab", "--json").objects]
    assert found == [("ben-t", True), ("cem-t", False), ("eve-t", False), ("me", True)]
    assert person("ana", "group", "add-member", "lab", "cem-t", "--admin").code == 0
    assert person("ana", "group", "remove-member", "lab", "ben-t", key(person, "eve")).code == 0
    assert [one["name"] for one in person("ana", "group", "members", "lab", "--json").objects] == ["cem-t", "me"]


def test_what_cannot_be_done_is_said_in_words(person: As, kacas: Runner, tmp_path: Path) -> None:
    at = ("--at", str(tmp_path / "lab.group"))
    person("ana", "group", "create", "lab", *at)
    ben = key(person, "ben")
    assert person("ana", "group", "add-member", "lab", ben, "--name", "ben").code == 0
    for arguments, code, words in (
        (("add-member", "lab", ben), 2, "a member of the group lab already, as ben"),
        (("add-member", "lab", "cem"), 2, "nobody of that name is in `kacas trust list`"),
        (("add-member", "lab", key(person, "cem"), "--name", "ben"), 2, "another member ben"),
        (("add-member", "lab", "ed25519:" + "00" * 32), 2, "no key of a person"),
        (("add-member", "lab", ben, ben, "--name", "x"), 2, "--name goes with one"),
        (("remove-member", "lab", "cem"), 2, "'cem' is no member of the group lab"),
        (("remove-member", "lab", "ana"), 2, "only admin"),
        (("create", "lab", *at), 2, "have an access group lab already"),
        (("create", "other", *at), 2, "holds the record of another group"),
        (("create", "b/ad", *at), 2, "no name for an access group"),
        (("create", "third", "--at", "nowhere"), 2, "is no place for the record of a group"),
        (("create", "third", "--at", tmp_path / "none" / "x.group"), 2, "is its disk or share mounted"),
        (("create", "third"), 9, "no kacas store"),
        (("join", "other", "ag_1", *at), 2, "no id of an access group"),
        (("join", "other", "ag_" + "ab" * 16, *at), 5, "is of another group"),
        (("show", "none"), 2, "you have lab"),
    ):
        answer = person("ana", "group", *arguments)
        assert (answer.code, answer.out) == (code, b""), (arguments, answer)
        assert words in answer.error
    (tmp_path / "ana" / "config" / "kacas" / "identity.toml").unlink()
    assert (
        "kacas identity create"
        in kacas("group", "show", "lab").err.decode() + person("ana", "group", "create", "x").error
    )


def test_a_record_that_was_rolled_back_is_damage_and_can_be_put_back(person: As, tmp_path: Path) -> None:
    path = tmp_path / "lab.group"
    person("ana", "group", "create", "lab", "--at", path)
    older = path.read_bytes()
    person("ana", "group", "add-member", "lab", key(person, "ben"))
    newer = path.read_bytes()
    path.write_bytes(older)
    answer = person("ana", "group", "show", "lab")
    assert answer.code == 5
    assert "rolled back: version 1 is the newest there, and this host has seen version 2" in answer.error
    command = answer.error.partition("again: kacas ")[2]
    assert person("ana", *command.split()).code == 0
    assert path.read_bytes() == newer


def test_a_place_that_is_away_is_a_warning_where_it_can_be(person: As, program: Runner, tmp_path: Path) -> None:
    path = tmp_path / "share" / "lab.group"
    path.parent.mkdir()
    ben = key(person, "ben")
    person("ana", "group", "create", "lab", "--at", path)
    path.parent.rename(tmp_path / "away")
    answer = program("group", "show", "lab", "--json")  # as ana still
    assert answer.code == 0
    assert (answer.object["version"], answer.object["is_now"]) == (1, False)
    assert answer.err.startswith(b"kacas: warning: the record of the group lab")
    assert b"is its disk or share mounted?" in answer.err
    assert program("group", "add-member", "lab", ben).code == 2
