"""The proxy before a real S3 server: what passes is unchanged, what is faulty is so as it was told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import obstore
import pytest
from obstore.store import S3Store

from tests.remote.proxy import Proxy
from tests.remote.proxy_faults import S3_STATUS, delay, drop, duplicate, flip, lose_reply, refuse, swap, truncate
from tests.remote.servers import S3Bucket, s3_bucket, s3_server  # noqa: F401

BODY = bytes(range(256)) * 4096


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[Proxy]:  # noqa: F811
    port = urlsplit(s3_bucket.endpoint).port
    assert port
    with Proxy(port) as proxy:
        yield proxy


def client(bucket: S3Bucket, proxy: Proxy) -> S3Store:
    return S3Store(
        bucket.bucket,
        endpoint=proxy.url,
        region=bucket.region,
        access_key_id=bucket.credentials["access_key_id"],
        secret_access_key=bucket.credentials["secret_access_key"],
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


@pytest.fixture
def store(s3_bucket: S3Bucket, proxy: Proxy) -> S3Store:  # noqa: F811
    return client(s3_bucket, proxy)


def get(store: S3Store, key: str) -> bytes:
    return bytes(obstore.get(store, key).bytes())


def test_signed_requests_pass_and_are_counted_with_their_bytes(store: S3Store, proxy: Proxy) -> None:
    obstore.put(store, "packs/one", BODY)
    assert get(store, "packs/one") == BODY
    assert bytes(obstore.get_range(store, "packs/one", start=10, end=20)) == BODY[10:20]
    assert [entry["path"] for batch in obstore.list(store) for entry in batch] == ["packs/one"]
    put, whole, part, listed = proxy.take_passed()
    assert (put.method, put.status, put.sent) == ("PUT", 200, len(BODY))
    assert put.path.endswith("/packs/one")
    assert (whole.method, whole.received) == ("GET", len(BODY))
    assert (part.range, part.status, part.received) == ("bytes=10-19", 206, 10)
    assert listed.status == 200
    assert proxy.passed == []


def test_a_round_trip_takes_as_long_as_is_told_and_many_at_once_no_longer(store: S3Store, proxy: Proxy) -> None:
    obstore.put(store, "one", BODY)
    proxy.latency_s = 0.3
    begun = time.monotonic()
    assert get(store, "one") == BODY
    assert time.monotonic() - begun >= 0.3
    begun = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda _: get(store, "one"), range(16))) == [BODY] * 16
    assert time.monotonic() - begun < 16 * 0.3


def test_a_dropped_request_never_reaches_the_server_and_one_whose_reply_is_lost_does(
    store: S3Store, proxy: Proxy
) -> None:
    proxy.fault(drop(), method="PUT", part="dropped")
    lost = proxy.fault(lose_reply(), method="PUT", part="lost")
    for key in ("dropped", "lost"):
        with pytest.raises(obstore.exceptions.BaseError):
            obstore.put(store, key, b"content")
    assert lost.met == 1
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "dropped")
    assert get(store, "lost") == b"content"


def test_bodies_are_cut_flipped_and_swapped(store: S3Store, proxy: Proxy) -> None:
    obstore.put(store, "one", BODY)
    obstore.put(store, "two", BODY[::-1])
    proxy.fault(truncate(100), method="GET")
    with pytest.raises(obstore.exceptions.BaseError):
        get(store, "one")
    proxy.fault(truncate(100, noticed=False), method="GET")
    assert get(store, "one") == BODY[:100]
    proxy.fault(flip(7), method="GET")
    broken = get(store, "one")
    assert [at for at in range(len(BODY)) if broken[at] != BODY[at]] == [7]
    proxy.fault(swap(30), method="GET", times=2)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda key: get(store, key), ("one", "two"))) == [BODY[::-1], BODY]
    assert get(store, "one") == BODY


def test_a_request_that_arrives_twice_meets_its_own_first_write(store: S3Store, proxy: Proxy) -> None:
    proxy.fault(duplicate(), method="PUT")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "one", b"content", mode="create")
    assert get(store, "one") == b"content"


def test_the_first_are_spared_and_only_so_many_are_met(store: S3Store, proxy: Proxy) -> None:
    rule = proxy.fault(delay(0), method="PUT", spare=1, times=2)
    for number in range(5):
        obstore.put(store, str(number), b"")
    assert rule.met == 2
    proxy.fault(drop(), times=None)
    proxy.heal()
    assert get(store, "4") == b""


@pytest.mark.parametrize("code", S3_STATUS)
def test_refusals_look_like_those_of_a_service(proxy: Proxy, code: str) -> None:
    proxy.fault(refuse(code))
    answered = httpx.get(f"{proxy.url}/bucket/key")
    assert answered.status_code == S3_STATUS[code]
    assert f"<Code>{code}</Code>" in answered.text


def test_open_connections_are_dropped_on_command(proxy: Proxy) -> None:
    proxy.fault(delay(60))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.get, proxy.url, timeout=120)
        while not proxy._rules[0].met:
            time.sleep(0.01)
        proxy.drop_all()
        with pytest.raises(httpx.HTTPError):
            waiting.result(30)
