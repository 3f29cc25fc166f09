"""Keys of mutables, and what a generation's record holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.errors import InvalidKeyError, UnsupportedDataError
from kacas.model.mutable import (
    MAX_VALUE_LENGTH,
    Generation,
    GenerationFormatError,
    check_folder,
    check_key,
    check_value,
    decode_generation,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@given(st.builds(Generation, value=st.none() | texts, owner=texts))
def test_what_was_encoded_is_decoded(generation: Generation) -> None:
    assert decode_generation(generation.encode()) == generation


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_are_a_generation(data: bytes) -> None:
    try:
        generation = decode_generation(data)
    except GenerationFormatError:
        return
    assert decode_generation(generation.encode()) == generation


@pytest.mark.parametrize("key", ["key", "@a/key", "@a/@b/key", "@data/é-日本.v2", "@a/a:b", "@a/" + "x" * 255])
def test_keys_are_names_in_folders(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "", "/", "/key", "key/", "@a//key", "@a/", "a/key", "@a", "@a/@b", "@", "@/key", ".", "..", "@a/..", "@a/.key",
        "../key", "@a/../key", "@../key/x", "@a/ke\0y", "@a/k\ney", "@a/k\x1by", " key", "key ", "@a/key.", "@a /key", "a\\b",
        "@a/" + "x" * 256, "@a/" + "é" * 128, "/".join(["@a"] * 400) + "/key", "caf" + "e\u0301", "\udc80", "k\u200by", 7, None,
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused_in_words(key: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        check_key(key)
    assert str(caught.value).isprintable()


def test_folders_are_folders_all_the_way() -> None:
    for folder in ("", "@a", "@a/@b"):
        assert check_folder(folder) == folder
    for folder in ("a", "@a/b", "@a/", "/@a", "@", "@..", "."):
        if folder == "@..":
            continue
        with pytest.raises(InvalidKeyError):
            check_folder(folder)


@given(st.text(max_size=40))
def test_a_key_that_is_accepted_stays_below_its_directory(text: str) -> None:
    try:
        parts = check_key(text).split("/")
    except InvalidKeyError:
        return
    assert all(part not in ("", ".", "..") and "\0" not in part and not part.startswith(".") for part in parts)
    assert [part.startswith("@") for part in parts] == [True] * (len(parts) - 1) + [False]


def test_values_are_text_of_bounded_length() -> None:
    assert check_value("x" * MAX_VALUE_LENGTH)
    for value in ("x" * (MAX_VALUE_LENGTH + 1), b"bytes", 3, None, "\ud800"):
        with pytest.raises(UnsupportedDataError):
            check_value(value)
