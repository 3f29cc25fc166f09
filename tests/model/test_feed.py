"""Batches of messages, and the URIs of feeds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.errors import InvalidUriError, UnsupportedDataError
from kacas.model.feed import (
    MAX_BATCH_MESSAGES,
    MAX_MESSAGE_SIZE,
    BatchFormatError,
    MessageBatch,
    decode_batch,
    decode_message,
    encode_message,
    feed_uri,
    into_batches,
    parse_feed_uri,
)
from kacas.model.record import MAX_BODY_SIZE

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
batches = st.builds(
    MessageBatch,
    first=st.integers(0, 1 << 40),
    owner=texts,
    messages=st.lists(st.binary(max_size=30), max_size=8).map(tuple),
)


@given(batches)
def test_what_was_encoded_is_decoded(batch: MessageBatch) -> None:
    assert decode_batch(batch.encode()) == batch


@given(st.binary(max_size=80))
def test_other_bytes_are_refused_or_are_a_batch(data: bytes) -> None:
    try:
        batch = decode_batch(data)
    except BatchFormatError:
        return
    assert len(batch.encode()) == len(data)


@given(batches, st.integers(1, 30))
def test_a_part_of_a_batch_is_refused(batch: MessageBatch, cut: int) -> None:
    data = batch.encode()
    with pytest.raises(BatchFormatError):
        decode_batch(data[: max(0, len(data) - cut)])
    with pytest.raises(BatchFormatError):
        decode_batch(data + bytes(cut))


def test_a_count_that_cannot_be_is_refused_before_memory_is_taken() -> None:
    for count in (MAX_BATCH_MESSAGES + 1, (1 << 32) - 1, 3):
        with pytest.raises(BatchFormatError):
            decode_batch(struct.pack("<QIHxx", 0, count, 0))
    with pytest.raises(BatchFormatError):
        decode_batch(struct.pack("<QIHxx", (1 << 63) + 5, 0, 0))


@given(st.dictionaries(texts, values, max_size=4))
def test_a_message_is_the_same_object_again(message: dict[str, object]) -> None:
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize("message", [[1], "text", 3, None, {"a": float("nan")}, {"a": b"x"}, {"a": "\ud800"}, {1j: 2}])
def test_what_is_no_json_object_is_refused(message: object) -> None:
    with pytest.raises(UnsupportedDataError):
        encode_message(message)


def test_a_message_that_is_too_large_or_too_deep_is_refused() -> None:
    assert encode_message({"a": "x" * (MAX_MESSAGE_SIZE - 8)})
    with pytest.raises(UnsupportedDataError, match="at most"):
        encode_message({"a": "x" * (MAX_MESSAGE_SIZE - 7)})
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(UnsupportedDataError):
        encode_message(deep)


@pytest.mark.parametrize("data", [b"[1]", b"3", b"{", b"\xff", b'{"a":' * 100_000])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(BatchFormatError):
        decode_message(data)


@given(st.lists(st.sampled_from([1, 1000, 400_000, MAX_MESSAGE_SIZE]).map(bytes), max_size=20))
def test_groups_fit_into_records_and_nothing_is_lost(messages: list[bytes]) -> None:
    groups = list(into_batches(messages, "o" * 256))
    assert [message for group in groups for message in group] == messages
    assert all(len(MessageBatch(0, "o" * 256, group).encode()) <= MAX_BODY_SIZE for group in groups)


def test_a_group_has_a_bounded_number_of_messages() -> None:
    groups = list(into_batches([b"{}"] * (MAX_BATCH_MESSAGES + 1), "o"))
    assert [len(group) for group in groups] == [MAX_BATCH_MESSAGES, 1]


def test_the_uri_of_a_feed_is_its_id_behind_the_scheme() -> None:
    assert parse_feed_uri(feed_uri("0f" * 16)) == "0f" * 16
    for wrong in (
        "0f" * 16,
        feed_uri("0F" * 16),
        feed_uri("0f" * 15),
        feed_uri("../" * 4),
        feed_uri("0f" * 16) + "\n",
        "",
        7,
    ):
        with pytest.raises(InvalidUriError):
            parse_feed_uri(wrong)  # type: ignore[arg-type]
