"""remotes.toml: it comes back as it was, in order, is the user's alone, and what is wrong in it is said with its name."""

from __future__ import annotations

import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.errors import InvalidSettingError, KacasError, NewerFormatError
from kacas.settings import Settings
from kacas_remote.configuration import (
    Probed,
    RemoteConfiguration,
    change_remotes,
    default_remote,
    parse_remotes,
    push_remote,
    read_remotes,
    remote_named,
    remotes_path,
    render_remotes,
)
from kacas_remote.errors import InvalidRemoteError, RemoteNotFoundError

LAB = RemoteConfiguration("lab", "s3://bucket/prefix", endpoint="https://s3.example.org", default=True, push=True)
WEB = RemoteConfiguration("web", "https://data.example.org/kacas", trusted=True)

names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
flags = st.none() | st.booleans()
probes = st.builds(
    Probed,
    st.text(max_size=20),
    flags,
    flags,
    flags,
    flags,
    flags,
    flags,
    flags,
    flags,
    st.none() | st.integers(-9999, 9999),
)
configurations = st.builds(
    lambda kind, *places, **options: RemoteConfiguration(*places, **options, **kind),
    st.sampled_from([{}, {"plain": True}, {"private": "lab"}, {"private": "ag_" + "0" * 32}]),
    names,
    st.sampled_from(["s3://b/p", "gs://b", "az://c/p", "file:///srv/lab", "https://h/p", "memory://m"]),
    endpoint=st.sampled_from(["", "http://127.0.0.1:8333"]),
    region=st.text(max_size=10),
    trusted=st.booleans(),
    read_only=st.booleans(),
    anonymous=st.booleans(),
    profile=st.text(max_size=10),
    probed=st.none() | probes,
)


def write(text: str) -> Path:
    path = remotes_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


@given(st.lists(configurations, unique_by=lambda one: one.name, max_size=5), st.data())
def test_what_is_written_is_read_again_in_its_order(remotes: list[RemoteConfiguration], data: st.DataObject) -> None:
    if remotes:
        at = data.draw(st.integers(0, len(remotes) - 1))
        remotes[at] = replace(remotes[at], default=True, push=remotes[at].writable and data.draw(st.booleans()))
    assert parse_remotes(render_remotes(remotes), "remotes.toml") == tuple(remotes)


@given(st.data())
def test_a_damaged_file_gives_remotes_or_a_typed_error(data: st.DataObject) -> None:
    text = list(render_remotes([replace(LAB, probed=Probed("2026", True)), WEB]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 9))] = data.draw(st.text(max_size=2))
    try:
        parse_remotes("".join(text), "remotes.toml")
    except KacasError as exc:
        assert "remotes.toml" in str(exc)


def test_the_file_is_its_owners_alone_and_holds_what_the_last_change_made() -> None:
    change_remotes(lambda found: [*found, LAB])
    change_remotes(lambda found: [*found, WEB])
    assert read_remotes() == (LAB, WEB)
    assert stat.S_IMODE(remotes_path().stat().st_mode) == 0o600
    assert [path.name for path in remotes_path().parent.iterdir()] == ["remotes.toml"]


def test_an_edit_that_fails_leaves_the_file_as_it_was() -> None:
    change_remotes(lambda found: [LAB])
    with pytest.raises(RemoteNotFoundError):
        change_remotes(lambda found: [remote_named("other", found)])
    assert read_remotes() == (LAB,)


def test_changes_at_once_are_all_kept() -> None:
    def add(number: int) -> None:
        change_remotes(lambda found: [*found, replace(WEB, name=f"web-{number}")])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.name for one in read_remotes()} == {f"web-{number}" for number in range(16)}


@pytest.mark.parametrize(
    "text, named",
    [
        ("[remotes.lab]\nurl = 's3://b'\ncolour = 'red'", "'colour'"),
        ("[remotes.lab.probed]\nsmell = true\n[remotes.lab]\nurl = 's3://b'", "'smell'"),
        ("colour = 'red'", "'colour'"),
        ("remotes = 3", "tables"),
        ("[remotes]\nlab = 3", "table"),
        ("[remotes.lab]\nplain = true", "url"),
        ("[remotes.lab]\nurl = 3", "url must be text"),
        ("[remotes.lab]\nurl = 's3://b'\nplain = 1", "plain must be true or false"),
        ("[remotes.Lab]\nurl = 's3://b'", "'Lab'"),
        ("[remotes.lab]\nurl = 's3://b'\npush = true", "default"),
        ("[remotes.lab]\nurl = 'https://h'\ndefault = true\npush = true", "read"),
        ("[remotes.a]\nurl = 's3://b'\ndefault = true\n[remotes.b]\nurl = 's3://b'\ndefault = true", "more than one"),
        ("format = true", "format"),
        ("remotes = [", "cannot be read"),
        ("x = " + "[" * 20_000, "cannot be read"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_the_file_named(text: str, named: str) -> None:
    path = write(text)
    with pytest.raises(InvalidSettingError) as caught:
        read_remotes()
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_a_newer_file_is_refused_with_the_version_that_is_needed() -> None:
    write("format = 7\nunknown = 'as yet'")
    with pytest.raises(NewerFormatError, match=r"remotes\.toml has format 7.*upgrade kacas") as caught:
        read_remotes()
    assert caught.value.needed == 7


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@bucket",
        "https://user:hunter2@host/",
        "https://host/?token=hunter2",
        "https://host/#hunter2",
        "ftp://hunter2",
        "hunter2",
        "s3://",
        "s3://hunter2:70000",
        "file://host/hunter2",
        "s3://bucket/hunter2 b",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(InvalidRemoteError) as caught:
        RemoteConfiguration("lab", url)
    assert "hunter2" not in str(caught.value)
    assert "lab" in str(caught.value)


@pytest.mark.parametrize("name", ["", "Lab", "1lab", "a_b", "a b", "a/b", "é", "a" * 64, "lab\n"])
def test_a_name_that_could_not_be_a_variable_is_refused(name: str) -> None:
    with pytest.raises(InvalidRemoteError):
        RemoteConfiguration(name, "s3://bucket")


def test_the_environment_says_which_remote_stores_push_to(monkeypatch: pytest.MonkeyPatch) -> None:
    other = RemoteConfiguration("other", "file:///srv/other")
    change_remotes(lambda found: [LAB, other])
    assert push_remote(read_remotes()) == LAB
    monkeypatch.setenv("KACAS_REMOTE", "other")
    assert push_remote(read_remotes()) == default_remote(read_remotes()) == replace(other, default=True, push=True)
    monkeypatch.setenv("KACAS_REMOTE", "")
    assert push_remote(read_remotes()) is default_remote(read_remotes()) is None
    assert [one.name for one in read_remotes()] == ["lab", "other"]


def test_an_unknown_remote_in_the_environment_is_refused_even_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KACAS_REMOTE", "nowhere")
    with pytest.raises(InvalidRemoteError, match=r"KACAS_REMOTE 'nowhere'.*kacas remote add"):
        read_remotes()


def test_a_long_session_notices_that_the_file_changed() -> None:
    seen = {Settings.fingerprint()}
    change_remotes(lambda found: [LAB])
    seen.add(Settings.fingerprint())
    change_remotes(lambda found: [WEB])
    seen.add(Settings.fingerprint())
    remotes_path().unlink()
    assert len(seen) == 3
    assert Settings.fingerprint() in seen


def test_a_long_session_notices_that_keys_were_renewed_and_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Settings.fingerprint()
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hunter2")
    assert Settings.fingerprint() != before
    assert "hunter2" not in repr(Settings.fingerprint())


def test_without_the_file_nothing_needs_to_know_of_remotes() -> None:
    assert Settings.from_environment().remotes_file is None
    assert read_remotes() == ()
    change_remotes(lambda found: [LAB])
    assert Settings.from_environment().remotes_file == remotes_path()
