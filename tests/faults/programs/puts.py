"""Workloads that store things and say so: python -m tests.faults.programs.puts WORKLOAD PLACE

On PLACE/store with PLACE/cache; each event is a JSON line in PLACE/said, written before the next step begins.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kacas
from kacas.model.merging import MergeRule
from tests.faults import contents


class Say:
    """The child's events, written at once: what is in the file was said before the kill."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __call__(self, **event: Any) -> None:
        os.write(self._fd, json.dumps(event).encode() + b"\n")


def put(store: kacas.Store, content: contents.Content, say: Say) -> None:
    say(uri=content.put(store), label=content.label)


def run_new(base: Path, say: Say) -> None:
    """A store made and used at once."""
    with kacas.Store.open(base / "store") as store:
        say(opened=store.store_id)
        put(store, contents.text("first"), say)


def run_singles(base: Path, say: Say) -> None:
    with kacas.Store.open(base / "store", create=False) as store:
        for content in contents.singles():
            put(store, content, say)
        put(store, contents.text("earlier"), say)  # known: costs no sync


def run_batch(base: Path, say: Say) -> None:
    with kacas.Store.open(base / "store", create=False) as store:
        with store.batch():
            stored = [(content.put(store), content.label) for content in contents.batch()]
        # They bind when the batch has ended, and are said only then.
        for uri, label in stored:
            say(uri=uri, label=label)


def run_merging(base: Path, say: Say) -> None:
    """Single puts that merge two packs at a time, and merged ones again."""
    with kacas.Store.open(base / "store", create=False) as store:
        store.repository.lookup.rule = MergeRule(fan_in=2)
        for content in [*contents.singles(), contents.batch()[0]]:
            put(store, content, say)


def run_large(base: Path, say: Say) -> None:
    with kacas.Store.open(base / "store", create=False) as store:
        put(store, contents.large(), say)


def run_rolling(base: Path, say: Say) -> None:
    with kacas.Store.open(base / "store", create=False) as store:
        put(store, contents.rolling(), say)


def run_stubborn(base: Path, say: Say) -> None:
    """Singles, a batch and an array; what fails is said, and tried once more with the same store object."""
    batch = contents.batch()

    def put_batch(store: kacas.Store) -> list[str]:
        with store.batch():
            return [content.put(store) for content in batch]

    with open_stubbornly(base, say) as store:
        say(opened=store.store_id, **look(base))
        steps: list[tuple[list[contents.Content], Callable[[kacas.Store], list[str]]]] = [
            ([content], lambda store, content=content: [content.put(store)])  # type: ignore[misc]
            for content in [*contents.singles(), contents.large()]
        ]
        steps.insert(2, (batch, put_batch))
        for stored, step in steps:
            for attempt in range(6):
                try:
                    uris = step(store)
                except (kacas.KacasError, KeyboardInterrupt) as exc:
                    say(failed=type(exc).__name__, message=str(exc), attempt=attempt, **look(base))
                    continue
                for content, uri in zip(stored, uris, strict=True):
                    say(uri=uri, label=content.label, attempt=attempt, **look(base))
                break


def open_stubbornly(base: Path, say: Say) -> kacas.Store:
    try:
        return kacas.Store.open(base / "store", create=False)
    except KeyboardInterrupt as exc:
        say(failed=type(exc).__name__, message="while the store was opened", **look(base))
        return kacas.Store.open(base / "store", create=False)


def look(base: Path) -> dict[str, Any]:
    """What is in packs/ now."""
    return {"packs": sorted(os.listdir(base / "store" / "packs"))}


def run(name: str, place: Path) -> None:
    """One workload to its end, in a process of its own."""
    say = Say(place / "said")
    os.environ["KACAS_CACHE_DIR"] = str(place / "cache")
    os.environ["KACAS_THREADS"] = "1"  # one encoder: the calls come in one order
    warnings.simplefilter("ignore", RuntimeWarning)  # it may be said that the index is not used
    try:
        globals()[f"run_{name}"](place, say)
        say(done=True)
    except BaseException as exc:  # noqa: BLE001 - whatever ends a workload is what the test asks for
        known = isinstance(exc, kacas.KacasError)
        say(raised=type(exc).__name__, known=known, message=str(exc), trace=traceback.format_exc())


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
