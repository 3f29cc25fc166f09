"""The identity: one pair, of the environment or of a file that nobody else reads, and its private half is never shown."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import traceback

import pytest
from rich.console import Console
from rich.traceback import Traceback

from kacas.errors import InvalidSettingError
from kacas.settings import Settings, identity_file
from kacas_remote import identity
from kacas_remote.signing import new_private_key, public_key, publisher_text

KEY = new_private_key()
PUBLIC, PRIVATE = public_key(KEY).hex(), bytes(KEY).hex()
OTHER = new_private_key()


def test_there_is_none_at_first_and_the_refusal_says_how_to_make_one() -> None:
    assert identity.find() is None
    assert identity.own_public() is None
    with pytest.raises(InvalidSettingError, match="kacas identity create"):
        identity.own()


def test_it_is_made_once_for_this_user_alone() -> None:
    made = identity.own_or_new()
    assert made.source == str(identity_file())
    assert os.stat(identity_file()).st_mode & 0o777 == 0o600
    assert bytes(identity.own()) == bytes(made.key) == bytes(identity.own_or_new().key)
    assert identity.own_public() == made.public == public_key(made.key)


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    identity.own_or_new()
    before = Settings.fingerprint()
    monkeypatch.setenv("KACAS_CLIENT_ID", PUBLIC)
    monkeypatch.setenv("KACAS_PRIVATE_KEY", PRIVATE)
    found = identity.find()
    assert found is not None
    assert (found.source, found.public) == ("environment", public_key(KEY))
    assert Settings.fingerprint() != before
    assert PRIVATE not in repr(Settings.fingerprint())
    monkeypatch.setenv("KACAS_CLIENT_ID", publisher_text(public_key(KEY)))  # as `kacas identity show` prints it
    assert identity.own_public() == public_key(KEY)


@pytest.mark.parametrize(
    "public, private, why",
    [
        (PUBLIC, "", "KACAS_PRIVATE_KEY is not"),
        ("", PRIVATE, "KACAS_CLIENT_ID is not"),
        (PUBLIC, PRIVATE[:-1], "KACAS_PRIVATE_KEY must have 64 hex digits, it has 63"),
        (PUBLIC, PRIVATE[:-1] + "g", "KACAS_PRIVATE_KEY must have 64 hex digits"),
        (PUBLIC + "00", PRIVATE, "KACAS_CLIENT_ID must have 64 hex digits"),
        (public_key(OTHER).hex(), PRIVATE, "do not belong together"),
    ],
)
def test_half_a_pair_or_what_is_none_is_refused_without_being_quoted(public: str, private: str, why: str) -> None:
    environment = {"KACAS_CLIENT_ID": public, "KACAS_PRIVATE_KEY": private, "HOME": "/nowhere"}
    with pytest.raises(InvalidSettingError, match=why) as caught:
        identity.find(environment)
    assert PRIVATE[:40] not in str(caught.value)


def test_a_file_that_others_can_read_is_refused_until_they_cannot() -> None:
    made = identity.own_or_new()
    for mode in (0o644, 0o640, 0o604, 0o620):
        identity_file().chmod(mode)
        with pytest.raises(InvalidSettingError, match="chmod 600"):
            identity.own()
    identity_file().chmod(0o600)
    assert bytes(identity.own()) == bytes(made.key)


def test_a_pair_whose_halves_do_not_belong_together_is_refused() -> None:
    made = identity.own_or_new()
    text = identity_file().read_text()
    identity_file().write_text(text.replace(made.public.hex(), "00" * 32))
    for ask in (identity.own, identity.own_public, identity.own_or_new):
        with pytest.raises(InvalidSettingError, match="belong together"):
            ask()


def _own_key(results) -> None:  # type: ignore[no-untyped-def]
    results.put(bytes(identity.own_or_new().key))


def test_processes_that_make_it_at_once_have_one() -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_own_key, args=(results,)) for _ in range(6)]
    for worker in workers:
        worker.start()
    assert len({results.get(timeout=60) for _ in workers}) == 1
    for worker in workers:
        worker.join()


def shown_with_locals(error: BaseException) -> str:
    """As rich shows a traceback with the locals of all frames but the test's own, those of its causes included."""
    out = io.StringIO()
    assert error.__traceback__ is not None
    trace = Traceback.from_exception(
        type(error),
        error,
        error.__traceback__.tb_next,
        show_locals=True,
        locals_max_string=None,
        locals_max_length=1000,
    )
    Console(file=out, width=400).print(trace)
    return out.getvalue() + "".join(traceback.format_exception(error))


def holds_the_key(text: str, private: str) -> bool:
    return private[:32] in text or repr(bytes.fromhex(private))[2:20] in text


@pytest.mark.parametrize("spoil", ["format", "halves", "mode", "cut", "line", "environment", "half", "a directory"])
def test_no_traceback_shows_the_private_key_even_with_its_locals(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    private = bytes(identity.own_or_new().key).hex()
    path = identity_file()
    text = path.read_text()
    if spoil == "format":
        path.write_text(text.replace("format = 1", "format = 2"))
    elif spoil == "halves":
        path.write_text(text.replace('public_key = "', 'public_key = "' + "0" * 64 + '" # '))
    elif spoil == "mode":
        path.chmod(0o644)
    elif spoil == "cut":
        path.write_text(text.rstrip()[:-2])
    elif spoil == "line":
        path.write_text(text + private)
    elif spoil == "environment":
        monkeypatch.setenv("KACAS_CLIENT_ID", PUBLIC)
        monkeypatch.setenv("KACAS_PRIVATE_KEY", private)
    elif spoil == "half":
        monkeypatch.setenv("KACAS_PRIVATE_KEY", private)
    else:
        path.unlink()
        path.mkdir(mode=0o700)
    for ask in (identity.own, identity.own_or_new):
        with pytest.raises(InvalidSettingError) as caught:
            ask()
        assert not holds_the_key(shown_with_locals(caught.value), private)


def test_the_private_key_is_not_shown_pickled_or_copied() -> None:
    for thing in (KEY, identity.Identity(KEY, "environment"), {"key": [KEY]}):
        assert not holds_the_key(f"{thing} {thing!r}", PRIVATE)
    assert publisher_text(public_key(KEY)) in repr(KEY)
    for dump in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="private key"):
            dump(KEY)
