"""URIs: what is written parses back, what is not a URI is refused with the form that was meant."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.errors import InvalidLabelError, InvalidUriError
from kacas.model.uri import MAX_LABEL_SIZE, MAX_URI_SIZE, Uri, label_bytes, label_text, parse_any_uri, parse_uri

HEX = "bb55205a2482c6db2ace544fc7d8397551110701"
URI = f"sha1://{HEX}"
ROOT = "0123456789abcdef" * 4

# Any Unicode text, and any file name that is not Unicode (as Python shows it, with surrogates).
labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | st.binary(max_size=300).map(label_text)


@settings(deadline=None)
@given(st.binary(min_size=20, max_size=20), labels, st.none() | st.binary(min_size=32, max_size=32))
def test_what_is_written_parses_back_the_same(sha1: bytes, label: str, root: bytes | None) -> None:
    uri = Uri(sha1, label, root)
    text = str(uri)
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert parse_uri(text) == uri


@settings(deadline=None)
@given(st.binary(max_size=MAX_LABEL_SIZE))
def test_a_file_name_of_any_bytes_keeps_them_as_a_label(name: bytes) -> None:
    assert label_bytes(label_text(name)) == name
    assert label_bytes(parse_uri(str(Uri(bytes(20), label_text(name)))).label) == name


def test_the_parts_of_a_uri_are_where_the_documentation_says() -> None:
    assert parse_uri(URI) == Uri(bytes.fromhex(HEX))
    assert parse_uri(f"{URI}?label=example.npy") == Uri(bytes.fromhex(HEX), "example.npy")
    assert parse_uri(f"{URI}?root={ROOT}") == Uri(bytes.fromhex(HEX), "", bytes.fromhex(ROOT))
    both = Uri(bytes.fromhex(HEX), "a b&c=d%é/.npy", bytes.fromhex(ROOT))
    assert str(both) == f"{URI}?label=a%20b%26c%3Dd%25%C3%A9%2F.npy&root={ROOT}"
    assert parse_uri(f"{URI}?root={ROOT}&label=a%20b%26c%3Dd%25%c3%a9%2f.npy") == both


@pytest.mark.parametrize("location", ["/data/raw/a file.bin", "/data/a?b=c", "%2Fdata", "", "/données/x"], ids=ascii)
def test_the_location_of_old_uris_is_accepted_and_dropped(location: str) -> None:
    assert parse_uri(f"{URI}?label=x.bin&location={location}") == Uri(bytes.fromhex(HEX), "x.bin")
    assert parse_uri(f"{URI}?location={location}") == Uri(bytes.fromhex(HEX))


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_labels_that_the_ancestor_quoted_are_read(label: str) -> None:
    assert parse_uri(f"{URI}?label={quote(label)}").label == label


@pytest.mark.parametrize(
    "text, hint",
    [
        (HEX, f"did you mean {URI} ?"),
        (HEX.upper(), f"did you mean {URI} ?"),
        (f"sha1://{HEX.upper()}", f"did you mean {URI} ?"),
        (f"SHA1://{HEX}", f"did you mean {URI} ?"),
        (f"sha1:{HEX}", f"did you mean {URI} ?"),
        (f"sha1:/{HEX}", f"did you mean {URI} ?"),
        (f"  {URI}\n", f"remove the white space around it: {URI}"),
        (f"{URI}?label=a.npy\n", f"remove the white space around it: {URI}?label=a.npy"),
        (f"{URI[:-1]}", "here 39; was it cut off"),
        ("sha1://", "here 0; was it cut off"),
        (f"{URI}/sub/file.txt", f"a file has no parts; did you mean {URI} ?"),
        (f"sha1dir://{HEX}.folder/sub", "names a directory"),
        (f"sha1-enc://{HEX}.ag_group?label=x", "it is an encrypted URI"),
        (f"kachery:default:sha1:{HEX}:a.npy", "sha1://"),
        ("hello", "sha1://<40 hex digits>?label=<name>"),
        ("", "sha1://<40 hex digits>?label=<name>"),
        ("https://example.org/file", "sha1://<40 hex digits>?label=<name>"),
        (f"https://example.org/{HEX}", f"did you mean {URI} ?"),
    ],
    ids=ascii,
)
def test_a_near_miss_is_told_what_was_probably_meant(text: str, hint: str) -> None:
    with pytest.raises(InvalidUriError, match="is not a kacas URI") as caught:
        parse_uri(text)
    assert hint in str(caught.value)
    assert caught.value.uri == text


def test_a_uri_with_too_many_digits_is_not_called_cut_off() -> None:
    with pytest.raises(InvalidUriError) as caught:
        parse_uri(URI + "0")
    assert "41" in str(caught.value)
    assert "cut off" not in str(caught.value)


@pytest.mark.parametrize(
    "query, why",
    [
        ("label=a&label=b", "label is given twice"),
        (f"root={ROOT}&root={ROOT}", "root is given twice"),
        ("location=/a&location=/b", "location is given twice"),
        ("name=a", "'name=a' is not known"),
        ("Label=a", "'Label=a' is not known"),
        ("label", "'label' is not known"),
        ("label=a&", "'' is not known"),
        ("&", "'' is not known"),
        ("label=a b", "the label is not percent-encoded"),
        ("label=é", "the label is not percent-encoded"),
        ("label=%", "the label is not percent-encoded"),
        ("label=%2", "the label is not percent-encoded"),
        ("label=%GG", "the label is not percent-encoded"),
        ("label=a#b", "the label is not percent-encoded"),
        ("root=", "root must be 64 lower-case hex digits"),
        (f"root={ROOT.upper()}", "root must be 64 lower-case hex digits"),
        (f"root={ROOT[:-1]}", "root must be 64 lower-case hex digits"),
        (f"root={ROOT}0", "root must be 64 lower-case hex digits"),
        ("label=" + "a" * (MAX_LABEL_SIZE + 1), f"at most {MAX_LABEL_SIZE} are kept"),
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_a_query_that_is_off_is_refused_and_named(query: str, why: str) -> None:
    with pytest.raises(InvalidUriError) as caught:
        parse_uri(f"{URI}?{query}")
    assert why in str(caught.value)


def test_digits_that_only_look_like_hex_are_refused() -> None:
    for digit in "\uff11\u0661g":
        with pytest.raises(InvalidUriError):
            parse_uri(f"sha1://{HEX[:-1]}{digit}")


@pytest.mark.parametrize("value", [None, 3, b"sha1://", [URI]], ids=repr)
def test_what_is_no_text_is_refused_as_a_uri(value: object) -> None:
    with pytest.raises(InvalidUriError, match="a URI is text"):
        parse_uri(value)  # type: ignore[arg-type]


def test_a_huge_uri_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(InvalidUriError, match="too long") as caught:
        parse_uri(f"{URI}?location=" + "x" * MAX_URI_SIZE)
    assert len(str(caught.value)) < 400


def test_an_error_is_a_value_error_and_short_enough_to_read() -> None:
    with pytest.raises(ValueError, match="not a kacas URI") as caught:
        parse_uri("x" * 10_000)
    assert len(str(caught.value)) < 600


pieces = st.sampled_from([
    "sha1://", "sha1:", "SHA1://", "sha1dir://", "sha1-enc://", "kachery:", HEX, HEX.upper(), HEX[:-1], ROOT,
    "?", "&", "label=", "root=", "location=", "=", "%", "%41", "%ff", "/", " ", "\n", "é", "\udc80", "\ud800",
])  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=80) | st.lists(pieces | st.text(max_size=3), max_size=8).map("".join))
def test_parsing_any_text_gives_a_uri_that_parses_equal_or_an_invalid_uri_error(text: str) -> None:
    try:
        uri = parse_uri(text)
    except InvalidUriError as exc:
        assert exc.uri == text
        assert str(exc)
        return
    assert parse_uri(str(uri)) == uri


def test_a_label_is_measured_in_bytes_of_utf_8() -> None:
    assert len(label_bytes("é" * (MAX_LABEL_SIZE // 2))) == MAX_LABEL_SIZE
    with pytest.raises(InvalidLabelError, match=str(MAX_LABEL_SIZE)):
        label_bytes("é" * (MAX_LABEL_SIZE // 2) + "a")
    longest = Uri(bytes(20), "é" * (MAX_LABEL_SIZE // 2), bytes(32))
    assert parse_uri(str(longest)) == longest


def test_a_label_that_is_no_text_at_all_is_refused() -> None:
    with pytest.raises(InvalidLabelError, match="not Unicode"):
        label_bytes("\ud800")
    with pytest.raises(InvalidLabelError):
        str(Uri(bytes(20), "\ud800"))


def test_a_path_behind_the_label_of_a_directory_is_refused_and_not_taken_for_the_label() -> None:
    whole = f"sha1dir://{'0' * 40}?label=recordings"
    assert parse_any_uri(whole).label == "recordings"
    with pytest.raises(InvalidUriError, match="goes before"):
        parse_any_uri(whole + "/day1/a.npy")
