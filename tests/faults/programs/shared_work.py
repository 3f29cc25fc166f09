"""Kinds of work that many processes of several hosts do at once on one store, and how to see that nothing went wrong.

Each `work` runs in every process; what it says is heard by all, and `check` looks for it in the end. An error that is not
one of kacas's own ends the process, and so the test; those that are, are returned.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import kacas
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.push import push
from kacas_remote.remote import new_remote
from tests.faults import contents
from tests.remote.filled import upstream_on
from tests.remote.logged import LoggedBlobs, downloaded

PATIENCE_S = 150  # longer than any cache of a client lasts: what is not seen by then is lost

Event = dict[str, Any]
Said = dict[str, list[Event]]
Result = dict[str, Any]


class Talk(Protocol):
    """See on_hosts.py."""

    name: str
    others: list[str]

    def say(self, **event: Any) -> None: ...
    def heard(self) -> Iterable[Event]: ...
    def meet(self) -> None: ...


class Kind(NamedTuple):
    work: Callable[[kacas.Store, Talk, float], Result]
    check: Callable[[kacas.Store, Said, dict[str, Result]], None]
    open: Callable[[Path], kacas.Store] = kacas.Store.open


# --- contents: stored and loaded ------------------------------------------------------------


def content(label: str) -> contents.Content:
    """Of a kind and size that follow from the number in its label."""
    number = int(label.rpartition("-")[2])
    if number % 10 == 9:
        return contents.noise(label, 3 * contents.MIB // 128)
    if number % 3 == 2:
        return contents.random_bytes(label, 5000 * (number % 7))
    return (contents.json if number % 3 else contents.text)(label)


def see(store: kacas.Store, uri: str) -> int:
    """Ask until the content is seen here; how often it was not. Raises NotFoundError after PATIENCE_S."""
    end, misses = time.monotonic() + PATIENCE_S, 0
    while not store.exists(uri):
        misses += 1
        if time.monotonic() > end:
            raise kacas.NotFoundError(f"{uri} is not seen after {PATIENCE_S} s", uri=uri)
        time.sleep(0.01)
    return misses


def store_and_load(store: kacas.Store, talk: Talk, until: float) -> Result:
    """Store what nobody else has, ask for what others store next, and load what they say."""
    stored = loaded = late = 0
    errors: list[str] = []
    rng = random.Random(talk.name)
    while time.monotonic() < until:
        try:
            store.exists(f"sha1://{content(f'{rng.choice(talk.others)}-{stored + 1}').sha1}")
            mine = content(f"{talk.name}-{stored}")
            uri = mine.put(store)
            talk.say(label=mine.label, uri=uri)
            stored += 1
            # Not all: there are many who store for each who loads.
            for event in list(talk.heard())[-3:]:
                late += see(store, event["uri"]) > 0
                content(event["label"]).check(store, event["uri"])
                loaded += 1
        except kacas.KacasError as exc:
            errors.append(f"{type(exc).__name__}: {exc}")
    return {"stored": stored, "loaded": loaded, "late": late, "errors": errors}


def check_contents(store: kacas.Store, said: Said, _: dict[str, Result]) -> None:
    for events in said.values():
        for event in events:
            content(event["label"]).check(store, event["uri"])


def watch(store: kacas.Store, talk: Talk, until: float) -> Result:
    """The first process stores; the others measure when they see it.

    Those with an odd number ask again and again from before it is there, the others when they hear of it. delays: from
    the end of the put until it was seen. stale: the same, until the last look that missed it began, however slow the machine.
    """
    if talk.name == min([talk.name, *talk.others]):
        number = 0
        while time.monotonic() < until:
            time.sleep(0.3 + 0.1 * (number % 7))
            talk.say(uri=contents.json(f"watched-{number}").put(store), number=number)
            number += 1
        talk.say(end=True, number=-1)
        return {"stored": number}
    asks_before = int(talk.name[1:]) % 2 == 1
    told: dict[int, float] = {}
    delays, stale = [], []
    number, missed_s = 0, 0.0
    while not (-1 in told and number == len(told) - 1):
        told |= {event["number"]: event["at"] for event in talk.heard()}
        if number in told or (asks_before and -1 not in told):
            begun_s = time.monotonic()
            assert begun_s < told.get(number, begun_s) + PATIENCE_S, f"{number} is not seen"
            if store.exists(f"sha1://{contents.json(f'watched-{number}').sha1}"):
                seen_s = time.monotonic()
                while number not in told:
                    told |= {event["number"]: event["at"] for event in talk.heard()}
                delays.append(max(0.0, seen_s - told[number]))
                stale.append(max(0.0, missed_s - told[number]))
                number, missed_s = number + 1, 0.0
            else:
                missed_s = begun_s
        time.sleep(0.002)
    return {"delays": delays, "stale": stale}


def check_watched(store: kacas.Store, said: Said, results: dict[str, Result]) -> None:
    assert all(result.get("delays", True) for result in results.values())


# --- mutables and feeds ---------------------------------------------------------------------


def count_up(store: kacas.Store, talk: Talk, until: float) -> Result:
    """All add one to the same number, by compare-and-set; none that was read is older than one read before."""
    added = conflicts = newest = 0
    errors: list[str] = []
    while time.monotonic() < until:
        try:
            before = store.get_mutable("@lab/counter", default=None)
            value = int(before or 0)
            assert value >= newest, f"{value} was read after {newest}"
            newest = value
            store.set_mutable("@lab/counter", str(value + 1), expect=before)
            newest = value + 1
            talk.say(value=newest)
            added += 1
        except kacas.MutableConflictError:
            conflicts += 1
        except kacas.KacasError as exc:
            errors.append(f"{type(exc).__name__}: {exc}")
    return {"added": added, "conflicts": conflicts, "errors": errors}


def check_count(store: kacas.Store, said: Said, results: dict[str, Result]) -> None:
    values = sorted(event["value"] for events in said.values() for event in events)
    assert values == list(range(1, len(values) + 1)), "a number was given twice, or to nobody"
    assert store.get_mutable("@lab/counter") == str(len(values))


def append_and_follow(store: kacas.Store, talk: Talk, until: float) -> Result:
    """All append to one feed and follow it."""
    if talk.name == min([talk.name, *talk.others]):
        talk.say(feed=store.create_feed())
    uri = _feed_uri(talk)
    feed, reader = store.load_feed(uri), store.load_feed(uri)
    appended, seen = 0, list[list[Any]]()
    errors: list[str] = []
    while time.monotonic() < until:
        try:
            messages = [{"by": talk.name, "number": appended + more} for more in range(1 + appended % 3)]
            feed.append_messages(messages)
            appended += len(messages)
            talk.say(appended=appended)
            seen += [[message["by"], message["number"]] for message in reader.get_next_messages(timeout_s=0.01)]
        except kacas.KacasError as exc:
            errors.append(f"{type(exc).__name__}: {exc}")
    return {"appended": appended, "seen": seen, "errors": errors, "feed": uri}


def _feed_uri(talk: Talk) -> str:
    own = Path("/mnt/said") / min([talk.name, *talk.others])
    while '"feed"' not in own.read_text():
        time.sleep(0.05)
    return str(json.loads(own.read_text().splitlines()[0])["feed"])


def check_feed(store: kacas.Store, said: Said, results: dict[str, Result]) -> None:
    uri = next(iter(results.values()))["feed"]
    messages = [[message["by"], message["number"]] for message in store.load_feed(uri).messages()]
    for name, result in results.items():
        assert result["seen"] == messages[: len(result["seen"])], f"{name} saw another order"
        assert [number for by, number in messages if by == name] == list(range(result["appended"]))


# --- one fetch ------------------------------------------------------------------------------

UPSTREAM = Path("/mnt/upstream")  # a store that both hosts reach


def open_fetching(path: Path) -> kacas.Store:
    with kacas.Store.open(UPSTREAM) as upstream:
        wanted().put(upstream)
    return kacas.Store.open(path, upstream=UPSTREAM)


def wanted() -> contents.Content:
    return contents.noise("wanted", 24 * contents.MIB // 128)


def fetch_once(store: kacas.Store, talk: Talk, until: float) -> Result:
    """All ask for one content that only the upstream has."""
    del talk, until
    wanted().check(store, f"sha1://{wanted().sha1}")
    return {"packs": len(os.listdir(store.path / "packs"))}


def check_fetched(store: kacas.Store, said: Said, results: dict[str, Result]) -> None:
    wanted().check(store, f"sha1://{wanted().sha1}")
    packs = os.listdir(store.path / "packs")
    assert len(packs) == 1, f"it was fetched {len(packs)} times"


# --- one download ---------------------------------------------------------------------------

BUCKET, DOWNLOADED = Path("/mnt/bucket"), Path("/mnt/downloaded")  # a remote, and a log of what is read of its packs


def fill_bucket() -> None:
    """Push what is wanted. To be done once, before any host works."""
    BUCKET.mkdir(parents=True)
    with kacas.Store.open(BUCKET.with_name("lab")) as lab:
        push(lab, new_remote("lab", DirectoryBlobs(BUCKET)), [wanted().put(lab)])


def open_pulling(path: Path) -> kacas.Store:
    cache = Path(os.environ["KACAS_CACHE_DIR"])
    return kacas.Store.open(path, behind=[upstream_on(LoggedBlobs(DirectoryBlobs(BUCKET), DOWNLOADED), cache)])


def check_pulled(store: kacas.Store, said: Said, results: dict[str, Result]) -> None:
    wanted().check(store, f"sha1://{wanted().sha1}")
    pushed = sum(path.stat().st_size for path in (BUCKET / "packs").iterdir())
    assert pushed // 2 < downloaded(DOWNLOADED) <= pushed, (
        f"{downloaded(DOWNLOADED)} bytes were read of packs of {pushed}"
    )


KINDS = {
    "contents": Kind(store_and_load, check_contents),
    "watch": Kind(watch, check_watched),
    "mutables": Kind(count_up, check_count),
    "feeds": Kind(append_and_follow, check_feed),
    "fetch": Kind(fetch_once, check_fetched, open_fetching),
    "pull": Kind(fetch_once, check_pulled, open_pulling),
}
