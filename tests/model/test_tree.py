"""The tree document: canonical, strict, and free of names that could leave the directory."""

from __future__ import annotations

import json

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from kacas.model.tree import (
    MAX_NAME_SIZE,
    EntryType,
    NewerTreeError,
    TreeEntry,
    TreeError,
    check_name,
    decode_tree,
    encode_tree,
)

SHA1 = bytes(range(20))
names = st.binary(min_size=1, max_size=40).filter(lambda name: name not in (b".", b"..") and not {47, 0} & set(name))
names = names | st.text(min_size=1, max_size=9).map(lambda text: text.encode("utf-8", "replace")).filter(
    lambda name: name not in (b".", b"..") and not {47, 0} & set(name)
)
hashes = st.binary(min_size=20, max_size=20)
sizes = st.integers(0, (1 << 63) - 1)
entries = st.one_of(
    st.builds(TreeEntry, names, st.just(EntryType.FILE), hashes, sizes, st.booleans(), st.just(b"")),
    st.builds(TreeEntry, names, st.just(EntryType.DIRECTORY), hashes, sizes, st.just(False), st.just(b"")),
    st.builds(
        lambda name, target: TreeEntry(name, EntryType.LINK, target=target),
        names,
        st.binary(min_size=1, max_size=50).filter(lambda target: b"\0" not in target),
    ),
)
directories = st.lists(entries, max_size=12, unique_by=lambda entry: entry.name)


@given(directories)
def test_a_document_is_read_back_whatever_the_order(found: list[TreeEntry]) -> None:
    document = encode_tree(found)
    assert document == encode_tree(found[::-1])
    assert decode_tree(document) == tuple(sorted(found, key=lambda entry: entry.name))


@given(directories)
def test_a_document_is_what_store_json_would_write(found: list[TreeEntry]) -> None:
    document = encode_tree(found)
    value = json.loads(document)
    assert simplejson.dumps(value, sort_keys=True, separators=(",", ":")).encode() == document


def test_the_exact_bytes_of_a_document() -> None:
    document = encode_tree(
        [
            TreeEntry(b"run.sh", EntryType.FILE, SHA1, 12, True),
            TreeEntry("é".encode(), EntryType.FILE, SHA1, 0),
            TreeEntry(b"\xff", EntryType.LINK, target=b"run.sh"),
            TreeEntry(b"sub", EntryType.DIRECTORY, SHA1, 54),
        ]
    )
    hexed = SHA1.hex()
    assert document.decode() == (
        '{"entries":['
        f'{{"executable":true,"name":"run.sh","sha1":"{hexed}","size":12,"type":"file"}},'
        f'{{"name":"sub","sha1":"{hexed}","size":54,"type":"directory"}},'
        f'{{"name":"\\u00e9","sha1":"{hexed}","size":0,"type":"file"}},'
        '{"name_base64":"/w==","target":"run.sh","type":"link"}'
        '],"format":"kacas directory","version":1}'
    )
    assert encode_tree([]) == b'{"entries":[],"format":"kacas directory","version":1}'


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"/etc", b"x" * (MAX_NAME_SIZE + 1), b"x" * 4096]
)
def test_a_name_that_could_leave_the_directory_is_refused(name: bytes) -> None:
    with pytest.raises(TreeError):
        check_name(name)
    entry = TreeEntry(b"good", EntryType.FILE, SHA1, 1)
    with pytest.raises(TreeError):
        encode_tree([entry._replace(name=name)])
    good = encode_tree([entry]).decode()
    for bad in (json.dumps(name.decode("latin-1")),):
        with pytest.raises(TreeError):
            decode_tree(good.replace('"good"', bad).encode())


ROW = f'{{"name":"a","sha1":"{SHA1.hex()}","size":1,"type":"file"}}'


def document(rows: str, tail: str = '"format":"kacas directory","version":1') -> bytes:
    return f'{{"entries":[{rows}],{tail}}}'.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b"null", b'{"entries":[', b'{"entries":[]}', b'{"entries":[1],"format":"kacas directory","version":1}',
        document("", '"format":"kacas directory"'),
        document("", '"format":"kacas directory","version":"1"'),
        document("", '"format":"kacas directory","version":0'),
        document("", '"format":"something","version":1'),
        document(f"{ROW},{ROW}"),
        document(ROW.replace('"a"', '"b"') + "," + ROW),
        document(ROW) + b"\n",
        document(ROW.replace(",", ", ")),
        document(ROW.replace('"a"', '"\\u0061"')),
        document(ROW.replace('"name":"a"', '"name_base64":"YQ=="')),
        document(ROW.replace('"name":"a"', '"name_base64":"Y"')),
        document(ROW.replace('"size":1', '"size":-1')),
        document(ROW.replace('"size":1', '"size":1.0')),
        document(ROW.replace('"size":1', '"size":true')),
        document(ROW.replace('"size":1', f'"size":{1 << 63}')),
        document(ROW.replace('"file"', '"socket"')),
        document(ROW.replace('"type":"file"', '"extra":1,"type":"file"')),
        document(ROW.replace(SHA1.hex(), SHA1.hex().upper())),
        document(ROW.replace(SHA1.hex(), "00")),
        document(ROW.replace('{"name"', '{"executable":false,"name"')),
        document(ROW.replace('{"name"', '{"executable":true,"name"').replace('"file"', '"directory"')),
        document(ROW + ","),
        document("," + ROW),
        document(ROW + ROW.replace('"a"', '"b"')),
        document(ROW.replace('"a"', '"\\u00E9"')),
        document(ROW.replace('"a"', '"\\u00"')),
        document(ROW.replace('"a"', '"\\/"')),
        document(ROW.replace('"size":1', '"size":01')),
        document(ROW.replace('"name":"a"', '"name_base64":"/x=="')),
        document('{"executable":true,"name":"a","target":"b","type":"link"}'),
        document('{"name":"a","target":"","type":"link"}'),
        document('{"name":"a","target":"b\\u0000","type":"link"}'),
        document('{"name":"\\ud800","target":"b","type":"link"}'),
        document('{"name":7,"target":"b","type":"link"}'),
        b'{"entries":[' + b"[" * 100_000,
        "{\"entries\":[\"é".encode(),
    ],
)  # fmt: skip
def test_what_is_not_exactly_a_document_is_refused(data: bytes) -> None:
    with pytest.raises(TreeError):
        decode_tree(data)


def test_a_newer_document_says_which_version_it_needs() -> None:
    with pytest.raises(NewerTreeError) as caught:
        decode_tree(document("", '"format":"kacas directory","version":7'))
    assert caught.value.needed == 7


@given(directories.filter(bool), st.data())
def test_no_flipped_byte_is_read_as_the_same_directory(found: list[TreeEntry], data: st.DataObject) -> None:
    good = encode_tree(found)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert decode_tree(bytes(bad)) != decode_tree(good)
    except TreeError:
        pass
