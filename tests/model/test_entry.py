"""Entries: exact round trip, and no bit of one can change unnoticed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.model.entry import (
    MAX_ENTRY_SIZE,
    MAX_OWNER_SIZE,
    MAX_PATH_SIZE,
    SHA1_OFFSET,
    Action,
    Entry,
    EntryError,
    Kind,
    decode_entry,
    encode_members,
    entry_rows,
)
from kacas.model.uri import MAX_LABEL_SIZE


def ids(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


byte = st.integers(0, 255)
entries = st.builds(
    Entry, entry_id=ids(16), sha1=ids(20), root=ids(32), size=st.integers(0, 2**64 - 1),
    time_ns=st.integers(-(2**63), 2**63 - 1), kind=byte, owner=st.binary(max_size=MAX_OWNER_SIZE),
    label=st.binary(max_size=MAX_LABEL_SIZE), action=byte, origin=byte, proof=byte,
    cancels=st.lists(ids(16), max_size=5).map(tuple),
)  # fmt: skip

ENTRY = Entry(b"i" * 16, b"s" * 20, b"r" * 32, 12345, 1_700_000_000_000_000_000, Kind.NPY, "käthe".encode(), b"a.npy")
CANCEL = ENTRY._replace(action=Action.FORGET, root=bytes(32), label=b"", cancels=(b"1" * 16, b"2" * 16))


@settings(deadline=None)
@given(entries)
def test_an_entry_comes_back_as_it_was(entry: Entry) -> None:
    data = entry.encode()
    assert decode_entry(data) == (entry, len(data))
    assert len(data) <= MAX_ENTRY_SIZE
    assert data[SHA1_OFFSET : SHA1_OFFSET + 20] == entry.sha1


@settings(deadline=None)
@given(
    st.lists(st.tuples(ids(16), ids(20), ids(32), st.integers(0, 2**64 - 1)), max_size=5),
    byte,
    st.integers(0, 2**63 - 1),
)
def test_members_encoded_at_once_are_the_entries_encoded_one_by_one(
    members: list[tuple[bytes, bytes, bytes, int]], kind: int, time_ns: int
) -> None:
    one_by_one = [
        Entry(entry_id, *layout, time_ns, kind, b"", b"", Action.MEMBER).encode() for entry_id, *layout in members
    ]
    joined = b"".join(entry_id for entry_id, *_ in members)
    assert encode_members([(sha1, root, size) for _, sha1, root, size in members], kind, time_ns, joined) == one_by_one


def test_members_and_ids_that_do_not_match_in_number_are_our_own_mistake() -> None:
    layouts = [(b"s" * 20, b"r" * 32, 5)] * 2
    for count in (1, 3):
        with pytest.raises(ValueError, match="zip"):
            encode_members(layouts, Kind.FILE, 1, b"i" * 16 * count)


@settings(deadline=None)
@given(st.lists(entries, max_size=5))
def test_rows_of_entries_say_what_each_is_about(several: list[Entry]) -> None:
    data = b"".join(entry.encode() for entry in several)
    assert list(entry_rows(data)) == [(e.entry_id, e.sha1, e.action, e.encode()) for e in several]


@settings(deadline=None)
@given(st.lists(entries, max_size=4), entries, st.integers(0, 1 << 20))
def test_rows_of_entries_end_before_one_that_is_cut_short(several: list[Entry], last: Entry, cut: int) -> None:
    whole, rest = [entry.encode() for entry in several], last.encode()
    assert [encoded for *_, encoded in entry_rows(b"".join([*whole, rest[: cut % len(rest)]]))] == whole


@pytest.mark.parametrize("size", [0, 107, MAX_ENTRY_SIZE + 1, (1 << 32) - 1])
def test_a_size_that_no_entry_has_is_refused(size: int) -> None:
    with pytest.raises(EntryError, match=f"declares {size} bytes"):
        list(entry_rows(ENTRY.encode() + size.to_bytes(4, "little") + CANCEL.encode()[4:]))


@settings(deadline=None)
@given(st.lists(entries, min_size=1, max_size=4), st.binary(max_size=10))
def test_entries_follow_one_another_without_separators(several: list[Entry], behind: bytes) -> None:
    data = b"".join(entry.encode() for entry in several) + behind
    at = 0
    for entry in several:
        found, at = decode_entry(memoryview(data), at)
        assert found == entry
    assert at == len(data) - len(behind)


@pytest.mark.parametrize("entry", [ENTRY, CANCEL], ids=["keep", "forget"])
def test_any_flipped_bit_of_an_entry_is_detected(entry: Entry) -> None:
    data = entry.encode()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EntryError):
            decode_entry(flipped + b"what follows in the table")


@pytest.mark.parametrize("entry", [ENTRY, CANCEL], ids=["keep", "forget"])
def test_an_entry_that_is_cut_short_is_refused(entry: Entry) -> None:
    data = entry.encode()
    for size in range(len(data)):
        with pytest.raises(EntryError):
            decode_entry(data[:size])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 500))
def test_any_bytes_are_an_entry_or_an_entry_error(data: bytes, start: int) -> None:
    with pytest.raises(EntryError):
        decode_entry(data, start)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_sizes_that_contradict_each_other_are_refused_before_anything_is_read(data: st.DataObject) -> None:
    fields = struct.Struct("<HHI")  # owner, label and number of cancelled entries, at the end of the fixed part
    at = 4 + 16 + 20 + 32 + 8 + 8 + 4
    encoded = bytearray(CANCEL.encode())
    good = fields.unpack_from(encoded, at)
    sizes = data.draw(st.tuples(*(st.integers(0, 2 ** (8 * n) - 1) for n in (2, 2, 4))).filter(lambda s: s != good))
    fields.pack_into(encoded, at, *sizes)
    with pytest.raises(EntryError):
        decode_entry(encoded)


@pytest.mark.parametrize(
    "entry",
    [
        ENTRY._replace(owner=b"o" * (MAX_OWNER_SIZE + 1)),
        ENTRY._replace(label=b"l" * (MAX_LABEL_SIZE + 1)),
        ENTRY._replace(label=b"p" * (MAX_PATH_SIZE + 1), action=Action.ADOPTED),
        CANCEL._replace(cancels=(b"c" * 16,) * ((1 << 16) + 1)),
    ],
    ids=["owner", "label", "path", "cancels"],
)
def test_what_could_not_be_decoded_is_never_encoded(entry: Entry) -> None:
    # One such entry would make the whole table of its pack unreadable.
    try:
        data = entry.encode()
    except ValueError:
        return
    assert decode_entry(data)[0] == entry


def test_the_label_of_an_adopted_entry_may_be_as_long_as_a_path() -> None:
    entry = ENTRY._replace(label=b"/" + b"p" * (MAX_PATH_SIZE - 1), action=Action.ADOPTED)
    assert decode_entry(entry.encode())[0] == entry
    assert len(entry.encode()) <= MAX_ENTRY_SIZE


def test_an_entry_says_its_fields_in_words() -> None:
    assert (ENTRY.kind_name, ENTRY.label_text, ENTRY.owner_text) == ("npy", "a.npy", "käthe")
    assert ENTRY._replace(kind=77).kind_name == "kind-77"
    assert ENTRY._replace(label=b"\xff.bin").label_text == "\udcff.bin"
    assert ENTRY._replace(owner=b"\xff").owner_text == "\ufffd"
