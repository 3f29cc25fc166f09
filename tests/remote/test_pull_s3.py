"""Pull from a real S3 server, with its requests counted on their way."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

import kacas
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.layout import PACKS
from kacas_remote.push import push
from kacas_remote.remote import new_remote
from tests.faults.children import fork
from tests.remote.filled import upstream_on
from tests.remote.proxy import Proxy
from tests.remote.servers import S3Bucket, s3_bucket, s3_server
from tests.remote.sources import MIB, recording

__all__ = ["s3_bucket", "s3_server"]

PROCESSES = 8


def opened(bucket: S3Bucket, endpoint: str) -> BlobStore:
    return open_blobs(bucket.url, endpoint=endpoint, region=bucket.region, credentials=bucket.credentials)


def test_eight_processes_that_pull_one_content_make_one_download(tmp_path: Path, s3_bucket: S3Bucket) -> None:
    values = recording(size=64 * MIB)
    with kacas.Store.open(tmp_path / "lab") as lab:
        uri = lab.store_npy(values, codec="bits-lz4")
        sent = push(lab, new_remote("lab", opened(s3_bucket, s3_bucket.endpoint)), [uri]).sent_size
    kacas.Store.open(tmp_path / "node").close()

    def load(number: int, endpoint: str) -> int:
        upstream = upstream_on(opened(s3_bucket, endpoint), tmp_path / f"cache-{number}")
        with kacas.Store.open(tmp_path / "node", behind=[upstream]) as node:
            assert np.array_equal(node.load_npy(uri), values)
            return node.repository.tiers.fetches

    with Proxy(urlsplit(s3_bucket.endpoint).port or 0) as proxy:
        children = [fork(lambda number=number: load(number, proxy.url)) for number in range(PROCESSES)]
        assert sum(child.wait(180).get() for child in children) == 1
        packs = [one for one in proxy.passed if one.method == "GET" and f"/{PACKS}" in one.path]
    assert 0.9 * sent < sum(one.received for one in packs) <= sent
    assert len(packs) <= sent // (4 * MIB) + 4
