"""What runs inside a machine that loses its power: it looks at what it said before, then stores and says so until it is cut off.

    python -m tests.faults.programs.powered STORE CACHE SAID CYCLE DURABILITY [DEVICE COUNT]

SAID: a directory of the host; each cycle has a file there, one JSON line for each event, in it before the next step begins.
CYCLE: a number; "last" looks at everything, large contents too, and stores nothing. DEVICE: of dm-log-writes; its log gets the
number of the line after each. COUNT: so many things are stored, then it ends.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kacas
from kacas.disk.index_places import place_in
from kacas.model.merging import MergeRule
from kacas.model.segment_rule import SegmentRule
from tests.faults import contents
from tests.faults.examination import check_verified, open_store

LARGE = 1 << 20
SHARES = {"single": 8, "array": 3, "batch": 2, "directory": 2, "large": 1, "mutable": 4, "messages": 4}
NOT_LARGE_SINCE = 2  # cycles whose large contents are read again

Event = dict[str, Any]


@dataclass
class Say:
    """The words that left this machine: whoever cuts it off reads them afterwards."""

    fd: int
    device: str = ""
    lines: int = 0

    def __call__(self, **event: Any) -> None:
        os.write(self.fd, json.dumps(event).encode() + b"\n")
        os.fsync(self.fd)
        self.lines += 1
        if self.device:
            subprocess.run(["dmsetup", "message", self.device, "0", "mark", str(self.lines)], check=True)


def said(directory: Path, cycle: str = "*") -> list[Event]:
    """All whole lines of one cycle, or of all in order: by number, then the last."""
    files = sorted(directory.glob(f"{cycle}.said"), key=lambda path: (len(path.stem), path.stem))
    return [json.loads(line) for path in files for line in path.read_bytes().split(b"\n")[:-1]]


def open_here(store: Path, cache: Path, durability: str) -> kacas.Store:
    kacas.Store.open(store, durability=durability).close()
    if durability == "relaxed":
        os.sync()  # that there is a store at all
    opened = open_store(store, cache)
    # Merges and segments at a size that a few seconds reach.
    opened.repository.lookup.rule = MergeRule(fan_in=4)
    opened.repository.segment_maker.rule = SegmentRule(rows=1 << 18, packs=24)
    return opened


def write(store: kacas.Store, draw: random.Random, cycle: str, say: Say, count: int) -> None:
    """Store contents of all kinds."""
    for number in range(count):
        label = f"{cycle}-{number}"
        kind = draw.choices(list(SHARES), list(SHARES.values()))[0]
        for event in WRITERS[kind](store, label, draw):
            say(cycle=int(cycle), **event)


def acknowledged(content: contents.Content, uri: str) -> Event:
    return {"uri": uri, "sha1": content.sha1, "size": len(content.data)}


def write_single(store: kacas.Store, label: str, draw: random.Random) -> Iterator[Event]:
    size = int(2 ** draw.uniform(0, 18))
    content = draw.choice([contents.text(label), contents.json(label), contents.random_bytes(label, size)])
    yield acknowledged(content, content.put(store))


def write_array(store: kacas.Store, label: str, draw: random.Random) -> Iterator[Event]:
    content = contents.array(label, draw.randrange(1, 10_000))
    yield acknowledged(content, content.put(store))


def write_large(store: kacas.Store, label: str, draw: random.Random) -> Iterator[Event]:
    content = contents.noise(label, 20 * contents.MIB // 128)
    yield acknowledged(content, content.put(store))


def write_batch(store: kacas.Store, label: str, draw: random.Random) -> Iterator[Event]:
    stored = [contents.random_bytes(f"{label}-{i}", draw.randrange(50_000)) for i in range(draw.randrange(2, 40))]
    with store.batch():
        uris = [content.put(store) for content in stored]
    yield from map(acknowledged, stored, uris)


def write_directory(store: kacas.Store, label: str, draw: random.Random) -> Iterator[Event]:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "tree"
        members = {}
        for i in range(draw.randrange(1, 12)):
            name, data = f"d{i % 3}/f{i}", contents.random_bytes(f"{label}-{i}", draw.randrange(300_000)).data
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
            members[name] = contents.sha1_of(data)
        uri = store.store_dir(root)
    yield {"uri": uri, "members": members, "size": 0}


def write_mutable(store: kacas.Store, label: str, draw: random.Random) -> Iterator[Event]:
    """It is set, or now and then deleted. What it will be is said first: it may have become so when the power failed."""
    key, value = f"@power/n{draw.randrange(4)}", None if draw.random() < 0.2 else label
    yield {"key": key, "value": value, "done": False}
    if value is None:
        store.delete_mutable(key)
    else:
        store.set_mutable(key, value)
    yield {"key": key, "value": value, "done": True}


def write_messages(store: kacas.Store, label: str, draw: random.Random) -> Iterator[Event]:
    """To the one feed of this store; as with a mutable, what is not acknowledged may be there or not, all or nothing."""
    numbers = [draw.randrange(1000) for _ in range(draw.randrange(1, 5))]
    messages = [{"of": label, "number": number} for number in numbers]
    feed = store.load_feed(store.get_mutable("@power/feed"))
    yield {"feed": feed.uri, "messages": messages, "done": False}
    feed.append_messages(messages)
    yield {"feed": feed.uri, "messages": messages, "done": True}


WRITERS = {
    "mutable": write_mutable,
    "messages": write_messages,
    "single": write_single,
    "array": write_array,
    "batch": write_batch,
    "directory": write_directory,
    "large": write_large,
}


def is_whole(store: kacas.Store, event: Event) -> bool:
    """Whether what was acknowledged loads, to the byte."""
    try:
        if "members" in event:
            with tempfile.TemporaryDirectory() as scratch:
                root = store.load_dir(event["uri"], Path(scratch) / "tree")
                return event["members"] == {
                    name: contents.sha1_of((root / name).read_bytes()) for name in event["members"]
                }
        return contents.sha1_of(store.load_bytes(event["uri"])) == event["sha1"]
    except kacas.KacasError:
        return False


def look(store: kacas.Store, events: list[Event], cycle: str) -> Event:
    """Everything said before is here."""
    # What was large and looked at twice is left to `verify` until the last time: it would take most of each cycle.
    first = 0 if cycle == "last" else int(cycle) - NOT_LARGE_SINCE
    claimed = [e for e in events if "uri" in e and (e["size"] < LARGE or e["cycle"] >= first)]
    lost = [event["uri"] for event in claimed if not is_whole(store, event)]
    lost += [f"mutable {key}" for key in sorted(lost_mutables(store, events))]
    lost += ["messages" for feed, told in messages_of(events).items() if not has_messages(store, feed, told)]
    return {"checked": len(claimed), "lost": lost}


def lost_mutables(store: kacas.Store, events: list[Event]) -> set[str]:
    """Those that are neither as they were acknowledged last nor as somebody began to set them since."""
    allowed: dict[str, list[str | None]] = {}
    for event in events:
        if "key" in event:
            key, value = event["key"], event["value"]
            allowed[key] = [value] if event["done"] else [*allowed.get(key, [None]), value]
    return {key for key, values in allowed.items() if value_of(store, key) not in values}


def value_of(store: kacas.Store, key: str) -> str | None:
    try:
        return store.get_mutable(key, default=None)
    except kacas.DamagedRecordError:
        return "damaged"


def messages_of(events: list[Event]) -> dict[str, list[Event]]:
    """By feed, what was begun and what was acknowledged."""
    found: dict[str, list[Event]] = {}
    for event in events:
        if "feed" in event:
            found.setdefault(event["feed"], []).append(event)
    return found


def has_messages(store: kacas.Store, feed: str, told: list[Event]) -> bool:
    """All that was acknowledged, in order; between, what was begun and cut off, whole or not at all."""
    try:
        there = list(store.load_feed(feed).messages())
    except kacas.KacasError:
        return False
    acknowledged = [event["messages"] for event in told if event["done"]]
    for messages in [event["messages"] for event in told if not event["done"]]:
        if there[: len(messages)] == messages:
            there = there[len(messages) :]
        elif messages in acknowledged:
            return False
    return there == []


def generation(cache: Path, store_id: str) -> list[str]:
    """The index that is there: its generation and boot, as the sidecar names them."""
    for directory in cache.glob(f"{store_id}-*"):
        if (current := place_in(directory) / "current").exists():
            try:
                sidecar = json.loads(current.read_bytes())
            except ValueError:
                return ["torn"]  # nothing of an index is synced
            return [sidecar["generation"], sidecar["boot"]]
    return []


def run(
    store: Path, cache: Path, directory: Path, cycle: str, durability: str, device: str = "", count: str = "1000000"
) -> None:
    events = said(directory)
    say = Say(os.open(directory / f"{cycle}.said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), device)
    try:
        known_id = next((event["store"] for event in events if "store" in event), "")
        before = generation(cache, known_id) if known_id else []
        temporaries = [n for n in os.listdir(store / "packs") if n.startswith(".")] if known_id else []
        with open_here(store, cache, durability) as opened:
            say(store=opened.store_id, before=before, now=generation(cache, opened.store_id))
            found = look(opened, events, cycle)
            if durability == "full":
                check_verified(opened)
            if not found["lost"]:
                contents.text(f"again {cycle}").put(opened)
                if opened.get_mutable("@power/feed", default=None) is None:
                    opened.set_mutable("@power/feed", opened.create_feed())
            say(**found, temporaries=len(temporaries), free=shutil.disk_usage(store).free)
            if found["lost"] and cycle != "last":
                signal.pause()  # it has failed; nothing can be said of what is stored now
            if cycle != "last":
                write(opened, random.Random(f"{contents.SEED}-{cycle}"), cycle, say, int(count))
    except BaseException:
        say(failed=traceback.format_exc())
        raise


if __name__ == "__main__":
    run(*map(Path, sys.argv[1:4]), *sys.argv[4:])
