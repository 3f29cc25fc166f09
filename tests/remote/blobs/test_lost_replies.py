"""The reply of a create that arrived is lost: the blob is there, and who made it hears so."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.open_blobs import open_blobs
from tests.remote.proxy import Proxy
from tests.remote.proxy_faults import lose_reply
from tests.remote.servers import S3Bucket
from tests.remote.servers import s3_bucket as s3_bucket
from tests.remote.servers import s3_server as s3_server

_WRITERS = 6


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[Proxy]:
    with Proxy(int(s3_bucket.endpoint.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def blobs(s3_bucket: S3Bucket, proxy: Proxy) -> Iterator[BlobStore]:
    blobs = open_blobs(s3_bucket.url, endpoint=proxy.url, credentials=s3_bucket.credentials)
    yield blobs
    blobs.close()


@pytest.mark.parametrize("size", [0, 1000, 3 << 20])
def test_who_created_a_blob_hears_so_though_the_reply_was_lost(blobs: BlobStore, proxy: Proxy, size: int) -> None:
    data = os.urandom(size)
    lost = proxy.fault(lose_reply(), method="PUT", part="/a", times=2)
    assert blobs.put_if_absent("a", data)
    assert lost.met == 2
    assert blobs.get("a", size) == data
    assert not blobs.put_if_absent("a", data + b"another")


def test_who_came_second_hears_so_though_the_reply_was_lost(blobs: BlobStore, proxy: Proxy) -> None:
    assert blobs.put_if_absent("a", b"first")
    lost = proxy.fault(lose_reply(), method="PUT", part="/a", times=1)
    assert not blobs.put_if_absent("a", b"other")
    assert lost.met == 1
    assert blobs.get("a", 10) == b"first"


@pytest.mark.parametrize("round_number", range(5))
def test_of_several_whose_replies_are_lost_one_hears_that_it_created_the_blob(
    blobs: BlobStore, proxy: Proxy, round_number: int
) -> None:
    lost = proxy.fault(lose_reply(), method="PUT", part="/race", times=_WRITERS)
    rivals = [os.urandom(1000) for _ in range(_WRITERS)]
    start, heard = threading.Barrier(_WRITERS), {}

    def write(number: int) -> None:
        start.wait()
        heard[number] = blobs.put_if_absent("race", rivals[number])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost.met == _WRITERS
    [winner] = [number for number, is_first in heard.items() if is_first]
    assert len(heard) == _WRITERS
    assert blobs.get("race", 1000) == rivals[winner]
