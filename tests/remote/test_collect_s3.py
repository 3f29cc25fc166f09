"""Upkeep of a bucket on a real S3 server: pushes, removals, collection, indexing."""

from __future__ import annotations

import numpy as np
import pytest

import kacas
from kacas.model.uri import parse_any_uri
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.condemned import condemned_packs
from kacas_remote.layout import PACKS, plain_key, recipe_key
from kacas_remote.leases import Lease, list_leases
from kacas_remote.push import push
from kacas_remote.remote import Remote, new_remote
from kacas_remote.upkeep.collect import CollectSettings, collect
from kacas_remote.upkeep.index import index
from kacas_remote.upkeep.remove import remove
from kacas_remote.upkeep.verify import verify
from kacas_remote.upkeep.waiting import Clock
from tests.remote.model_bucket import Pusher, load, sha1_of
from tests.remote.model_bucket import push as push_modelled
from tests.remote.proved import proved
from tests.remote.servers import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]  # fixtures
MIB = 1 << 20


@pytest.fixture
def remote(s3_bucket: S3Bucket) -> Remote:
    bucket = s3_bucket
    blobs = open_blobs(bucket.url, endpoint=bucket.endpoint, region=bucket.region, credentials=bucket.credentials)
    return new_remote("lab", blobs)


def noise(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def test_a_bucket_is_repacked_and_all_that_stays_loads(store: kacas.Store, remote: Remote) -> None:
    kept, gone = store.store_bytes(noise(2 * MIB, 1)), store.store_bytes(noise(6 * MIB, 2))
    push(store, remote, [kept, gone])
    assert verify(remote, deep=True).problems == []
    remove(remote, [gone])
    report = collect(remote, CollectSettings(grace_s=0, settle_s=0, repack=0.5))
    assert report.deleted
    assert report.rescued.recipes == 1
    assert sum(info.size for info in remote.blobs.list(PACKS)) < 3 * MIB
    assert verify(remote, deep=True).problems == []
    assert proved(remote, kept) == store.load_bytes(kept)
    assert not condemned_packs(remote.blobs)
    assert not list_leases(remote.blobs)


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_slow_push_keeps_what_it_relies_on_and_a_dead_one_is_told(remote: Remote, is_alive: bool) -> None:
    first = push_modelled(remote.blobs, remote.remote_id, [b"shared" * 20])
    pusher = Pusher(remote.blobs, remote.remote_id, [b"shared" * 20, b"more"], by_table=False)
    pusher.look()
    remote.blobs.delete([recipe_key(first)])
    now_s, has_ended = 0.0, False

    def sleep(seconds: float) -> None:
        nonlocal now_s, has_ended
        now_s += seconds
        if is_alive and now_s < 460:
            pusher.lease.beat()
        elif is_alive and not has_ended:
            pusher.send()
            pusher.publish()
            has_ended = pusher.end()
            assert has_ended

    clock = Clock(lambda: now_s, sleep)
    report = collect(remote, CollectSettings(grace_s=0, settle_s=400, beat_s=0, clock=clock))
    assert report.deleted == 1
    if is_alive:
        assert load(remote.blobs, remote.remote_id, pusher.sha1) == pusher.whole
    else:
        assert not pusher.end()


def test_of_several_who_take_one_lease_one_has_it(remote: Remote) -> None:
    taken = [Lease.take(remote.blobs, "collector", beat_s=0) for _ in range(3)]
    assert [lease is not None for lease in taken] == [True, False, False]


def test_plain_objects_are_indexed(store: kacas.Store, remote: Remote) -> None:
    data = noise(3 * MIB, 3)
    remote.blobs.put(plain_key(sha1_of(data)), data)
    uri = store.store_bytes(data)
    assert index(remote).made == 1
    assert proved(remote, uri) == data
    assert verify(remote, deep=True).clean
    assert parse_any_uri(uri).sha1 == sha1_of(data)
