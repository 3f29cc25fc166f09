"""Ceph's radosgw keeps the promises of a blob store, and all that the probe tries."""

from __future__ import annotations

import pytest

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.probe import probe, shortcomings
from kacas_remote.remote import Remote
from tests.conformance.blob_store import BlobStoreSuite
from tests.remote.radosgw import radosgw_bucket as radosgw_bucket
from tests.remote.radosgw import radosgw_server as radosgw_server
from tests.remote.servers import S3Bucket

pytestmark = pytest.mark.heavy


class TestRadosgw(BlobStoreSuite):
    @pytest.fixture
    def blobs(self, radosgw_bucket: S3Bucket) -> BlobStore:
        bucket = radosgw_bucket
        return open_blobs(f"{bucket.url}/a/prefix", endpoint=bucket.endpoint, credentials=bucket.credentials)


def test_the_probe_finds_nothing_missing(radosgw_bucket: S3Bucket) -> None:
    """It refuses a valid If-Match and believes a wrong x-amz-checksum-sha256: kacas sends neither. Content-MD5 it compares."""
    bucket = radosgw_bucket
    blobs = open_blobs(bucket.url, endpoint=bucket.endpoint, credentials=bucket.credentials)
    configuration = RemoteConfiguration("lab", bucket.url, endpoint=bucket.endpoint)
    seen = probe(Remote("lab", blobs, configuration))
    flags = (seen.writable, seen.conditional_put, seen.ranges, seen.checksums, seen.multipart)
    assert (*flags, seen.listing, seen.deleting, seen.signing) == (True,) * 8
    assert list(shortcomings(seen, configuration)) == []
    assert not list(blobs.list(""))
