"""A bucket that fails on the way: what was pushed is pulled exactly, or an error says what to do; never are bytes wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import obstore
import pytest

import kacas
from kacas.errors import KacasError
from kacas.settings import Settings
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.errors import (
    DamagedRemoteError,
    PushError,
    RemoteNotFoundError,
    RemoteRefusedError,
    RemoteUnavailableError,
)
from kacas_remote.pending import pending
from kacas_remote.push import push
from kacas_remote.remote import Remote
from kacas_remote.upstream import RemoteUpstream
from tests.faults import strace
from tests.faults.test_clocks import faketime, off_by  # noqa: F401
from tests.remote.proxy import Fault, Proxy
from tests.remote.proxy_faults import delay, drop, duplicate, flip, lose_reply, refuse, swap, truncate
from tests.remote.servers import S3Bucket, s3_bucket, s3_server  # noqa: F401

VALUES = np.cumsum(np.random.default_rng(5).integers(-3, 4, (12_000, 64)), axis=0).astype(np.int32)  # 3 MiB
FILES = {f"{number % 7}/{number}.txt": f"file {number}\n" * (number % 50) for number in range(60)}


class Lab:
    """A store with an array and a directory, a bucket behind a proxy, and hosts that know nothing yet."""

    def __init__(self, place: Path, bucket: S3Bucket, proxy: Proxy) -> None:
        self.place, self.bucket, self.proxy = place, bucket, proxy
        self.store = kacas.Store.open(place / "lab")
        self.array = self.store.store_npy(VALUES, codec="bits-lz4")
        for name, text in FILES.items():
            (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "tree" / name).write_text(text)
        self.tree = self.store.store_dir(place / "tree")
        self._hosts = 0

    def remote(self, *, retry_for_s: float = 60.0, credentials: dict[str, str] | None = None, name: str = "") -> Remote:
        url = f"s3://{name or self.bucket.bucket}"
        blobs = open_blobs(
            url,
            endpoint=self.proxy.url,
            region=self.bucket.region,
            credentials=credentials or self.bucket.credentials,
            retry_for_s=retry_for_s,
        )
        return Remote("lab", blobs, RemoteConfiguration("lab", url, trusted=True))

    def push(self, **options: object) -> None:
        push(self.store, self.remote(**options), [self.array, self.tree])  # type: ignore[arg-type]

    def new_host(self, **options: object) -> kacas.Store:
        self._hosts += 1
        place = self.place / f"host-{self._hosts}"
        settings = Settings.from_environment({"KACAS_CACHE_DIR": str(place / "cache"), "HOME": str(place)})
        upstream = RemoteUpstream(self.remote(**options), settings)  # type: ignore[arg-type]
        return kacas.Store.open(place / "store", settings=settings, behind=[upstream])

    def check(self, host: kacas.Store) -> None:
        """A slice, the whole array and the directory are what was pushed."""
        assert np.array_equal(host.open_npy(self.array)[6_000:6_100], VALUES[6_000:6_100])
        assert np.array_equal(host.load_npy(self.array), VALUES)
        self._hosts += 1
        restored = host.load_dir(self.tree, self.place / f"restored-{self._hosts}")
        assert {name: (restored / name).read_text() for name in FILES} == FILES


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[Proxy]:  # noqa: F811
    port = urlsplit(s3_bucket.endpoint).port
    assert port
    with Proxy(port) as proxy:
        yield proxy


@pytest.fixture
def lab(tmp_path: Path, s3_bucket: S3Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:  # noqa: F811
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lab = Lab(tmp_path, s3_bucket, proxy)
    yield lab
    lab.store.close()


ONCE: dict[str, Callable[[], Fault]] = {
    "drop": drop,
    "lose the reply": lose_reply,
    "delay": lambda: delay(0.3),
    "truncate": lambda: truncate(50),
    "truncate unnoticed": lambda: truncate(50, noticed=False),
    "flip": lambda: flip(60),
    "duplicate": duplicate,
    "swap": lambda: swap(0.5),
    "slow down": lambda: refuse("SlowDown"),
    "internal error": lambda: refuse("InternalError"),
}


@pytest.mark.parametrize("kind", ["drop", "lose the reply", "duplicate", "slow down", "internal error"])
def test_a_push_outlives_what_goes_wrong_once_with_each_kind_of_object(lab: Lab, kind: str) -> None:
    rules = [lab.proxy.fault(ONCE[kind](), method="PUT", part=part) for part in ("/packs/", "/recipes/", "/leases/")]
    lab.push()
    assert [rule.met for rule in rules] == [1, 1, 1]
    lab.proxy.heal()
    with lab.new_host() as host:
        lab.check(host)
    assert pending() == []


@pytest.mark.parametrize(
    "kind, part",
    [
        *((kind, "/packs/") for kind in ONCE),
        *((kind, "/recipes/") for kind in ("truncate unnoticed", "flip", "swap")),
        *(
            pytest.param(kind, part, marks=pytest.mark.heavy)
            for kind in ONCE
            for part in ("/recipes/", "prefix=packs")
            if part != "/recipes/" or kind not in ("truncate unnoticed", "flip", "swap")
        ),
    ],
)
def test_a_pull_that_meets_a_fault_once_is_exact_or_says_what_to_do_and_is_exact_after_it(
    lab: Lab, kind: str, part: str
) -> None:
    lab.push()
    lab.proxy.fault(ONCE[kind](), method="GET", part=part, times=2 if kind == "swap" else 1)
    with lab.new_host() as host:
        try:
            lab.check(host)
        except KacasError as exc:
            assert kind in ("flip", "truncate unnoticed", "swap"), "what only fails is tried again"
            check_message(exc, lab)
        lab.proxy.heal()
        lab.check(host)


@pytest.mark.heavy
@pytest.mark.parametrize("spare", range(1, 10))
@pytest.mark.parametrize("kind", ONCE)
def test_whichever_answer_is_faulty_what_comes_is_exact_or_an_error(lab: Lab, kind: str, spare: int) -> None:
    lab.push()
    lab.proxy.fault(ONCE[kind](), method="GET", times=2, spare=spare)
    with lab.new_host() as host:
        try:
            lab.check(host)
        except KacasError as exc:
            check_message(exc, lab)
        lab.proxy.heal()
        lab.check(host)


@pytest.mark.parametrize("fault", [flip(60, every=10_000), truncate(400, noticed=False)])
def test_packs_that_are_always_wrong_are_named_and_nothing_of_them_is_kept(lab: Lab, fault: Fault) -> None:
    lab.push()
    lab.proxy.fault(fault, method="GET", part="/packs/", times=None)
    with lab.new_host() as host:
        for read in (host.load_npy, host.load_bytes, lambda uri: host.open_npy(uri)[:10]):
            with pytest.raises(KacasError) as caught:
                read(lab.array)
            check_message(caught.value, lab)
        lab.proxy.heal()
        lab.check(host)


@pytest.mark.parametrize("spare", [0, 1, 2, 4])
def test_a_push_that_fails_for_good_publishes_nothing_half_and_goes_on_later(lab: Lab, spare: int) -> None:
    lab.proxy.fault(drop(), method="PUT", times=None, spare=spare)
    with pytest.raises(PushError, match="kacas push --pending") as caught:
        lab.push(retry_for_s=0.1)
    assert set(caught.value.uris) == {lab.array, lab.tree}
    check_message(caught.value, lab)
    lab.proxy.heal()
    with lab.new_host() as host:
        try:
            lab.check(host)
        except KacasError as exc:
            check_message(exc, lab)
    assert {uri for noted in pending() for uri in noted.uris} == {lab.array, lab.tree}
    lab.push()
    with lab.new_host() as host:
        lab.check(host)


REFUSALS: list[tuple[str, type[Exception], str]] = [
    ("ExpiredToken", RemoteRefusedError, "have expired. Get new ones"),
    ("RequestTimeTooSkewed", RemoteRefusedError, "clock of this machine is off.*Set it"),
    ("SignatureDoesNotMatch", RemoteRefusedError, "secret is wrong. Look at"),
    ("InvalidAccessKeyId", RemoteRefusedError, "access key or its secret is wrong. Look at"),
    ("AccessDenied", RemoteRefusedError, "Ask who owns the bucket"),
    ("NoSuchBucket", RemoteNotFoundError, "no such bucket. Is its name right"),
    ("TooManyRequests", RemoteUnavailableError, "fewer requests.*Try again later"),
    ("InternalError", RemoteUnavailableError, "something is wrong there.*Try again later"),
    ("SlowDown", RemoteUnavailableError, "fewer requests.*Try again later"),
]


@pytest.mark.parametrize("code, kind, advice", REFUSALS)
def test_what_a_service_refuses_is_said_with_what_to_do(
    lab: Lab, code: str, kind: type[Exception], advice: str
) -> None:
    lab.push()
    lab.proxy.fault(refuse(code), times=None)
    with pytest.raises(kind, match=f"(?s){advice}") as caught:
        lab.remote(retry_for_s=0.1).blobs.get("kacas-remote.json", 1000)
    check_message(caught.value, lab)
    other = lab.store.store_bytes(b"another")
    with pytest.raises(PushError, match=f"(?s){advice}.*kacas push --pending") as failed:
        push(lab.store, lab.remote(retry_for_s=0.1), [other])
    check_message(failed.value, lab)
    with lab.new_host(retry_for_s=0.1) as host, pytest.raises(KacasError, match=f"(?s){advice}") as pulled:
        host.load_npy(lab.array)
    check_message(pulled.value, lab)


@pytest.mark.parametrize("code", ["OperationAborted", "PreconditionFailed"])
def test_somebody_who_writes_at_the_same_time_does_not_stop_a_push(lab: Lab, code: str) -> None:
    lab.proxy.fault(refuse(code), method="PUT", part="/packs/")
    try:
        lab.push()
    except PushError as exc:
        check_message(exc, lab)
        lab.push()
    with lab.new_host() as host:
        lab.check(host)


def test_a_secret_that_is_wrong_is_said_by_a_real_server(lab: Lab) -> None:
    wrong = lab.bucket.credentials | {"secret_access_key": "not-the-secret-at-all"}
    with pytest.raises(PushError, match="access key or its secret is wrong") as caught:
        lab.push(credentials=wrong)
    check_message(caught.value, lab)
    assert "not-the-secret-at-all" not in str(caught.value)


def test_a_bucket_that_is_gone_is_said_by_a_real_server(lab: Lab) -> None:
    with pytest.raises(PushError, match="no such bucket") as caught:
        lab.push(name="kacas-is-gone")
    check_message(caught.value, lab)


PUSH_ONE = """
import sys
import kacas
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.push import push
from kacas_remote.remote import Remote
url, endpoint, key, secret, place = sys.argv[1:]
blobs = open_blobs(url, endpoint=endpoint, region="us-east-1",
                   credentials={"access_key_id": key, "secret_access_key": secret})
with kacas.Store.open(place) as store:
    push(store, Remote("lab", blobs), [store.store_bytes(b"content")])
"""


def test_a_clock_that_is_an_hour_off_is_said_to_be_off(lab: Lab, faketime: Path) -> None:  # noqa: F811
    keys = lab.bucket.credentials
    words = [f"s3://{lab.bucket.bucket}", lab.proxy.url, keys["access_key_id"], keys["secret_access_key"]]
    done = subprocess.run(
        [sys.executable, "-c", PUSH_ONE, *words, str(lab.place / "skewed")],
        env=off_by(-3600, faketime),
        cwd=strace.ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode
    assert "clock of this machine is off" in done.stderr
    assert keys["secret_access_key"] not in done.stderr


def test_a_whole_object_that_is_another_one_is_refused(lab: Lab) -> None:
    """Packs swapped in the bucket itself, for good."""
    lab.push()
    client = lab.bucket.store()
    packs = [entry["path"] for found in obstore.list(client, prefix="packs/") for entry in found]
    contents = [bytes(obstore.get(client, path).bytes()) for path in packs]
    for path, content in zip(packs, [*contents[1:], b"something else"], strict=True):
        obstore.put(client, path, content)
    with lab.new_host() as host, pytest.raises(DamagedRemoteError) as caught:
        host.load_npy(lab.array)
    check_message(caught.value, lab)


def check_message(exc: BaseException, lab: Lab) -> None:
    """It is ours, says where, and has no secret, signature or signed URL in it, nor has what it came from."""
    assert isinstance(exc, KacasError)
    one: BaseException | None = exc
    while one is not None:
        for secret in (lab.bucket.credentials["secret_access_key"], "X-Amz-Signature", "AWS4-HMAC"):
            assert secret not in str(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    assert lab.bucket.bucket in str(exc) or "lab" in str(exc) or "kacas-is-gone" in str(exc)
