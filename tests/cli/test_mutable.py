"""`kacas mutable`: values under names, for people and for scripts."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Runner


def test_what_is_set_is_printed(kacas: Runner) -> None:
    made = kacas("mutable", "set", "@lab/state", "started")
    assert (made.code, made.out) == (0, b"")
    assert b"made a new store" in made.err
    assert kacas("mutable", "set", "@lab/state", "two\nlines").code == 0
    assert kacas("mutable", "get", "@lab/state").out == b"two\nlines\n"
    assert kacas("mutable", "get", "--json", "@lab/state").object == {"key": "@lab/state", "value": "two\nlines"}


def test_of_what_is_not_there_the_exit_code_is_3(kacas: Runner) -> None:
    kacas("init")
    answer = kacas("mutable", "get", "@lab/nothing")
    assert answer.code == 3
    assert "there is no mutable '@lab/nothing'" in answer.error
    assert kacas("mutable", "delete", "@lab/nothing").code == 3
    assert kacas("mutable", "history", "@lab/nothing").code == 3


def test_a_conflict_is_exit_code_12_and_changes_nothing(kacas: Runner) -> None:
    kacas("mutable", "set", "key", "a", "--absent")
    for options in (["--absent"], ["--expect", "b"]):
        answer = kacas("mutable", "set", "key", "c", *options)
        assert answer.code == 12
        assert "'a'" in answer.error
    assert kacas("mutable", "set", "key", "b", "--expect", "a").code == 0
    assert kacas("mutable", "get", "key").out == b"b\n"
    assert kacas("mutable", "set", "key", "b", "--expect", "a", "--absent").code == 2


def test_a_bad_key_is_a_usage_error_and_makes_no_store(kacas: Runner) -> None:
    for key in ("@folder", "a/b", "../x", "", "@a//b"):
        assert kacas("mutable", "set", key, "v").code == 2, key
    assert kacas("stats").code == 9


def test_keys_are_listed_and_folders_deleted(kacas: Runner) -> None:
    for key in ("top", "@a/one", "@a/@b/two"):
        kacas("mutable", "set", key, f"of {key}")
    assert kacas("mutable", "list").lines == ["@a/@b/two", "@a/one", "top"]
    assert kacas("mutable", "list", "--json", "@a/@b").objects == [{"key": "@a/@b/two", "value": "of @a/@b/two"}]
    answer = kacas("mutable", "delete", "@a")
    assert answer.code == 2
    assert b"--recursive" in answer.err
    assert kacas("mutable", "delete", "--recursive", "@a").err == b"kacas: deleted 2 mutables\n"
    assert kacas("mutable", "delete", "top").code == 0
    assert kacas("mutable", "list").out == b""


def test_the_history_tells_who_did_what(kacas: Runner) -> None:
    kacas("mutable", "set", "key", "a\x1b[2J")
    kacas("mutable", "delete", "key")
    rows = kacas("mutable", "history", "--json", "key").objects
    assert [(row["generation"], row["value"], row["owner"]) for row in rows] == [
        (2, None, "alice"),
        (1, "a\x1b[2J", "alice"),
    ]
    lines = kacas("mutable", "history", "key").lines
    assert lines[0].endswith("(deleted)")
    assert "\x1b" not in lines[1]
    assert len(kacas("mutable", "history", "-n", "1", "key").lines) == 1


def test_a_damaged_one_is_named_and_the_others_are_printed(kacas: Runner, tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        kacas("mutable", "set", key, f"of {key}")
    (tmp_path / "store/refs/b/1").chmod(0o644)
    (tmp_path / "store/refs/b/1").write_bytes(b"damaged")
    answer = kacas("mutable", "list", "--json")
    assert answer.objects == [{"key": "a", "value": "of a"}, {"key": "c", "value": "of c"}]
    assert answer.code == 5
    assert b"refs/b/1" in answer.err
    assert kacas("mutable", "list").lines == ["a", "b", "c"]


def test_a_value_is_read_from_stdin(kacas: Runner, tmp_path: Path) -> None:
    for given, value in (
        (b"one\n", "one"),
        (b"two\nlines\n\n", "two\nlines\n"),
        (b"", ""),
        (b"-", "-"),
        ("ü".encode(), "ü"),
    ):
        assert kacas("mutable", "set", "key", "-", stdin=given).code == 0
        assert kacas("mutable", "get", "--json", "key").object["value"] == value
    kacas("mutable", "set", "key", "-", stdin=b"a b\n")
    kacas("mutable", "set", "copy", "-", stdin=kacas("mutable", "get", "key").out)
    assert kacas("mutable", "get", "copy").out == b"a b\n"


def test_what_is_no_value_on_stdin_changes_nothing(kacas: Runner) -> None:
    kacas("mutable", "set", "key", "before")
    for given, said in (
        (b"\xff\n", "not UTF-8"),
        (b"x" * 500_000, "at most 100,000"),
        (b"x" * 100_001, "at most 100,000"),
    ):
        answer = kacas("mutable", "set", "key", "-", stdin=given)
        assert answer.code == 2
        assert said in answer.error
    assert kacas("mutable", "get", "key").out == b"before\n"
