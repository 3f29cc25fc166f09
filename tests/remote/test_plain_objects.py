"""Plain objects, as kachery-cloud puts them into a bucket: whole only, proved by their SHA-1; also from a plain web server."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.errors import UntrustedError
from kacas_remote.layout import plain_key
from kacas_remote.pulling import pull
from kacas_remote.push import push
from kacas_remote.remote import new_remote
from tests.remote.counting import CountingBlobs
from tests.remote.filled import upstream_on


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def put(bucket: Path, data: bytes, sha1: bytes = b"") -> str:
    sha1 = sha1 or hashlib.sha1(data).digest()
    DirectoryBlobs(bucket).put(plain_key(sha1), data)
    return f"sha1://{sha1.hex()}"


@pytest.fixture
def node(tmp_path: Path, bucket: Path) -> Iterator[kacas.Store]:
    upstream = upstream_on(DirectoryBlobs(bucket), tmp_path / "cache", trusted=False)
    with kacas.Store.open(tmp_path / "node", behind=[upstream]) as store:
        yield store


@pytest.mark.parametrize("size", [0, 10, 1 << 20, (21 << 20) + 7])
def test_a_plain_object_is_loaded_kept_and_proved(node: kacas.Store, bucket: Path, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    uri = put(bucket, data)
    assert node.exists(uri)
    assert node.size(uri) == size
    assert node.load_bytes(uri) == data
    for blob in bucket.rglob("*"):
        if blob.is_file():
            blob.unlink()
    assert node.load_bytes(uri) == data


def test_a_part_of_a_plain_object_is_read_from_the_whole(node: kacas.Store, bucket: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 1000, 1 << 20)
    np.save(tmp_path / "values.npy", values)
    uri = put(bucket, (tmp_path / "values.npy").read_bytes())
    assert np.array_equal(node.open_npy(uri)[100:200], values[100:200])
    assert np.array_equal(node.load_npy(uri), values)


def test_a_part_of_a_large_plain_object_is_refused_until_it_is_here(node: kacas.Store, bucket: Path) -> None:
    data = bytes(65 << 20)
    uri = put(bucket, data)
    with pytest.raises(UntrustedError, match="kacas pull"):
        node.load_bytes(uri, 0, 10)
    assert node.load_bytes(uri) == data
    assert node.load_bytes(uri, 0, 10) == bytes(10)


def test_another_object_under_a_sha1_is_refused_and_not_kept(node: kacas.Store, bucket: Path) -> None:
    for size in (100, 5 << 20):
        uri = put(bucket, bytes(size), hashlib.sha1(b"%d" % size).digest())
        for _ in range(2):
            with pytest.raises(kacas.WrongIdentityError, match="remote lab"):
                node.load_bytes(uri)
        with pytest.raises(kacas.WrongIdentityError):
            node.load_bytes(uri, 0, 4)


def test_a_web_server_serves_plain_objects_without_lists(tmp_path: Path, bucket: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(bucket)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        data = np.random.default_rng(2).bytes(9 << 20)
        uri = put(bucket, data)
        blobs = CountingBlobs(open_blobs(f"http://127.0.0.1:{server.server_port}/"))
        with kacas.Store.open(tmp_path / "node", behind=[upstream_on(blobs, tmp_path / "cache")]) as store:
            assert store.load_bytes(uri) == data
            with pytest.raises(kacas.NotFoundError):
                store.load_bytes("sha1://" + "12" * 20)
    finally:
        server.shutdown()
        server.server_close()


def test_a_directory_of_plain_objects_is_pulled_with_all_below_it(
    store: kacas.Store, node: kacas.Store, bucket: Path, tmp_path: Path
) -> None:
    (tmp_path / "run" / "in").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "run" / "in" / f"{number}.txt").write_text(str(number) * (1 + 300_000 * number))
    uri = store.store_dir(tmp_path / "run")
    push(store, new_remote("lab", DirectoryBlobs(bucket)), [uri], plain=True)
    assert pull(node, [uri]).failed == {}
    bucket.rename(tmp_path / "gone")
    restored = node.load_dir(uri, tmp_path / "restored")
    for number in range(3):
        assert (restored / "in" / f"{number}.txt").read_text() == str(number) * (1 + 300_000 * number)
