"""Push to a real S3 server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.model.uri import parse_uri
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.layout import PACKS, plain_key
from kacas_remote.push import push
from kacas_remote.remote import Remote, new_remote
from tests.remote.proved import proved
from tests.remote.servers import S3Bucket, s3_bucket, s3_server
from tests.remote.sources import MIB, directory, recording

__all__ = ["s3_bucket", "s3_server"]

MEMORY = """
import sys, threading, time
import kacas
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.push import push
from kacas_remote.remote import Remote
from tests.remote.private import private_remote

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) // 1024

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.005)

peak = [0]
store_path, uri, url, endpoint, region, key, secret, group = sys.argv[1:]
threading.Thread(target=watch, daemon=True).start()
credentials = {"access_key_id": key, "secret_access_key": secret}
blobs = open_blobs(url, endpoint=endpoint or None, region=region or None, credentials=credentials if key else None)
with kacas.Store.open(store_path) as store:
    push(store, private_remote(blobs, group) if group else Remote("lab", blobs), [uri], plain="plain" in url)
print(peak[0])
"""


@pytest.fixture
def remote(s3_bucket: S3Bucket) -> Remote:
    bucket = s3_bucket
    blobs = open_blobs(bucket.url, endpoint=bucket.endpoint, region=bucket.region, credentials=bucket.credentials)
    return new_remote("lab", blobs)


def test_arrays_and_directories_arrive_and_are_not_sent_again(
    store: kacas.Store, remote: Remote, tmp_path: Path
) -> None:
    array = recording(size=64 * MIB)
    files = directory(tmp_path / "run7", 100)
    uris = [store.store_npy(array), store.store_dir(tmp_path / "run7")]
    first = push(store, remote, uris)
    assert proved(remote, uris[0]) == store.load_bytes(uris[0])
    member = store.describe(uris[1].partition("?")[0] + "/sub/99.dat").uri
    assert proved(remote, member) == files["sub/99.dat"]
    assert push(store, remote, uris).sent_size == 0
    array[: len(array) // 100] += 1
    uri = store.store_npy(array)
    changed = push(store, remote, [uri])
    assert changed.chunk_size < 0.05 * first.chunk_size
    assert proved(remote, uri) == store.load_bytes(uri)
    assert list(remote.blobs.list("leases/")) == []


def test_a_plain_object_of_many_parts_arrives(store: kacas.Store, remote: Remote) -> None:
    data = np.random.default_rng(0).bytes(40 * MIB)
    uri = store.store_bytes(data)
    push(store, remote, [uri], plain=True)
    assert remote.blobs.get(plain_key(parse_uri(uri).sha1), 64 * MIB) == data
    assert proved(remote, uri) == data
    assert list(remote.blobs.list(PACKS)) == []


def peak_mib(store: kacas.Store, uri: str, bucket: S3Bucket | Path, group: str = "") -> int:
    """Anonymous memory of a process that does nothing but this push. group: to which the remote is private."""
    if isinstance(bucket, Path):
        bucket.mkdir()
        place = [f"file://{bucket}", "", "", "", ""]
    else:
        secrets = bucket.credentials
        place = [bucket.url, bucket.endpoint, bucket.region, secrets["access_key_id"], secrets["secret_access_key"]]
    command = [sys.executable, "-c", MEMORY, str(store.path), uri, *place, group]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300, cwd=Path(__file__).parents[2])
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what memory is anonymous")
def test_memory_stays_below_200_mib_on_a_real_server(store: kacas.Store, s3_bucket: S3Bucket) -> None:
    uri = store.store_bytes(np.random.default_rng(0).bytes(400 * MIB))
    assert peak_mib(store, uri, s3_bucket) < 200


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what memory is anonymous")
def test_memory_stays_below_256_mib_when_all_is_sealed(store: kacas.Store, s3_bucket: S3Bucket) -> None:
    uri = store.store_bytes(np.random.default_rng(0).bytes(400 * MIB))
    assert peak_mib(store, uri, s3_bucket, group="lab") < 256


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what memory is anonymous")
@pytest.mark.parametrize("name", ["bucket", "plain"])
def test_memory_stays_below_256_mib_however_large_the_content_is(store: kacas.Store, tmp_path: Path, name: str) -> None:
    file = tmp_path / "large.dat"
    with open(file, "wb") as out:
        block = np.random.default_rng(0).bytes(16 * MIB)
        for number in range(256):
            out.write(number.to_bytes(8, "little") + block[8:])
    uri = store.store_file(file)
    file.unlink()
    assert peak_mib(store, uri, tmp_path / name) < 256
