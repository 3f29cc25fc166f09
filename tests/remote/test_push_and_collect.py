"""Real pushes beside real collectors: also a push that slept until it was taken for dead ends well."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import kacas
from kacas.model.uri import parse_any_uri
from kacas_remote.blobs.blob_store import BlobInfo
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.condemned import condemn
from kacas_remote.layout import CONDEMNED, PACKS, RECIPES
from kacas_remote.push import push
from kacas_remote.remote import Remote, new_remote
from kacas_remote.upkeep.collect import CollectSettings, collect
from kacas_remote.upkeep.remove import remove
from kacas_remote.upkeep.verify import verify
from kacas_remote.upkeep.waiting import Clock
from tests.remote.model_bucket import load


class Sleepy(MemoryBlobs):
    """Once, before something is put below `prefix` for the `count`-th time, its user sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix, self.count = "", 0
        self.sleep: Callable[[], None] | None = None

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        if self.sleep is not None and key.startswith(self.prefix):
            self.count -= 1
            if self.count <= 0:
                sleep, self.sleep = self.sleep, None
                sleep()
        return super().put_if_absent(key, data)


def gc_at_once(blobs: Sleepy) -> None:
    """By a collector that watched for long enough while others slept."""
    awake = MemoryBlobs()
    awake._blobs = blobs._blobs
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    how = CollectSettings(grace_s=0, beat_s=0, clock=Clock(lambda: now_s, sleep))
    assert collect(Remote("lab", awake), how).deleted


@pytest.mark.parametrize("prefix", [PACKS, RECIPES])
@pytest.mark.parametrize("many", [False, True])
def test_a_push_that_slept_until_it_was_taken_for_dead_begins_anew_and_all_is_there(
    store: kacas.Store, prefix: str, many: bool
) -> None:
    if many and prefix == RECIPES:
        pytest.skip("many small contents have no recipes")
    blobs = Sleepy()
    remote = new_remote("lab", blobs)
    shared = np.random.default_rng(0).bytes(2_000_000)
    gone = store.store_bytes(shared + b"gone")
    uris = [store.store_bytes(shared + bytes([number]) * 300_000) for number in range(70 if many else 1)]
    push(store, remote, [gone])

    def sleep() -> None:
        remove(remote, [gone])
        gc_at_once(blobs)

    blobs.prefix, blobs.count, blobs.sleep = prefix, 1, sleep
    push(store, remote, uris)
    assert blobs.sleep is None
    for uri in uris:
        assert load(blobs, remote.remote_id, parse_any_uri(uri).sha1) == store.load_bytes(uri)
    assert verify(remote, deep=True).problems == []


class CollectedInBetween(MemoryBlobs):
    """A collection ends after packs were listed, and before condemned ones are: neither list tells of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ending: list[str] | None = None  # keys that the collection deletes, packs first
        self._ended = threading.Event()

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        if prefix == CONDEMNED and self.ending is not None:
            assert self._ended.wait(20)
        found = list(super().list(prefix, after=after))
        if prefix == PACKS and self.ending:
            ending, self.ending = self.ending, []
            for key in ending:
                self.delete([key])
            self._ended.set()
        return iter(found)


@pytest.mark.parametrize("many", [False, True])
def test_a_push_relies_on_nothing_that_went_between_its_two_looks(store: kacas.Store, many: bool) -> None:
    blobs = CollectedInBetween()
    remote = new_remote("lab", blobs)
    shared = np.random.default_rng(0).bytes(2_000_000)
    push(store, remote, [store.store_bytes(shared + b"gone")])
    uris = [store.store_bytes(shared + bytes([number]) * 300_000) for number in range(70 if many else 1)]
    (pack,) = blobs.list(PACKS)
    # The collector listed the leases before this push takes its own.
    record = condemn(blobs, [bytes.fromhex(pack.key.removeprefix(PACKS)[:32])])
    blobs.ending = [pack.key, record]
    push(store, remote, uris)
    assert blobs.ending == []
    for uri in uris:
        assert load(blobs, remote.remote_id, parse_any_uri(uri).sha1) == store.load_bytes(uri)
