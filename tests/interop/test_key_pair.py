"""Key pairs: kachery-cloud's becomes the user's identity, once, and is never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kacas import InvalidSettingError, Store
from kacas.disk.identity_file import KeyPair, keep_key_pair, read_identity
from kacas.interop.kachery_directory import KacheryDirectory
from kacas.interop.kachery_import import import_kachery
from kacas.interop.key_pair import kachery_key_pair
from kacas.settings import identity_file
from tests.interop.kachery import PRIVATE, PUBLIC, Kachery

OTHER = KeyPair("1" * 64, "2" * 64)


@pytest.fixture
def kachery(kachery: Kachery) -> Kachery:
    kachery.keys()
    return kachery


def test_the_pair_is_imported_when_asked_for_for_its_owner_alone(store: Store, kachery: Kachery) -> None:
    assert import_kachery(store, kachery.path).key_pair == "not asked for"
    assert not identity_file().exists()
    before = os.umask(0)
    try:
        assert import_kachery(store, kachery.path, keys=True).key_pair == "imported"
    finally:
        os.umask(before)
    assert identity_file().stat().st_mode & 0o777 == 0o600
    assert identity_file().parent.stat().st_mode & 0o777 == 0o700
    assert read_identity(identity_file()) == KeyPair(PUBLIC, PRIVATE)
    assert import_kachery(store, kachery.path, keys=True).key_pair == "here"
    assert not any(PRIVATE.encode() in path.read_bytes() for path in store.path.rglob("*") if path.is_file())


def test_another_identity_is_never_replaced(store: Store, kachery: Kachery) -> None:
    keep_key_pair(OTHER, identity_file())
    report = import_kachery(store, kachery.path, keys=True)
    assert (report.key_pair, report.counts) == ("left out", {"key pair": 1})
    assert "another identity" in report.left_out[0].message
    assert read_identity(identity_file()) == OTHER


@pytest.mark.parametrize("text", ["", "format = 2", "public_key = 7", "\xff", f'format = 1\npublic_key = "{PUBLIC}"'])
def test_an_identity_that_cannot_be_read_is_kept_as_it_is(store: Store, kachery: Kachery, text: str) -> None:
    identity_file().parent.mkdir(parents=True)
    identity_file().write_bytes(text.encode("latin-1"))
    assert import_kachery(store, kachery.path, keys=True).key_pair == "left out"
    assert identity_file().read_bytes() == text.encode("latin-1")


def test_a_pair_that_cannot_be_written_is_left_out_and_the_contents_are_not(store: Store, kachery: Kachery) -> None:
    uri = kachery.keep(b"example text")
    identity_file().parent.parent.mkdir(exist_ok=True)
    identity_file().parent.write_bytes(b"a file in the way")
    report = import_kachery(store, kachery.path, keys=True)
    assert report.counts == {"key pair": 1}
    assert "cannot be written" in report.left_out[0].message
    assert store.load_text(uri) == "example text"


@pytest.mark.parametrize("name", ["public.pem", "private.pem"])
@pytest.mark.parametrize(
    "what", ["missing", "empty", "text", "binary", "short", "another kind", "swapped", "long", "a pipe"]
)
def test_what_is_no_pair_is_left_out_without_being_quoted(store: Store, kachery: Kachery, name: str, what: str) -> None:
    path = kachery.path / name
    text = path.read_text()
    other = (kachery.path / ({"public.pem": "private.pem", "private.pem": "public.pem"}[name])).read_text()
    path.unlink()
    if what == "a pipe":
        os.mkfifo(path)
    elif what != "missing":
        path.write_bytes(
            {
                "empty": b"", "text": b"no key", "binary": bytes(range(256)), "short": text.replace("MC", "").encode(),
                "another kind": text.replace(" KEY", " RSA KEY").encode(), "swapped": other.encode(), "long": text.encode() * 500,
            }[what]
        )  # fmt: skip
    kachery.keep(b"example text")
    report = import_kachery(store, kachery.path, keys=True)
    assert report.counts == {"key pair": 1}
    assert not identity_file().exists()
    assert PRIVATE not in repr(report)
    assert text.split("\n")[1] not in repr(report)
    assert import_kachery(store, kachery.path).complete  # who did not ask for it misses nothing


def test_a_directory_without_a_pair_has_none(store: Store, tmp_path: Path) -> None:
    kachery = Kachery(tmp_path / "without")
    kachery.keep(b"example text")
    assert import_kachery(store, kachery.path, keys=True).key_pair == "none"


def test_a_newline_at_the_end_of_the_file_is_no_difference(kachery: Kachery) -> None:
    for name in ("public.pem", "private.pem"):
        with open(kachery.path / name, "a") as file:
            file.write("\n")
    assert kachery_key_pair(KacheryDirectory(kachery.path)) == KeyPair(PUBLIC, PRIVATE)


def test_the_private_key_is_not_in_what_python_shows() -> None:
    assert PRIVATE not in repr(KeyPair(PUBLIC, PRIVATE))
    with pytest.raises(ValueError, match="64 lower-case hex digits") as caught:
        KeyPair(PUBLIC, PRIVATE.upper())
    assert PRIVATE.upper() not in str(caught.value)


def test_the_identity_lies_beside_the_settings_of_the_user() -> None:
    assert identity_file({"HOME": "/home/ada"}) == Path("/home/ada/.config/kacas/identity.toml")
    assert identity_file({"HOME": "/home/ada", "XDG_CONFIG_HOME": "/c"}) == Path("/c/kacas/identity.toml")


def test_what_is_refused_is_a_setting_that_the_user_can_mend(tmp_path: Path) -> None:
    keep_key_pair(OTHER, tmp_path / "identity.toml")
    with pytest.raises(InvalidSettingError, match=OTHER.public):
        keep_key_pair(KeyPair(PUBLIC, PRIVATE), tmp_path / "identity.toml")
