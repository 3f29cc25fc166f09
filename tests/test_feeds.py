"""Feeds: many append, everybody reads every message once and in one order, and what was altered is noticed."""

from __future__ import annotations

import errno
import math
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kacas
from kacas.disk.records import RecordKind, Sequences
from kacas.model.feed import MessageBatch
from tests.faults import children
from tests.faults.examination import open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[kacas.Store]:
    with open_store(tmp_path / "store", tmp_path / "cache", create=True) as opened:
        yield opened


@pytest.fixture
def feed(store: kacas.Store) -> kacas.Feed:
    return store.load_feed(store.create_feed())


def place(store: kacas.Store, feed: kacas.Feed) -> Path:
    return store.path / "feeds" / feed.uri.removeprefix("kachery-feed://")


def numbered(*numbers: int) -> list[dict[str, int]]:
    return [{"n": number} for number in numbers]


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_messages_are_read_once_and_in_order(store: kacas.Store, feed: kacas.Feed) -> None:
    assert feed.get_next_messages() == []
    assert feed.append_message({"n": 0}) == 0
    assert feed.append_messages(numbered(1, 2)) == 1
    assert feed.append_messages([]) == 3
    assert feed.message_count() == 3
    assert feed.get_next_messages() == numbered(0, 1, 2)
    assert feed.get_next_messages() == []
    assert feed.position == 3
    feed.append_message({"n": 3})
    assert feed.get_next_messages() == numbered(3)
    assert list(feed.messages()) == list(store.load_feed(feed.uri).messages()) == numbered(0, 1, 2, 3)
    assert feed.position == 4


def test_any_position_is_found(store: kacas.Store, feed: kacas.Feed) -> None:
    chosen = random.Random(5)
    total = 0
    for _ in range(25):
        count = chosen.randint(1, 5)
        feed.append_messages(numbered(*range(total, total + count)))
        total += count
    for position in [*range(total + 1), *chosen.choices(range(total), k=30)]:
        feed.set_position(position)
        assert feed.position == position
        assert feed.get_next_messages() == numbered(*range(position, total))
        assert list(feed.messages(position)) == numbered(*range(position, total))
    with pytest.raises(ValueError, match="0 or more"):
        feed.set_position(-1)
    with pytest.raises(TypeError):
        feed.set_position(1.5)  # type: ignore[arg-type]


def test_a_position_that_is_still_to_come_is_waited_for(feed: kacas.Feed) -> None:
    feed.set_position(2)
    feed.append_message({"n": 0})
    assert feed.get_next_messages() == []
    assert feed.position == 2
    feed.append_messages(numbered(1, 2, 3))
    assert feed.get_next_messages() == numbered(2, 3)


def test_reading_on_does_not_read_what_was_read(
    store: kacas.Store, feed: kacas.Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = store.load_feed(feed.uri)
    feed.append_messages(numbered(0))
    reader.get_next_messages()
    for path in place(store, feed).iterdir():
        rewrite(path, b"damaged")  # whoever read it again would say so
    number = feed.append_messages(numbered(1, 2))
    assert number == 1
    assert reader.get_next_messages() == numbered(1, 2)


def test_waiting_ends_when_a_message_comes_or_the_time_is_over(store: kacas.Store, feed: kacas.Feed) -> None:
    begun = time.monotonic()
    assert feed.get_next_messages(timeout_s=0.2) == []
    assert time.monotonic() - begun >= 0.2
    writer = store.load_feed(feed.uri)
    later = threading.Timer(0.2, writer.append_message, [{"n": 0}])
    later.start()
    assert feed.get_next_messages(timeout_s=math.inf) == numbered(0)
    later.join()
    for wrong in (-1, math.nan):
        with pytest.raises(ValueError, match="time to wait"):
            feed.get_next_messages(timeout_s=wrong)


def test_much_comes_in_parts_of_bounded_size(feed: kacas.Feed) -> None:
    messages = [{"n": number, "text": "x" * 900_000} for number in range(14)]
    feed.append_messages(messages)
    parts = []
    while part := feed.get_next_messages():
        parts.append(part)
    assert [message for part in parts for message in part] == messages
    assert all(len(part) < 14 for part in parts)


def nested(depth: int) -> dict[str, Any]:
    message: dict[str, Any] = {}
    for _ in range(depth - 1):
        message = {"n": message}
    return message


def test_what_cannot_be_a_message_is_refused_and_nothing_is_appended(feed: kacas.Feed) -> None:
    names = ({1: "a", "1": "b"}, {"n": [{None: 1}]})  # JSON would make text of them
    for wrong in ({"n": math.nan}, "text", [1], {"n": b"x"}, {"n": "x" * (1 << 20)}, nested(201), *names):
        with pytest.raises(kacas.UnsupportedDataError):
            feed.append_messages([{"n": 0}, wrong])  # type: ignore[list-item]
    assert feed.message_count() == 0
    feed.append_messages([nested(200), {"n": [{}] * 300}])
    assert feed.get_next_messages() == [nested(200), {"n": [{}] * 300}]


def test_a_feed_that_is_not_there_is_not_made(store: kacas.Store, feed: kacas.Feed) -> None:
    absent = "kachery-feed://" + 32 * "0"
    with pytest.raises(kacas.FeedNotFoundError) as caught:
        store.load_feed(absent)
    assert caught.value.uri == absent
    with pytest.raises(kacas.InvalidUriError):
        store.load_feed("sha1://" + 40 * "0")
    shutil.rmtree(place(store, feed))
    for gone in (feed.get_next_messages, lambda: feed.append_message({})):
        with pytest.raises((kacas.FeedNotFoundError, kacas.DamagedRecordError)):
            gone()
    assert not place(store, feed).exists()


def test_what_killed_writers_left_is_swept_and_no_batch_is(store: kacas.Store, feed: kacas.Feed) -> None:
    left = place(store, feed) / ".9.tmp.host.1.ab"
    left.write_bytes(b"part")
    for path in (left, place(store, feed) / "1"):
        os.utime(path, (0, 0))
    for number in range(63):
        feed.append_message({"n": number})
    assert not left.exists()
    assert list(feed.messages()) == numbered(*range(63))


def test_who_knows_the_end_appends_without_listing(
    store: kacas.Store, feed: kacas.Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    names = Sequences.names

    def listing(self: Sequences, directory: str) -> list[str]:
        listed.append(directory)
        return names(self, directory)

    other = store.load_feed(feed.uri)
    monkeypatch.setattr(Sequences, "names", listing)
    for number in range(3):
        feed.append_message({"n": number})
    assert listed == []
    assert other.append_message({"n": 3}) == 3  # it has to look, as it does not know the end any more
    assert set(listed) == {f"feeds/{place(store, feed).name}"}
    assert list(feed.messages()) == numbered(0, 1, 2, 3)


def test_a_flipped_bit_in_any_byte_is_noticed(store: kacas.Store, feed: kacas.Feed) -> None:
    feed.append_messages(numbered(0, 1))
    path = place(store, feed) / "2"
    good = path.read_bytes()
    for at in range(len(good)):
        rewrite(path, good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        for failing in (
            lambda: list(feed.messages()),
            lambda: store.load_feed(feed.uri),
        ):
            with pytest.raises((kacas.DamagedRecordError, kacas.NewerFormatError)) as caught:
                failing()
            assert str(path) in str(caught.value)
    rewrite(path, good)
    assert list(feed.messages()) == numbered(0, 1)


@pytest.mark.parametrize(
    "batch",
    [
        b"",
        MessageBatch(7, "ada", ()).encode(),
        MessageBatch(0, "ada", (b"[1]",)).encode(),
        MessageBatch(0, "ada", (b"{",)).encode(),
    ],
    ids=["empty", "another position", "no object", "no JSON"],
)
def test_a_sound_record_that_holds_no_messages_is_damage(store: kacas.Store, feed: kacas.Feed, batch: bytes) -> None:
    name = f"feeds/{place(store, feed).name}"
    Sequences(store.repository.volume).sequence(name, RecordKind.FEED).append(batch)
    with pytest.raises(kacas.DamagedRecordError, match=f"{name}/2"):
        list(feed.messages())


def test_a_batch_that_was_removed_is_named(store: kacas.Store, feed: kacas.Feed) -> None:
    for number in range(6):
        feed.append_message({"n": number})
    reader = store.load_feed(feed.uri)
    os.unlink(place(store, feed) / "4")
    for failing in (
        lambda: list(feed.messages()),
        reader.get_next_messages,
        lambda: reader.message_count(),
        lambda: store.load_feed(feed.uri),
    ):
        with pytest.raises(kacas.DamagedRecordError) as caught:
            failing()
        assert caught.value.number == 4
        assert caught.value.path == str(place(store, feed) / "4")


def test_a_batch_that_was_exchanged_for_a_sound_one_is_noticed(store: kacas.Store, feed: kacas.Feed) -> None:
    """Even by somebody who computes the checks anew."""
    for number in range(4):
        feed.append_message({"n": number})
    sequence = Sequences(store.repository.volume).sequence(f"feeds/{place(store, feed).name}", RecordKind.FEED)
    third, second = sequence.read(3), sequence.read(2)
    assert third
    assert second
    os.unlink(place(store, feed) / "3")
    assert sequence.create(second.mark, MessageBatch(1, "ada", (b'{"n":7}',)).encode())
    with pytest.raises(kacas.DamagedRecordError) as caught:
        list(feed.messages())
    assert caught.value.number == 3
    os.unlink(place(store, feed) / "3")
    (place(store, feed) / "3").write_bytes(_forged(third.encode(), b'{"n":1}', b'{"n":7}'))
    with pytest.raises(kacas.DamagedRecordError) as caught:
        list(feed.messages())
    assert caught.value.number == 3


def _forged(data: bytes, old: bytes, new: bytes) -> bytes:
    from blake3 import blake3

    body = data[:-16].replace(old, new)
    assert body != data[:-16]
    return body + blake3(body).digest(16)


def test_who_has_seen_the_end_notices_that_it_was_removed(store: kacas.Store, feed: kacas.Feed) -> None:
    for number in range(3):
        feed.append_message({"n": number})
    reader = store.load_feed(feed.uri)
    assert reader.get_next_messages() == numbered(0, 1, 2)
    os.unlink(place(store, feed) / "4")
    for failing in (reader.get_next_messages, lambda: reader.append_message({}), lambda: feed.append_message({})):
        with pytest.raises(kacas.DamagedRecordError) as caught:
            failing()
        assert caught.value.number == 4
    # Who has not cannot know.
    assert store.load_feed(feed.uri).get_next_messages() == numbered(0, 1)


def test_a_feed_of_a_store_that_cannot_be_written_to_can_be_read(store: kacas.Store, tmp_path: Path) -> None:
    feed = store.load_feed(store.create_feed())
    feed.append_message({"n": 0})
    store.path.chmod(0o755)
    for part in (tmp_path, *tmp_path.parents):
        if part.stat().st_uid == os.getuid() and part != Path("/"):
            part.chmod(part.stat().st_mode | 0o055)

    def look() -> list[dict[str, object]]:
        children.become_nobody(tmp_path)
        with open_store(store.path, Path("/var/tmp") / f"kacas-test-{os.getpid()}") as opened:
            with pytest.raises(kacas.ReadOnlyStoreError):
                opened.load_feed(feed.uri).append_message({})
            with pytest.raises(kacas.ReadOnlyStoreError):
                opened.create_feed()
            shutil.rmtree(opened.repository.cache.parent, ignore_errors=True)
            return opened.load_feed(feed.uri).get_next_messages()

    assert children.run(look).get() == numbered(0)


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO, errno.ETIMEDOUT], ids=errno.errorcode.get)
def test_a_lost_reply_of_link_doubles_no_message(
    feed: kacas.Feed, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    feed.append_message({"n": 0})
    feed.append_message({"n": 1})
    assert list(feed.messages()) == numbered(0, 1)
