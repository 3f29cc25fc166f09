"""Feeds under attack: many processes that append and follow at once, kill -9 at every step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import kacas
from tests.faults import children, strace
from tests.faults.examination import open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[kacas.Store]:
    with open_store(tmp_path / "store", tmp_path / "cache", create=True) as opened:
        yield opened


@pytest.fixture
def feed(store: kacas.Store) -> kacas.Feed:
    return store.load_feed(store.create_feed())


def numbered(*numbers: int) -> list[dict[str, int]]:
    return [{"n": number} for number in numbers]


def append_many(store: Path, cache: Path, uri: str, worker: int, times: int) -> list[int]:
    """Returns the positions that its messages got."""
    with open_store(store, cache) as opened:
        feed = opened.load_feed(uri)
        return [feed.append_message({"worker": worker, "n": number}) for number in range(times)]


def follow(store: Path, cache: Path, uri: str, count: int) -> list[dict[str, int]]:
    with open_store(store, cache) as opened:
        feed = opened.load_feed(uri)
        found: list[dict[str, int]] = []
        while len(found) < count and (some := feed.get_next_messages(timeout_s=60)):
            found += some
        return found


def test_many_append_and_all_readers_read_all_once_in_one_order(store: kacas.Store, tmp_path: Path) -> None:
    uri = store.create_feed()
    arguments = (store.path, tmp_path / "cache", uri)
    readers = [children.fork(lambda: follow(*arguments, 120)) for _ in range(2)]
    writers = [children.fork(lambda worker=worker: append_many(*arguments, worker, 20)) for worker in range(6)]  # type: ignore[misc]
    positions = [writer.wait().get() for writer in writers]
    orders = [reader.wait().get() for reader in readers]
    assert orders[0] == orders[1] == list(store.load_feed(uri).messages())
    assert sorted((message["worker"], message["n"]) for message in orders[0]) == [
        (worker, number) for worker in range(6) for number in range(20)
    ]
    for worker in range(6):
        assert [orders[0][position] for position in positions[worker]] == [
            {"worker": worker, "n": number} for number in range(20)
        ]


CALLS = ("fchmod", "fsync", "pwritev,pwritev2", "link,linkat", "unlink,unlinkat")


@pytest.mark.parametrize("calls", CALLS)
def test_a_kill_at_any_step_leaves_all_or_nothing_of_a_batch(store: kacas.Store, feed: kacas.Feed, calls: str) -> None:
    known: list[dict[str, int]] = []
    for n in range(1, 12):
        outcome = strace.attach(
            lambda n=n: [feed.append_messages(numbered(n, n)), feed.append_messages(numbered(-n))],  # type: ignore[misc]
            strace.inject(calls, f"signal=SIGKILL:when={n}"),
        )
        found = list(store.load_feed(feed.uri).messages())
        more = found[len(known) :]
        assert found[: len(known)] == known
        assert more in ([], numbered(n, n), numbered(n, n, -n))
        assert outcome.killed_by or more == numbered(n, n, -n)
        known = found
        if not outcome.killed_by:
            assert n > 1
            return
    pytest.fail("one append makes more calls than was thought")
