"""A version of a group's record: one text for what it says, no other is taken; boxes and rings open for whom they are for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas_remote.groups.edits import NewMember, founded
from kacas_remote.groups.record import (
    MAX_MEMBERS,
    MAX_VERSION_SIZE,
    Member,
    NewerRecordError,
    RecordFormatError,
    Version,
    decode_version,
    group_id_of,
    group_text,
    in_order,
    parse_group,
    signed,
    time_text,
)
from kacas_remote.sealing.epoch_keys import MAX_EPOCHS, EpochKeys
from kacas_remote.sealing.wrapping import (
    BOX_SIZE,
    UnopenedError,
    is_identity,
    new_secret,
    open_ring,
    ring_size,
    seal_ring,
    unwrap,
    wrap,
)
from kacas_remote.signing import PrivateKey, public_key

ANA, BEN = PrivateKey(b"a" * 32), PrivateKey(b"b" * 32)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", fullmatch=True)
VERSION = founded("lab", ANA, "ana", [NewMember(public_key(BEN), "ben")], "2026-11-27T01:30:00Z")


@st.composite
def versions(draw: st.DrawFn) -> Version:
    seeds = draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4, unique=True))
    names = draw(st.lists(NAMES, min_size=len(seeds), max_size=len(seeds), unique=True))
    keys = [PrivateKey(seed) for seed in seeds]
    box = st.binary(min_size=BOX_SIZE, max_size=BOX_SIZE)
    members = [
        Member(public_key(key), name, draw(st.booleans()), draw(box)) for key, name in zip(keys, names, strict=True)
    ]
    members[0] = replace(members[0], admin=True)
    epoch = draw(st.integers(1, 5))
    digest = st.binary(min_size=32, max_size=32)
    salt = draw(st.binary(min_size=16, max_size=16))
    version = Version(
        group_id=group_id_of(public_key(keys[0]), salt),
        salt=salt,
        name=draw(NAMES),
        number=draw(st.integers(1, 99_999_999)),
        previous=draw(digest),
        epoch=epoch,
        members=in_order(members),
        ring=draw(st.binary(min_size=ring_size(epoch), max_size=ring_size(epoch))),
        commitment=draw(digest),
        time=time_text(draw(st.integers(0, 2**33))),
        signer=public_key(keys[0]),
    )
    return signed(version, keys[0])


@given(version=versions())
def test_a_version_is_read_as_it_was_written(version: Version) -> None:
    assert decode_version(version.text) == version
    assert decode_version(version.text).digest == version.digest
    assert version.text.isascii()


def test_every_byte_that_is_altered_is_refused() -> None:
    text = VERSION.text
    for at in range(len(text)):
        for changed in {text[at] ^ 1, text[at] ^ 0x20, text[at] ^ 0x80, ord("0"), ord("a"), ord(" ")} - {text[at]}:
            with pytest.raises(RecordFormatError):
                decode_version(text[:at] + bytes([changed]) + text[at + 1 :])


@given(data=st.data())
def test_bytes_that_are_missing_doubled_or_added_are_refused(data: st.DataObject) -> None:
    text = VERSION.text
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    extra = data.draw(st.binary(min_size=1, max_size=8))
    for other in (text[:start] + text[stop:], text[:stop] + text[start:], text[:start] + extra + text[start:]):
        with pytest.raises(RecordFormatError):
            decode_version(other)


@given(data=st.binary(max_size=200))
def test_what_is_no_version_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(RecordFormatError, match=r"^its? "):
        decode_version(data)


def resigned(edit: Callable[[dict[str, Any]], Any], **form: Any) -> bytes:
    """The version with another first line, and ana's signature of that."""
    from kacas_remote.groups import record as module

    fields = json.loads(VERSION.line)
    changed = edit(fields)
    fields = fields if changed is None else changed
    line = json.dumps(fields, **({"sort_keys": True, "separators": (",", ":")} | form)).encode()
    return line + b"\n" + ANA.sign(module._DOMAIN + line).signature.hex().encode() + b"\n"


def test_what_is_signed_and_not_altered_is_taken() -> None:
    assert decode_version(resigned(lambda fields: None)) == VERSION


@pytest.mark.parametrize(
    "edit",
    [
        lambda fields: fields.pop("ring") and None,
        lambda fields: fields.update(more=1),
        lambda fields: fields.update(version=True),
        lambda fields: fields.update(version=1.0),
        lambda fields: fields.update(version=0),
        lambda fields: fields.update(version="1"),
        lambda fields: fields.update(version=100_000_000),
        lambda fields: fields.update(epoch=2),
        lambda fields: fields.update(epoch=MAX_EPOCHS + 1),
        lambda fields: fields.update(format=True),
        lambda fields: fields.update(format="1"),
        lambda fields: fields.update(format=0),
        lambda fields: fields.update(scheme=None),
        lambda fields: fields.update(name="a b"),
        lambda fields: fields.update(name="ä"),
        lambda fields: fields.update(name=""),
        lambda fields: fields.update(salt=fields["salt"].upper() + "00"),
        lambda fields: fields.update(salt=None),
        lambda fields: fields.update(commitment="٣" * 64),
        lambda fields: fields.update(group=fields["group"].upper()),
        lambda fields: fields.update(time="2026-02-30T01:30:00Z"),
        lambda fields: fields.update(time="2026-11-27 01:30:00Z"),
        lambda fields: fields.update(members=[]),
        lambda fields: fields.update(members={}),
        lambda fields: fields.update(members=[None]),
        lambda fields: fields.update(members=fields["members"][::-1]),
        lambda fields: fields.update(members=[fields["members"][0]] * 2),
        lambda fields: fields.update(members=fields["members"] * MAX_MEMBERS),
        lambda fields: [one.update(admin=False) for one in fields["members"]] and None,
        lambda fields: [one.update(admin=1) for one in fields["members"]] and None,
        lambda fields: [one.update(name="same") for one in fields["members"]] and None,
        lambda fields: fields["members"][0].update(box=""),
        lambda fields: fields["members"][0].update(more=""),
        lambda fields: fields["members"][0].update(key="00" * 32),
        lambda fields: [fields],
    ],
)
def test_what_no_version_says_is_refused_though_it_is_signed(edit: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(RecordFormatError) as caught:
        decode_version(resigned(edit))
    assert not isinstance(caught.value, NewerRecordError)


@pytest.mark.parametrize("form", [{"separators": (", ", ": ")}, {"sort_keys": False, "indent": None}, {"indent": 1}])
def test_another_text_of_the_same_is_refused_though_it_is_signed(form: dict[str, Any]) -> None:
    with pytest.raises(RecordFormatError):
        decode_version(resigned(lambda fields: dict(reversed(fields.items())), **form))


@pytest.mark.parametrize("change", [{"format": 2}, {"scheme": "kacas-group-2"}, {"format": 7, "scheme": 3, "new": {}}])
def test_a_version_of_a_newer_kacas_is_no_damage(change: dict[str, Any]) -> None:
    with pytest.raises(NewerRecordError) as caught:
        decode_version(resigned(lambda fields: fields.update(change)))
    assert caught.value.needed >= 2


def test_a_text_that_is_too_large_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(RecordFormatError, match="more than"):
        decode_version(b"[" * (MAX_VERSION_SIZE + 1))


def test_as_much_as_a_version_may_say_has_room_in_it() -> None:
    keys = EpochKeys(VERSION.group_id, MAX_EPOCHS, new_secret())
    longest = [Member(bytes([1]) * 32, "n" * 64, False, bytes(BOX_SIZE))] * MAX_MEMBERS
    version = replace(
        VERSION,
        name="n" * 64,
        number=99_999_999,
        epoch=MAX_EPOCHS,
        members=tuple(longest),
        ring=seal_ring(keys, [new_secret()] * (MAX_EPOCHS - 1)),
    )
    assert len(version.text) <= MAX_VERSION_SIZE


def test_ids_are_written_and_read() -> None:
    assert parse_group(group_text(b"g" * 16)) == b"g" * 16
    for text in ("", "ag_", "ag_" + "AB" * 16, "ag_" + "ab" * 17, " ag_" + "ab" * 16, "ag_" + "ab" * 16 + "\n"):
        assert parse_group(text) is None


@given(epoch=st.integers(1, MAX_EPOCHS), group_id=st.binary(min_size=16, max_size=16))
def test_a_box_opens_for_its_member_alone_and_only_as_what_it_is(epoch: int, group_id: bytes) -> None:
    keys = EpochKeys(group_id, epoch, new_secret())
    box = wrap(keys, public_key(ANA))
    assert len(box) == BOX_SIZE
    assert unwrap(box, ANA, group_id, epoch) == keys
    for own, named, number in (
        (BEN, group_id, epoch),
        (ANA, bytes([group_id[0] ^ 1]) + group_id[1:], epoch),
        (ANA, group_id, epoch + 1),
    ):
        with pytest.raises(UnopenedError):
            unwrap(box, own, named, number)


def test_every_byte_of_a_box_or_ring_that_is_altered_is_refused() -> None:
    keys = EpochKeys(b"g" * 16, 3, new_secret())
    before = [new_secret(), new_secret()]
    box, ring = wrap(keys, public_key(ANA)), seal_ring(keys, before)
    assert [one.secret for one in open_ring(keys, ring)] == before
    for at in range(len(box)):
        # The top bit of an X25519 key says nothing, but the box's nonce is made of all of its bytes.
        with pytest.raises(UnopenedError):
            unwrap(box[:at] + bytes([box[at] ^ 0x80]) + box[at + 1 :], ANA, keys.group_id, 3)
    for at in range(len(ring)):
        with pytest.raises(UnopenedError):
            open_ring(keys, ring[:at] + bytes([ring[at] ^ 1]) + ring[at + 1 :])
    for other in (
        EpochKeys(b"h" * 16, 3, keys.secret),
        EpochKeys(b"g" * 16, 3, new_secret()),
        EpochKeys(b"g" * 16, 2, keys.secret),
    ):
        with pytest.raises(UnopenedError):
            open_ring(other, ring)


def test_two_boxes_or_rings_of_one_secret_have_nothing_in_common() -> None:
    keys = EpochKeys(b"g" * 16, 2, new_secret())
    boxes = {wrap(keys, public_key(ANA))[:32] for _ in range(50)}
    assert len(boxes) == 50
    assert len({seal_ring(keys, [bytes(32)])[:24] for _ in range(50)}) == 50


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, b"\x02" + bytes(31), b"", b"k" * 31])
def test_what_is_no_key_of_a_person_is_known(key: bytes) -> None:
    assert not is_identity(key)
    assert is_identity(public_key(ANA))
