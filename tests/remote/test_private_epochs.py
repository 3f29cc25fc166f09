"""Epochs of a private remote: somebody leaves the group, and nothing is sent again, lost, or opened by who left."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kacas
from kacas_remote.blobs.sealed import LIST_S, SealedBlobs
from kacas_remote.errors import GroupAccessError
from kacas_remote.layout import MARKER
from kacas_remote.push import push
from kacas_remote.upkeep.collect import SETTLE_S, CollectSettings, collect
from kacas_remote.upkeep.remove import remove
from kacas_remote.upkeep.verify import verify
from tests.remote.counting import CountingBlobs
from tests.remote.group_keys import FixedKeys, rotate
from tests.remote.private import bucket as bucket
from tests.remote.private import group as group
from tests.remote.private import host, private_remote
from tests.remote.private import memory as memory
from tests.remote.servers import s3_bucket as s3_bucket
from tests.remote.servers import s3_server as s3_server
from tests.remote.sources import MIB, recording


def test_nothing_is_sent_again_and_what_was_pushed_before_is_read(
    store: kacas.Store, bucket: CountingBlobs, group: str, tmp_path: Path
) -> None:
    values = recording(size=16 * MIB)
    uri = store.store_npy(values, codec="raw")
    remote = private_remote(bucket, group)
    push(store, remote, [uri])
    before = {info.key: info.e_tag for info in bucket.list("")}
    rotate(group)
    assert push(store, remote, [uri]).sent_size == 0
    assert {info.key: info.e_tag for info in bucket.list("")} == before
    values[:1000] += 1
    changed = store.store_npy(values, codec="raw")
    assert push(store, remote, [changed]).chunk_size < 2 * MIB
    with host(tmp_path / "other", private_remote(bucket, group)) as other:
        assert np.array_equal(other.load_npy(changed), values)
        assert np.array_equal(other.load_npy(uri)[1000:], values[1000:])


def test_who_left_reads_what_was_there_and_nothing_that_came_later(
    store: kacas.Store, memory: CountingBlobs, group: str, tmp_path: Path
) -> None:
    old, text = store.store_bytes(os.urandom(MIB)), "written after somebody left"
    push(store, private_remote(memory, group), [old])
    before = {info.key for info in memory.list("")}
    rotate(group)
    new = store.store_text(text)
    push(store, private_remote(memory, group), [new])
    with host(tmp_path / "left", private_remote(memory, group, known=1)) as left:
        assert left.load_bytes(old) == store.load_bytes(old)
        with pytest.raises(kacas.NotFoundError):
            left.load_text(new)
    later = {info.key for info in memory.list("")} - before
    assert later
    strays = {info.key for info in private_remote(memory, group, known=1).blobs.strays()}  # type: ignore[attr-defined]
    assert strays == later
    with host(tmp_path / "never", private_remote(memory, group, known=0)) as never, pytest.raises(GroupAccessError):
        never.load_text(new)


def test_who_has_not_heard_of_the_epoch_finds_what_is_in_it(
    store: kacas.Store, memory: CountingBlobs, group: str, tmp_path: Path
) -> None:
    theirs = private_remote(memory, group)
    push(store, theirs, [store.store_text("first")])
    rotate(group)
    uri = store.store_text("second")
    push(store, private_remote(memory, group), [uri])
    with host(tmp_path / "other", theirs) as other:
        assert other.load_text(uri) == "second"


def test_collecting_keeps_what_a_newer_epoch_needs_of_an_older_one(
    store: kacas.Store, memory: CountingBlobs, group: str, tmp_path: Path
) -> None:
    values = recording(size=4 * MIB)
    first = store.store_npy(values, codec="raw")
    collector = private_remote(memory, group)  # which has not heard of the new epoch when it begins
    push(store, collector, [first])
    rotate(group)
    values[-1000:] += 1
    second = store.store_npy(values, codec="raw")
    remote = private_remote(memory, group)
    push(store, remote, [second])
    assert remove(remote, [first]) is not None
    collect(collector, CollectSettings(grace_s=0, settle_s=0, repack=0.1))
    assert verify(remote, deep=True).clean
    with host(tmp_path / "other", remote) as other:
        assert np.array_equal(other.load_npy(second), values)
        with pytest.raises(kacas.NotFoundError):
            other.load_npy(first)


def test_nothing_is_deleted_or_pushed_while_the_record_of_the_group_is_away(
    store: kacas.Store, memory: CountingBlobs, group: str, tmp_path: Path
) -> None:
    keys = FixedKeys(group)
    remote = private_remote(memory, group, keys=keys)
    uri = store.store_text("kept")
    push(store, remote, [uri])
    keys.is_away = True
    before = {info.key for info in memory.list("")}
    with pytest.raises(kacas.StoreError, match=r"nothing was changed in .* is away"):
        collect(remote, CollectSettings(grace_s=0, settle_s=0))
    with pytest.raises(kacas.StoreError, match=r"nothing was changed in .* is away"):
        remove(remote, [uri])
    later = store.store_text("later")
    with pytest.raises(
        kacas.PushError, match="is away"
    ):  # it may rely on what is condemned in an epoch that it does not know
        push(store, remote, [later])
    assert {info.key for info in memory.list("")} == before
    assert push(store, remote, [uri]).sent_size == 0
    with host(tmp_path / "other", remote) as other:  # what is known of it will do for reading
        assert other.load_text(uri) == "kept"


def test_who_must_know_of_all_epochs_lists_nothing_until_the_record_was_looked_at(
    memory: CountingBlobs, group: str
) -> None:
    keys = FixedKeys(group)
    sealed = SealedBlobs(memory, keys)
    sealed.put("leases/1", b"old")
    strict = sealed.strictly()
    rotate(group)
    SealedBlobs(memory, FixedKeys(group)).put("leases/2", b"of the epoch that is not known yet")
    keys.is_away = True
    for _ in range(2):
        with pytest.raises(kacas.StoreError, match="is away"):
            list(strict.list("leases/"))
    keys.is_away = False
    assert [info.key for info in strict.list("leases/")] == ["leases/1", "leases/2"]


class SlowKeys(FixedKeys):
    """Whose record comes when the test lets it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.begun, self.let = threading.Event(), threading.Event()

    def refresh(self) -> bool:
        self.begun.set()
        assert self.let.wait(20)
        return super().refresh()


def test_who_lists_while_another_thread_looks_for_epochs_waits_for_what_it_finds(
    memory: CountingBlobs, group: str
) -> None:
    keys = SlowKeys(group)
    sealed = SealedBlobs(memory, keys)
    sealed.put("packs/1", b"old")
    rotate(group)
    newer = SealedBlobs(memory, FixedKeys(group))
    newer.put("condemned/1", b"of the epoch that is not known yet")
    newer.put("recipes/1", b"of it, too")
    with ThreadPoolExecutor(3) as pool:
        packs = pool.submit(lambda: list(sealed.list("packs/")))
        assert keys.begun.wait(20)
        condemned = pool.submit(lambda: list(sealed.list("condemned/")))
        recipe = pool.submit(sealed.get, "recipes/1", 100)
        waiting: list[Future[Any]] = [condemned, recipe]
        wait(waiting, timeout=0.2)  # who does not wait is done by now
        keys.let.set()
        assert [len(packs.result()), len(condemned.result())] == [1, 1]
        assert recipe.result() == b"of it, too"


def test_a_collector_waits_longer_than_a_new_epoch_goes_unseen() -> None:
    assert LIST_S * 2 <= SETTLE_S


def test_what_is_replaced_is_in_the_newest_epoch_alone(memory: CountingBlobs, group: str) -> None:
    blobs = private_remote(memory, group).blobs
    blobs.put("a", b"old")
    blobs.put("b", b"old")
    rotate(group)
    blobs = private_remote(memory, group).blobs
    assert not blobs.put_if_absent("b", b"new")
    assert blobs.put_if_absent("b", b"old")
    blobs.put("a", b"new")
    for known in (None, 1):
        one = private_remote(memory, group, known=known).blobs
        assert [info.key for info in one.list("")] == (["b"] if known else ["a", "b"])
    assert blobs.get("a", 10) == b"new"
    blobs.delete(["a", "b"])
    assert [info.key for info in memory.list("")] == [MARKER]


def test_many_epochs_are_asked_once_for_what_was_seen(memory: CountingBlobs, group: str) -> None:
    blobs = private_remote(memory, group, wait_s=60).blobs
    blobs.put("packs/a", b"1")
    for _ in range(9):
        rotate(group)
    blobs = private_remote(memory, group, wait_s=60).blobs
    memory.clear()
    assert blobs.get("packs/a", 1) == b"1"
    assert memory.count == 10
    memory.clear()
    assert blobs.get("packs/a", 1) == b"1"
    assert blobs.head("packs/a")
    assert memory.count == 2
    blobs = private_remote(memory, group, wait_s=60).blobs
    assert [info.key for info in blobs.list("packs/")] == ["packs/a"]
    memory.clear()
    assert blobs.get("packs/a", 1) == b"1"
    assert memory.count == 1
