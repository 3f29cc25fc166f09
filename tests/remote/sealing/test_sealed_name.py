"""Sealed names: found again without a list, listed by directories, and no other text is one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas_remote.blobs.keys import check_key
from kacas_remote.layout import other_recipe_key, pack_key, plain_key, recipe_key
from kacas_remote.sealing.epoch_keys import EpochKeys
from kacas_remote.sealing.sealed_name import (
    MAX_SEALED_KEY,
    opened_name,
    sealed_directory,
    sealed_name,
    top_directory,
)

EPOCH = EpochKeys(b"g" * 16, 1, b"s" * 32)
OTHERS = [
    EpochKeys(b"g" * 16, 2, b"s" * 32),
    EpochKeys(b"h" * 16, 1, b"s" * 32),
    EpochKeys(b"g" * 16, 1, b"t" * 32),
]
SHA1 = bytes.fromhex("deadbeefdeadbeefdeadbeefdeadbeefdeadbeef")
KEYS = ["kacas-remote.json", pack_key(SHA1[:16]), recipe_key(SHA1), other_recipe_key(SHA1, SHA1), plain_key(SHA1)]
_part = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="/\\."), min_size=1)
keys = st.lists(_part, min_size=1, max_size=6).map("/".join).filter(lambda key: len(key) <= MAX_SEALED_KEY)


@given(key=keys)
def test_a_name_is_a_key_and_opens_again(key: str) -> None:
    name = sealed_name(EPOCH, key)
    assert check_key(name) == name
    assert name == sealed_name(EpochKeys(b"g" * 16, 1, b"s" * 32), key)
    assert opened_name(EPOCH, name) == key
    for other in OTHERS:
        assert opened_name(other, name) is None
        assert sealed_name(other, key) != name


@pytest.mark.parametrize("key", ["x" * MAX_SEALED_KEY, "a/b/c/" + "x" * (MAX_SEALED_KEY - 6)])
def test_the_longest_key_has_a_name(key: str) -> None:
    assert check_key(sealed_name(EPOCH, key))
    assert opened_name(EPOCH, sealed_name(EPOCH, key)) == key


@given(key=keys, length=st.integers(0, MAX_SEALED_KEY))
def test_what_begins_with_a_prefix_is_in_its_directory(key: str, length: int) -> None:
    assert sealed_name(EPOCH, key).startswith(sealed_directory(EPOCH, key[:length]))
    assert sealed_directory(EPOCH, "") == top_directory(EPOCH) + "/"


def test_a_fan_out_is_kept_so_that_a_prefix_is_listed_by_itself() -> None:
    ab, ac = sealed_directory(EPOCH, "recipes/ab/cd/"), sealed_directory(EPOCH, "recipes/ab/ce/")
    assert ab != ac
    assert ab.count("/") == 4
    assert ab.rpartition("/")[0].rpartition("/")[0] == ac.rpartition("/")[0].rpartition("/")[0]
    assert sealed_directory(EPOCH, "sha1/ab/cd/ef/x") == sealed_directory(EPOCH, "sha1/ab/cd/eg/y")


@pytest.mark.parametrize("key", KEYS)
def test_nothing_of_a_key_is_in_its_name(key: str) -> None:
    name = sealed_name(EPOCH, key)
    assert all(part not in name for part in key.replace(".", "/").split("/") if len(part) > 3)


@pytest.mark.parametrize("key", KEYS)
def test_every_character_that_is_altered_is_refused(key: str) -> None:
    name = sealed_name(EPOCH, key)
    for at, other in itertools.product(range(len(name)), "ab27/"):
        if name[at] != other:
            assert opened_name(EPOCH, name[:at] + other + name[at + 1 :]) is None


@pytest.mark.parametrize("key", KEYS)
def test_every_other_way_to_write_a_name_is_refused(key: str) -> None:
    name = sealed_name(EPOCH, key)
    for length in range(len(name)):
        assert opened_name(EPOCH, name[:length]) is None
    for text in (name.upper(), name + "a", name + "=", name + "/", "/" + name, name.replace("/", "//", 1), name + "\n"):
        assert opened_name(EPOCH, text) is None
    directory = name.partition("/")[2]
    assert opened_name(EPOCH, directory) is None
    assert opened_name(EPOCH, name.partition("/")[0] + "/" + name) is None


@given(text=st.text(max_size=300))
def test_any_text_is_opened_or_refused_and_nothing_else(text: str) -> None:
    assert opened_name(EPOCH, text) is None


def test_a_nonce_is_of_one_key_only() -> None:
    """The nonce is the beginning of the name: two keys that had the same one would be encrypted alike."""
    names = [sealed_name(EPOCH, recipe_key(n.to_bytes(20, "big"))) for n in range(3000)]
    nonces = {name.split("/")[-1][:19] for name in names}  # 95 of 96 bits
    assert len(nonces) == len(names)


def test_a_member_cannot_seal_what_is_no_text() -> None:
    class Latin(str):
        def encode(self, encoding: str = "", errors: str = "") -> bytes:
            return str.encode(self, "latin-1")

    assert opened_name(EPOCH, sealed_name(EPOCH, Latin("\xff\xfe"))) is None
