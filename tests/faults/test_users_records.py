"""Several real users and one store: its mutables and feeds are theirs in common, whoever made them and with what umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import kacas
from tests.faults.lab import Lab, NoLabError, User, lab_in, people


@pytest.fixture
def lab(open_place: Path) -> Iterator[Lab]:
    # Modules are read by root: a user may not be let into the place where they are.
    with kacas.Store.open(open_place / "warm") as store:
        store.set_mutable("@a/key", "value")
        store.load_feed(store.create_feed()).append_message({})
    try:
        with people() as (group, names):
            yield lab_in(open_place, group, names)
    except NoLabError as exc:
        pytest.skip(str(exc))


@pytest.fixture(params=[False, True], ids=["plain", "sticky"])
def shared(lab: Lab, request: pytest.FixtureRequest) -> Lab:
    sticky = bool(request.param)
    lab.ada.act(lambda: kacas.Store.create(lab.store, group=lab.group, sticky=sticky, world_readable=True).close())
    return lab


def create_feed(user: User, store: Path) -> str:
    def create() -> str:
        with kacas.Store.open(store, create=False) as opened:
            return opened.create_feed()

    return str(user.act(create))


def work(store: Path, uri: str, name: str, times: int) -> None:
    """Count up one mutable and append to one feed, each time beside a mutable of one's own in a common folder."""
    with kacas.Store.open(store, create=False) as opened:
        feed = opened.load_feed(uri)
        for number in range(times):
            while True:
                found = opened.get_mutable("@lab/@common/counter", default=None)
                try:
                    opened.set_mutable("@lab/@common/counter", str(int(found or 0) + 1), expect=found)
                    break
                except kacas.MutableConflictError:
                    pass
            feed.append_message({"by": name, "n": number})
            opened.set_mutable(f"@lab/@folder {number}/{name}", "mine")


def test_members_change_the_same_mutables_and_feeds_at_once(shared: Lab) -> None:
    uri = create_feed(shared.ben, shared.store)
    users = {"ada": shared.ada, "ben": shared.ben, "dan": shared.dan}
    running = [
        user.start(lambda name=name: work(shared.store, uri, name, 12))  # type: ignore[misc]
        for name, user in users.items()
    ]
    for one in running:
        one.wait().get()

    def look() -> tuple[str, list[dict[str, object]], int]:
        with kacas.Store.open(shared.store, create=False) as opened:
            return (
                opened.get_mutable("@lab/@common/counter"),
                list(opened.load_feed(uri).messages()),
                len(opened.list_mutables("@lab")),
            )

    counter, messages, keys = shared.cleo.act(look)
    assert (counter, keys) == ("36", 37)
    for name in users:
        assert [message["n"] for message in messages if message["by"] == name] == list(range(12))
    for top in ("refs", "feeds"):
        for place, _, files in os.walk(shared.store / top):
            status = os.stat(place)
            assert status.st_gid == shared.gid, place
            assert stat.S_IMODE(status.st_mode) & 0o2775 == 0o2775, place
            for name in files:
                status = os.stat(os.path.join(place, name))
                assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (shared.gid, 0o444), name


def test_who_is_no_member_reads_and_is_refused_in_words(shared: Lab) -> None:
    uri = create_feed(shared.ada, shared.store)
    shared.ada.act(lambda: work(shared.store, uri, "ada", 1))

    def try_it() -> list[str]:
        with kacas.Store.open(shared.store, create=False) as opened:
            assert opened.get_mutable("@lab/@common/counter") == "1"
            refused = []
            for change in (
                lambda: opened.set_mutable("@lab/@common/counter", "7"),
                lambda: opened.set_mutable("@lab/new", "7"),
                lambda: opened.delete_mutable("@lab/@common/counter"),
                lambda: opened.load_feed(uri).append_message({}),
                lambda: opened.create_feed(),
            ):
                with pytest.raises(kacas.ReadOnlyStoreError) as caught:
                    change()
                refused.append(str(caught.value))
            return refused

    words = shared.cleo.act(try_it)
    assert all(shared.group in text for text in words), words


def test_setting_succeeds_where_only_the_makers_may_remove_old_generations(shared: Lab) -> None:
    def set_many() -> None:
        with kacas.Store.open(shared.store, create=False) as opened:
            for number in range(150):
                opened.set_mutable("key", str(number))

    shared.ada.act(set_many)
    place = shared.store / "refs/key"
    for number in range(1, 151):
        os.utime(place / str(number), ns=(0, 0))
    shared.ben.act(set_many)
    sticky = os.stat(place).st_mode & stat.S_ISVTX
    assert (place / "1").exists() == bool(sticky)
    assert (place / "300").exists()
