"""Encrypted URIs in Python: members use them as any URI, nobody else does, and a function that is new is not forgotten."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kacas
import kacas.kachery as kcl
from kacas.private_uris import any_uris
from kacas_remote.groups import keys_of
from kacas_remote.signing import new_private_key
from tests.access_group import become, become_myself, keep_out, let_in, make_group
from tests.encrypted_contents import Contents, store_contents

ROOT = Path(kacas.__file__).resolve().parent.parent
STRANGER, BEN = new_private_key(), new_private_key()


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    return store_contents(tmp_path)


Call = Callable[[Any, Contents], Any]


def _forgotten(found: kacas.Forgotten, uris: Contents) -> tuple[int, tuple[str, ...]]:
    kacas.store_text("for us", label="a.txt")  # claimed again
    return found.dropped, found.kept_by


# What each function that takes a URI is called with, and what is to be the same of its answer. verbs: f is the function.
VERBS: dict[str, Call] = {
    "load_file": lambda f, uris: Path(f(uris.text)).read_text(),
    "load_bytes": lambda f, uris: f(uris.member),
    "load_dir": lambda f, uris: (Path(f(uris.directory, "restored")) / "day 1" / "a.txt").read_text(),
    "load_text": lambda f, uris: f(uris.text),
    "load_json": lambda f, uris: f(uris.json),
    "load_npy": lambda f, uris: f(uris.npy).tolist(),
    "load_pkl": lambda f, uris: f(uris.pkl),
    "open_file": lambda f, uris: f(uris.text).read(),
    "open_npy": lambda f, uris: f(uris.npy)[1].tolist(),
    "open_h5": lambda f, uris: f(uris.h5)["trace"][3],
    "list_h5": lambda f, uris: list(f(uris.h5)),
    "is_h5": lambda f, uris: (f(uris.h5), f(uris.text)),
    "list_dir": lambda f, uris: (f(uris.directory), f(uris.directory, "day 1")),
    "is_dir": lambda f, uris: (f(uris.directory), f(uris.member)),
    "size": lambda f, uris: (f(uris.directory), f(uris.npy)),
    "diff": lambda f, uris: list(f(uris.directory, uris.other)),
    "exists": lambda f, uris: (f(uris.directory), f(uris.member), f(uris.text)),
    "find": lambda f, uris: f(uris.text).size,
    "describe": lambda f, uris: (f(uris.npy).shape, f(uris.directory).files),
    "forget": lambda f, uris: _forgotten(f(uris.text), uris),
    "pull": lambda f, uris: f([uris.text, uris.directory]).contents_here,
    "push": lambda f, uris: f([uris.text, uris.member, uris.directory]).contents,
    "encrypt_uri": lambda f, uris: f(uris.member, access_group="lab"),
    "decrypt_uri": lambda f, uris: f(uris.member),
    "cat_file": lambda f, uris: f(uris.text),
}
OTHER_URIS = {"load_feed"}  # kachery-feed://


def functions_with_uris(where: object) -> set[str]:
    """Public functions, those of a class too, that have a parameter which is a URI."""
    found = set()
    for name, function in inspect.getmembers(where, inspect.isfunction):
        is_own = where is not kcl or function.__module__ == kcl.__name__
        if not name.startswith("_") and is_own:
            parameters = inspect.signature(function).parameters
            if any(one == "uri" or one.startswith(("uri", "other")) or one.endswith("uri") for one in parameters):
                found.add(name)
    return found - OTHER_URIS


def public_functions() -> list[tuple[str, Callable[[], Any]]]:
    """Name in VERBS, and how the function is had. kacas.__all__ is asked: what is not imported yet is there, too."""
    for name in kacas.__all__:
        getattr(kacas, name)
    found: list[tuple[str, Callable[[], Any]]] = []
    for where in (kacas, kcl, kacas.Store):
        for name in sorted(functions_with_uris(where)):
            if where is kacas.Store:
                found.append((name, lambda name=name: getattr(kacas.default_store(), name)))  # type: ignore[misc]
            elif where is kacas and name not in kacas.__all__:
                continue
            else:
                found.append((name, lambda where=where, name=name: getattr(where, name)))  # type: ignore[misc]
    return found


FUNCTIONS = public_functions()


def test_every_function_that_takes_a_uri_is_among_those_that_are_tried() -> None:
    assert {name for name, _ in FUNCTIONS} == set(VERBS)
    assert len(FUNCTIONS) > 45


@pytest.mark.parametrize("name, having", FUNCTIONS, ids=[f"{at}-{name}" for at, (name, _) in enumerate(FUNCTIONS)])
def test_every_function_takes_an_encrypted_uri_of_a_member_and_refuses_it_to_others(
    name: str,
    having: Callable[[], Any],
    contents: Contents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    encrypted = contents.encrypted()
    expected = VERBS[name](having(), contents), capfdbinary.readouterr().out
    assert (VERBS[name](having(), encrypted), capfdbinary.readouterr().out) == expected
    become(STRANGER, monkeypatch)
    with pytest.raises(kacas.GroupAccessError, match="no member of") as caught:
        VERBS[name](having(), encrypted)
    assert contents.hides(str(caught.value))


def test_uris_are_parsed_behind_the_one_door() -> None:
    """Whoever parses for themselves would not know encrypted ones."""
    parsing = set()
    for path in (*(ROOT / "kacas").rglob("*.py"), *(ROOT / "kacas_remote").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "kacas.model.uri":
                parsing |= {str(path.relative_to(ROOT)) for one in node.names if one.name.startswith("parse")}
    assert parsing == {"kacas/private_uris.py"}


def test_what_was_encrypted_comes_back_with_its_label_root_and_path(contents: Contents) -> None:
    root = f"sha1://{'0a' * 20}?label=a%20b&root={'0b' * 32}"
    for uri in (*contents, root):
        for hidden in (False, True):
            encrypted = kacas.encrypt_uri(uri, access_group="lab", hide_label=hidden)
            assert encrypted == kacas.encrypt_uri(uri, access_group="lab", hide_label=hidden)
            assert ("label" in encrypted) == ("label" in uri and not hidden)
            assert kacas.decrypt_uri(encrypted) == uri
            assert kacas.decrypt_uri(uri) == uri


def test_a_path_is_added_behind_an_encrypted_directory(contents: Contents) -> None:
    encrypted = kacas.encrypt_uri(contents.directory, access_group="lab")
    member = encrypted.replace("?", "/day%201/a.txt?")
    assert kacas.load_text(member) == "first"
    assert kacas.decrypt_uri(member) == contents.member
    assert kacas.decrypt_uri(kacas.encrypt_uri(member, access_group="lab")) == contents.member
    with pytest.raises(kacas.NotFoundError, match="has no") as caught:
        kacas.load_text(encrypted.replace("?", "/day%201/b.txt?"))
    assert contents.hides(str(caught.value))


def test_errors_of_what_was_given_encrypted_do_not_tell_what_it_is(contents: Contents, tmp_path: Path) -> None:
    gone = f"sha1://{'0a' * 20}?label=gone.txt"
    encrypted = kacas.encrypt_uri(gone, access_group="lab", hide_label=True)
    for ask in (kacas.load_text, kacas.describe, kacas.forget, kacas.load_file, kacas.push, kacas.pull):
        with pytest.raises(kacas.NotFoundError) as caught:
            ask(encrypted)
        assert "0a0a" not in str(caught.value)
        assert "gone.txt" not in str(caught.value)
        assert encrypted in str(caught.value)
    text = kacas.encrypt_uri(contents.text, access_group="lab")
    for ask in (kacas.load_json, kacas.load_npy, kacas.load_pkl, lambda uri: kacas.load_dir(uri, tmp_path / "x")):
        with pytest.raises(kacas.KacasError) as wrong:
            ask(text)
        assert contents.hides(str(wrong.value))
    directory = kacas.encrypt_uri(contents.directory, access_group="lab")
    with pytest.raises(kacas.WrongKindError) as wrong:
        kacas.load_text(directory)
    assert contents.hides(str(wrong.value))


def test_an_altered_uri_is_invalid_and_one_of_an_unknown_group_is_not_found(contents: Contents) -> None:
    encrypted = kacas.encrypt_uri(contents.text, access_group="lab")
    for at in (11, 40, 100):
        altered = encrypted[:at] + ("0" if encrypted[at] != "0" else "1") + encrypted[at + 1 :]
        with pytest.raises(kacas.InvalidUriError, match="it was altered"):
            kacas.load_text(altered)
    with pytest.raises(kacas.InvalidUriError, match="it was altered"):
        kacas.load_text(encrypted.replace("a.txt", "b.txt"))
    group = encrypted.partition(".ag_")[2][:32]
    with pytest.raises(kacas.GroupNotFoundError, match="ag_0"):
        kacas.load_text(encrypted.replace(group, "0" * 32))
    with pytest.raises(kacas.GroupNotFoundError, match="nobody"):
        kacas.encrypt_uri(contents.text, access_group="nobody")


def test_a_uri_of_one_group_is_nothing_to_another_and_can_be_encrypted_again_for_it(
    contents: Contents, tmp_path: Path
) -> None:
    other = make_group(tmp_path, "ours")
    encrypted = kacas.encrypt_uri(contents.text, access_group="lab")
    again = kacas.encrypt_uri(encrypted, access_group="ours")
    assert again == kacas.encrypt_uri(contents.text, access_group=other)
    assert again.partition(".")[0] != encrypted.partition(".")[0]
    assert kacas.load_text(again) == "for us"
    with pytest.raises(kacas.InvalidUriError, match="it was altered"):
        kacas.load_text(encrypted.replace(encrypted.partition(".ag_")[2][:32], other[3:]))


def test_members_open_what_others_of_the_group_encrypted_until_they_are_removed(
    contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kacas.encrypt_uri(contents.text, access_group="lab")
    let_in(BEN, "ben")
    become(BEN, monkeypatch)
    assert kacas.load_text(before) == "for us"
    assert kacas.encrypt_uri(contents.text, access_group="lab") == before
    become_myself(monkeypatch)
    keep_out("ben")
    keys_of("lab").refresh()  # a minute later it would be looked at anyway
    with_ben = any_uris([before])
    after = kacas.encrypt_uri(contents.text, access_group="lab")
    assert after != before
    assert any_uris([after, before]) == with_ben * 2
    become(BEN, monkeypatch)
    with pytest.raises(kacas.GroupAccessError, match="removed you"):
        kacas.load_text(after)


def test_a_member_whose_kacas_saw_no_newer_epoch_looks_again_for_a_uri_that_does_not_open(
    contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_in(BEN, "ben")
    let_in(new_private_key(), "eve")
    become(BEN, monkeypatch)
    assert kacas.load_text(kacas.encrypt_uri(contents.text, access_group="lab")) == "for us"
    become_myself(monkeypatch)
    keep_out("eve")
    newer = kacas.encrypt_uri(contents.text, access_group="lab")
    become(BEN, monkeypatch)
    assert kacas.load_text(newer) == "for us"


def test_the_names_of_kachery_cloud_are_there(contents: Contents) -> None:
    encrypted = kcl.encrypt_uri(contents.text, access_group="lab", label="ours.txt")
    assert encrypted.endswith("?label=ours.txt")
    assert kcl.load_text(encrypted) == "for us"
    assert kcl.decrypt_uri(encrypted) == contents.text.replace("a.txt", "ours.txt")
    assert kcl.decrypt_uri(kcl.encrypt_uri(encrypted, access_group="lab")) == kcl.decrypt_uri(encrypted)
    assert kcl.store_file(encrypted, label="again.txt").startswith(contents.text.partition("?")[0])


def test_what_kachery_cloud_encrypted_is_refused_in_words() -> None:
    for refused in (kacas.load_text, kacas.decrypt_uri):
        with pytest.raises(kacas.InvalidUriError, match="What kachery-cloud encrypted"):
            refused(f"sha1-enc://{'0a' * 48}.ag_kfbpyxzdqe?label=recording.dat")


def test_a_lazy_array_shows_the_uri_that_was_given(contents: Contents) -> None:
    lazy = kacas.open_npy(kacas.encrypt_uri(contents.npy, access_group="lab"))
    assert contents.hides(repr(lazy))
    assert np.array_equal(lazy[:], np.arange(12).reshape(3, 4))
