"""Uploads in parts: of any size, tried again part by part, and nothing of a failed one stays at the service."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas_remote.blobs.cloud import CloudBlobs
from kacas_remote.blobs.credentials import Credentials
from kacas_remote.blobs.part_sizes import MOST_IN_PARTS, part_size, parts_at_once
from kacas_remote.errors import NotSupportedError, RemoteRefusedError
from tests.remote.proxy import Proxy
from tests.remote.proxy_faults import lose_reply, refuse
from tests.remote.servers import S3Bucket
from tests.remote.servers import s3_bucket as s3_bucket
from tests.remote.servers import s3_server as s3_server

_MIB = 1 << 20


@given(size=st.integers(1, MOST_IN_PARTS))
def test_ten_thousand_parts_are_enough_for_every_size(size: int) -> None:
    assert part_size(size) * 9_990 >= size
    assert part_size(size) % _MIB == 0
    assert part_size(size) >= 8 * _MIB
    assert parts_at_once(size) >= 2


def test_parts_on_their_way_take_little_memory_up_to_a_quarter_of_a_tib() -> None:
    for size in (0, 1, _MIB, 10 << 30, 80 << 30, 256 << 30):
        assert part_size(size) * (parts_at_once(size) + 1) <= 96 * _MIB


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[Proxy]:
    with Proxy(int(s3_bucket.endpoint.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def blobs(s3_bucket: S3Bucket, proxy: Proxy) -> Iterator[CloudBlobs]:

    blobs = CloudBlobs("s3", s3_bucket.bucket, endpoint=proxy.url, credentials=Credentials(s3_bucket.credentials))
    yield blobs
    blobs.close()


def was_given_up(proxy: Proxy) -> bool:
    """One upload began, did not end, and the service agreed that its parts go."""
    until = time.monotonic() + 10
    while time.monotonic() < until:  # the proxy notes an answer when it has passed
        seen = [(one.method, one.status) for one in proxy.passed if one.method in ("POST", "DELETE")]
        if len(seen) > 1:
            return seen == [("POST", 200), ("DELETE", 204)]
        time.sleep(0.02)
    return False


def test_an_upload_whose_parts_fail_is_given_up_at_the_service(blobs: CloudBlobs, proxy: Proxy) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(5):
            yield bytes(8 * _MIB)
        raise LookupError("the disk is gone")

    with pytest.raises(LookupError, match="the disk is gone"):
        blobs.put_parts("a", parts(), size=64 * _MIB)
    assert was_given_up(proxy)
    assert blobs.head("a") is None


def test_an_upload_that_the_service_refuses_is_given_up_there(blobs: CloudBlobs, proxy: Proxy) -> None:
    proxy.fault(refuse("AccessDenied"), method="PUT", part="partNumber=3", times=None)
    with pytest.raises(RemoteRefusedError):
        blobs.put_parts("a", (bytes(8 * _MIB) for _ in range(6)), size=48 * _MIB)
    assert was_given_up(proxy)
    assert blobs.head("a") is None


def test_a_part_is_tried_again(blobs: CloudBlobs, proxy: Proxy) -> None:
    parts = [os.urandom(8 * _MIB), os.urandom(8 * _MIB), os.urandom(100)]
    rules = [
        proxy.fault(refuse("SlowDown"), method="PUT", part="partNumber=1", times=2),
        proxy.fault(lose_reply(), method="PUT", part="partNumber=2", times=1),
    ]
    blobs.put_parts("a", iter(parts), size=16 * _MIB + 100)
    assert [rule.met for rule in rules] == [2, 1]
    assert blobs.get("a", 64 * _MIB) == b"".join(parts)


def test_what_is_too_large_for_any_service_is_refused_before_a_part_is_made() -> None:
    def parts() -> Iterator[bytes]:
        raise AssertionError("a part was asked for")
        yield b""

    with pytest.raises(NotSupportedError, match="5 TiB"):
        CloudBlobs("s3", "bucket").put_parts("a", parts(), size=MOST_IN_PARTS + 1)
