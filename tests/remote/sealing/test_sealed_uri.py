"""Encrypted URIs: what is sealed opens to the same for members, and to nothing for others or when a character is another one."""

from __future__ import annotations

import itertools
import re
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

from kacas.errors import InvalidUriError, NewerFormatError
from kacas.model.uri import MAX_URI_SIZE, DirectoryUri, Uri, is_name, label_text, parse_any_uri
from kacas_remote.sealing import sealed_uri as module
from kacas_remote.sealing.epoch_keys import EpochKeys
from kacas_remote.sealing.sealed_uri import opened_uri, parse_sealed_uri, sealed_uri

GROUP = bytes(range(16))
KEYS = EpochKeys(GROUP, 3, b"s" * 32)
OLDER = EpochKeys(GROUP, 2, b"o" * 32)
OTHER = EpochKeys(bytes(16), 3, b"s" * 32)
FILE = Uri(bytes(range(20)), "example.npy")
HEX = sealed_uri(Uri(bytes(20)), KEYS).partition(".")[0].removeprefix("sha1-enc://")
ID = f"ag_{GROUP.hex()}"

sha1s = st.binary(min_size=20, max_size=20)
labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.binary(max_size=100).map(label_text)
names = st.binary(min_size=1, max_size=30).filter(is_name)
uris = st.builds(Uri, sha1s, labels, st.none() | st.binary(min_size=32, max_size=32)) | st.builds(
    DirectoryUri, sha1s, labels, st.lists(names, max_size=5).map(tuple)
)
epochs = st.builds(
    EpochKeys, st.sampled_from([GROUP, bytes(16)]), st.integers(1, 3), st.sampled_from([b"s" * 32, b"o" * 32])
)


def opened(text: str, *keys: EpochKeys) -> Uri | DirectoryUri | None:
    return opened_uri(parse_sealed_uri(text), keys or (KEYS,))


@given(uris, st.booleans())
def test_what_is_sealed_opens_to_the_same(uri: Uri | DirectoryUri, hidden: bool) -> None:
    text = sealed_uri(uri, KEYS, hide_label=hidden)
    assert text.isascii()
    assert text.isprintable()
    found = opened(text)
    assert found == uri
    assert str(found) == text  # what messages show
    assert found is not None
    assert parse_any_uri(found.plain) == uri


@given(uris, st.booleans())
def test_it_says_nothing_of_what_it_names_but_the_label_that_may_be_seen(uri: Uri | DirectoryUri, hidden: bool) -> None:
    text = sealed_uri(uri, KEYS, hide_label=hidden)
    pattern = rf"sha1-enc://(?:[0-9a-f]{{96}}|(?:[0-9a-f]{{64}})+[0-9a-f]{{96}})\.{ID}"
    if uri.label and not hidden:
        pattern += re.escape("?label=" + quote(uri.label.encode("utf-8", "surrogateescape"), safe=""))
    assert re.fullmatch(pattern, text)
    assert uri.sha1.hex() not in text


@given(uris, epochs, epochs, st.booleans())
def test_one_uri_has_one_text_in_an_epoch_and_others_share_nothing_in_other_epochs_and_groups(
    uri: Uri | DirectoryUri, one: EpochKeys, other: EpochKeys, hidden: bool
) -> None:
    first, second = sealed_uri(uri, one, hide_label=hidden), sealed_uri(uri, other, hide_label=hidden)
    if one == other:
        assert first == second
        return
    assert first[11:35] != second[11:35]  # the nonce
    assert first.partition(".")[0][35:] != second.partition(".")[0][35:]
    assert opened(second, one) is None


def test_the_size_tells_nothing_of_a_short_label_or_path() -> None:
    sizes = {len(sealed_uri(Uri(bytes(20), "x" * size), KEYS, hide_label=True)) for size in range(1, 29)}
    assert len(sizes) == 1


class Recorded:
    """What was encrypted under which key and nonce."""

    def __init__(self) -> None:
        self.seen: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}

    def __call__(self, message: bytes, additional: bytes, nonce: bytes, key: bytes) -> bytes:
        assert self.seen.setdefault((key, nonce), (message, additional)) == (message, additional)
        return crypto_aead_chacha20poly1305_ietf_encrypt(message, additional, nonce, key)


RECORDED = Recorded()


@given(st.lists(st.tuples(uris, epochs, st.booleans()), max_size=20))
def test_no_nonce_serves_two_messages_under_a_key(several: list[tuple[Uri | DirectoryUri, EpochKeys, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_encrypt", RECORDED)  # over all examples
        for uri, keys, hidden in several:
            sealed_uri(uri, keys, hide_label=hidden)


SAMPLES = [
    sealed_uri(FILE, KEYS),
    sealed_uri(FILE, KEYS, hide_label=True),
    sealed_uri(Uri(bytes(20), "a/b & ü.npy", bytes(32)), KEYS),
    sealed_uri(DirectoryUri(bytes(20), "run7", (b"day 1", b"\xff.npy")), KEYS),
]


@pytest.mark.parametrize("text", SAMPLES, ids=["file", "hidden label", "root", "path"])
def test_every_character_altered_is_refused(text: str) -> None:
    group = range(text.index(".ag_") + 4, text.index(".ag_") + 36)
    for at, new in itertools.product(range(len(text)), "0f9aAgG/?&=.%_ é\n"):
        altered = text[:at] + new + text[at + 1 :]
        if altered == text:
            continue
        try:
            sealed = parse_sealed_uri(altered)
        except InvalidUriError as exc:
            assert exc.uri == altered
            continue
        if at in group:
            assert sealed.group_id != GROUP  # of which nobody has keys
        else:
            assert opened_uri(sealed, (KEYS, OLDER)) is None, altered


@pytest.mark.parametrize("text", SAMPLES, ids=["file", "hidden label", "root", "path"])
def test_every_character_missing_or_twice_is_refused(text: str) -> None:
    for at in range(len(text)):
        for altered in (text[:at] + text[at + 1 :], text[:at] + text[at] + text[at:], text[:at]):
            if altered == text:
                continue
            try:
                assert opened(altered, KEYS, OLDER) is None, altered
            except InvalidUriError:
                pass


@given(st.integers(0, 47), st.integers(1, 255))
def test_no_altered_byte_opens_in_another_groups_keys_either(at: int, change: int) -> None:
    sealed = parse_sealed_uri(SAMPLES[0])
    data = bytearray(sealed.sealed)
    data[at] ^= change
    altered = SAMPLES[0].replace(sealed.sealed.hex(), data.hex())
    assert opened(altered, KEYS, OLDER, OTHER) is None


def test_the_group_cannot_be_swapped_for_one_with_the_same_secret() -> None:
    text = sealed_uri(FILE, KEYS).replace(GROUP.hex(), bytes(16).hex())
    assert opened(text, OTHER) is None


def test_an_older_epoch_opens_and_a_later_one_does_not_for_who_lacks_it() -> None:
    old, new = sealed_uri(FILE, OLDER), sealed_uri(FILE, KEYS)
    assert opened(old, KEYS, OLDER) == opened(new, KEYS, OLDER) == FILE
    assert opened(new, OLDER) is None


def test_a_path_behind_a_directory_leads_on_in_clear_and_behind_a_file_is_refused() -> None:
    directory = DirectoryUri(bytes(20), "run7", (b"day 1",))
    front, mark, query = sealed_uri(directory, KEYS).partition("?")
    text = f"{front}/raw%20data/a.npy{mark}{query}"
    found = opened(text)
    assert found == DirectoryUri(bytes(20), "run7", (b"day 1", b"raw data", b"a.npy"))
    assert str(found) == text
    assert isinstance(found, DirectoryUri)
    assert found.below((b"x y",)).given == f"{front}/raw%20data/a.npy/x%20y{mark}{query}"
    assert opened(f"{front}/{mark}{query}") == directory
    with pytest.raises(InvalidUriError, match="names a file, which has no parts"):
        opened(sealed_uri(FILE, KEYS).replace("?", "/a.npy?"))
    with pytest.raises(InvalidUriError, match="is not a name in a directory"):
        opened(f"{front}/../x")
    with pytest.raises(InvalidUriError, match="goes before"):
        opened(f"{front}{mark}{query}/x")


def sealed_message(message: bytes, label: str = "") -> str:
    """By a member with a program of their own."""
    additional = module._additional(KEYS, label.encode())
    nonce = module._nonce(KEYS, additional, message)
    sealed = nonce + crypto_aead_chacha20poly1305_ietf_encrypt(message, additional, nonce, KEYS.uri)
    return f"sha1-enc://{sealed.hex()}.{ID}" + (f"?label={label}" if label else "")


@pytest.mark.parametrize(
    "more, label",
    [
        (bytes(32), ""),  # flags that say nothing
        (b"\1" + bytes(63), ""),  # too much padding
        (b"\1" + bytes(30) + b"x", ""),  # no zeros
        (b"\3" + bytes(32 + 31), ""),  # a directory with a root
        (b"\x08\1\0a" + bytes(28), ""),  # a path in a file
        (b"\x09\2\0.." + bytes(27), ""),
        (b"\x09\1\0/" + bytes(28), ""),
        (b"\x09\0\0" + bytes(29), ""),  # an empty path
        (b"\x09\xff\xffa" + bytes(28), ""),  # one that is cut short
        (b"\4\0\0" + bytes(29), ""),  # an empty label
        (b"\4\1\0a" + bytes(28), "b"),  # two labels
        (b"\4\1\4" + b"a" * 1025 + bytes(-1028 % 32), ""),  # one that is too long
        (b"\2" + bytes(31), ""),  # half a root
    ],
)
def test_what_a_member_sealed_that_no_uri_says_is_refused(more: bytes, label: str) -> None:
    with pytest.raises(InvalidUriError, match="says nothing that a URI can say"):
        opened(sealed_message(bytes(20) + more, label))


def test_what_a_newer_kacas_sealed_is_refused_as_such() -> None:
    with pytest.raises(NewerFormatError, match="newer kacas"):
        opened(sealed_message(bytes(20) + b"\x11" + bytes(31)))


def test_an_authentic_text_whose_nonce_is_another_is_refused() -> None:
    additional = module._additional(KEYS, b"")
    nonce = b"n" * 12
    sealed = nonce + crypto_aead_chacha20poly1305_ietf_encrypt(bytes(20), additional, nonce, KEYS.uri)
    assert opened(f"sha1-enc://{sealed.hex()}.{ID}") is None


@pytest.mark.parametrize(
    "text, hint",
    [
        ("sha1-enc://" + "0a" * 48 + ".ag_kfbpyxzdqe?label=recording.dat", "What kachery-cloud encrypted"),
        ("sha1-enc://" + "0a" * 48 + ".ag_abc", "What kachery-cloud encrypted"),
        (f"sha1-enc://{HEX.upper()}.{ID}", "hex digits must be lower case"),
        (f"sha1-enc://{HEX}.{ID.upper()}", "no access group of kacas"),
        (f"sha1-enc://{HEX}", "the group is missing"),
        (f"sha1-enc://{HEX}.", "no access group of kacas"),
        (f"sha1-enc://{HEX}.{ID[:-1]}", "no access group of kacas"),
        (f"sha1-enc://{HEX[:-2]}.{ID}", "94 hex digits"),
        (f"sha1-enc://{HEX[:64]}.{ID}", "64 hex digits"),
        (f"sha1-enc://.{ID}", "0 hex digits"),
        (f"sha1-enc://xyz.{ID}", "must be hex digits"),
        (f"sha1-enc://{HEX}.{ID}?root={'0' * 64}", "a root is inside"),
        (f"sha1-enc://{HEX}.{ID}?label=a&root={'0' * 64}", "the label is not as it was printed"),
        (f"sha1-enc://{HEX}.{ID}?label=", "the label is not as it was printed"),
        (f"sha1-enc://{HEX}.{ID}?label=a%2fb", "the label is not as it was printed"),
        (f"sha1-enc://{HEX}.{ID}?label=a b", "the label is not as it was printed"),
        (f"sha1-enc://{HEX}.{ID}?label=\ud800", "the label is not as it was printed"),
        (f"sha1-enc://{HEX}.{ID}?label=a\n", "white space"),
        (f"sha1-enc://{HEX}.{ID}\n", "remove the white space"),
        (f"sha1-enc://{HEX}.{ID}/a.npy ", "white space"),
        ("sha1-enc://" + "0" * MAX_URI_SIZE, "too long"),
    ],
    ids=lambda text: ascii(text)[-60:],
)
def test_a_near_miss_is_told_what_is_wrong_with_it(text: str, hint: str) -> None:
    with pytest.raises(InvalidUriError) as caught:
        parse_sealed_uri(text)
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 800


pieces = st.sampled_from([
    "sha1-enc://", HEX, HEX[:-1], HEX.upper(), ".", ".ag_", ID, GROUP.hex(), "?", "label=", "&", "/", "..", "%", "%41", " ", "\n",
    "é", "\udc80", "\ud800",
])  # fmt: skip


@given(st.text(max_size=80) | st.lists(pieces | st.text(max_size=3), max_size=9).map("".join))
def test_parsing_any_text_gives_a_sealed_uri_or_an_invalid_uri_error(text: str) -> None:
    try:
        sealed = parse_sealed_uri(text)
    except InvalidUriError as exc:
        assert str(exc)
        return
    assume(not sealed.path)
    query = "?label=" + quote(sealed.label, safe="") if sealed.label else ""
    assert text.rstrip("/") == f"sha1-enc://{sealed.sealed.hex()}.ag_{sealed.group_id.hex()}{query}".rstrip("/") or (
        "/" in text
    )


def test_a_uri_that_would_be_too_long_is_refused_before_it_is_handed_out() -> None:
    deep = DirectoryUri(bytes(20), "", tuple(bytes([97 + at % 26]) * 200 for at in range(50)))
    with pytest.raises(InvalidUriError, match="put the path behind it"):
        sealed_uri(deep, KEYS)


SHA1 = bytes(range(20))


@pytest.mark.parametrize(
    "uri, text",
    [
        (
            Uri(SHA1, "a b.npy"),
            "sha1-enc://c6a87078934e91c987de65ad9303e0eae40c9963e7eaad36f0653db2e946a86b3066690588c710fc6523345d70505def."
            "ag_000102030405060708090a0b0c0d0e0f?label=a%20b.npy",
        ),
        (
            Uri(SHA1, "a b.npy", bytes(range(32))),
            "sha1-enc://0133ecb298a43a8ff278a94b64370e52102aeebffd7071f8a367fad8f9aac1e0d3fd3115be8ccc16583585d68284d957ce4e62b1"
            "af5fac33225e5a0128721a5cf0462bcffed34c5d3c40cf51edf2a10fa41897d8e8b6896e6df5ecb3038099f0ddd72decfc77c6dd408a08593dee"
            "b286.ag_000102030405060708090a0b0c0d0e0f",
        ),
        (
            DirectoryUri(SHA1, "run7", (b"day 1", b"x.npy")),
            "sha1-enc://c6b752cd56917c2defa4a9cd0952ba1cce1f423c31084ac47a9819eac9f2559424a838727fad5cf822b2ba1b91c139fee22b7fb3"
            "2d987328567b7cebc1af294a49ccd0a341d8287a97f92b0f5f2e9ba8.ag_000102030405060708090a0b0c0d0e0f",
        ),
    ],
    ids=["file", "root and hidden label", "path and hidden label"],
)
def test_the_text_is_what_it_was(uri: Uri | DirectoryUri, text: str) -> None:
    keys = EpochKeys(bytes(range(16)), 1, bytes(range(32)))
    assert sealed_uri(uri, keys, hide_label="?" not in text) == text
