"""A real Chromium loads a pushed plain object, as figurl's pages do: from another origin, whole and by ranges."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import obstore
import pytest

import kacas
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.open_blobs import open_blobs
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.layout import plain_key
from kacas_remote.push.pushing import push
from kacas_remote.remote import Remote
from tests.remote.servers import S3Bucket, s3_bucket, s3_server  # noqa: F401
from tests.remote.signed import put_setting

CHROMIUM = Path("/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt-get install chromium")

CORS = b"""<CORSConfiguration><CORSRule>
<AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod><AllowedMethod>HEAD</AllowedMethod>
<AllowedHeader>*</AllowedHeader><ExposeHeader>Content-Range</ExposeHeader><ExposeHeader>ETag</ExposeHeader>
<MaxAgeSeconds>600</MaxAgeSeconds></CORSRule></CORSConfiguration>"""
PUBLIC = b"""{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"],
"Resource": ["arn:aws:s3:::BUCKET/sha1/*"]}]}"""
FETCH = """async ([url, range]) => {
    const answer = await fetch(url, range ? {headers: {Range: range}} : {});
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-1", bytes));
    return {status: answer.status, size: bytes.length, range: answer.headers.get("Content-Range"),
            sha1: Array.from(digest, one => one.toString(16).padStart(2, "0")).join("")};
}"""


@pytest.fixture
def open_bucket(s3_bucket: S3Bucket) -> S3Bucket:  # noqa: F811
    """Any page may read it, and what is below sha1/ without credentials."""
    for what, body in (("cors", CORS), ("policy", PUBLIC.replace(b"BUCKET", s3_bucket.bucket.encode()))):
        put_setting(s3_bucket, what, body)
    return s3_bucket


@contextmanager
def page_of_another_origin() -> Iterator[str]:
    """An empty page on a port of its own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>figure</title>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def blobs_of(bucket: S3Bucket) -> BlobStore:
    return open_blobs(bucket.url, endpoint=bucket.endpoint, region=bucket.region, credentials=bucket.credentials)


def test_a_browser_loads_a_pushed_plain_object_from_another_origin_whole_by_range_and_by_a_signed_url(
    open_bucket: S3Bucket, store: kacas.Store, tmp_path: Path
) -> None:
    content = np.random.default_rng(1).bytes(3 << 20)
    uri = store.store_bytes(content)
    sha1 = hashlib.sha1(content).digest()
    blobs = blobs_of(open_bucket)
    push(store, Remote("lab", blobs, RemoteConfiguration("lab", open_bucket.url)), [uri], plain=True)
    key = plain_key(sha1)
    assert bytes(obstore.get(open_bucket.store(), key).bytes()) == content

    public = f"{open_bucket.endpoint}/{open_bucket.bucket}/{key}"
    part = content[1_000_000:1_065_536]
    with page_of_another_origin() as origin, playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = browser.new_page()
            page.goto(origin)
            for url in (public, blobs.sign(key, "GET", 600)):
                whole = page.evaluate(FETCH, [url, None])
                assert (whole["status"], whole["size"], whole["sha1"]) == (200, len(content), sha1.hex())
                ranged = page.evaluate(FETCH, [url, "bytes=1000000-1065535"])
                assert (ranged["status"], ranged["sha1"]) == (206, hashlib.sha1(part).hexdigest())
                assert ranged["range"] == f"bytes 1000000-1065535/{len(content)}"
            # Without its signature, what is not below sha1/ stays closed.
            obstore.put(open_bucket.store(), "closed", b"closed")
            assert page.evaluate(FETCH, [f"{open_bucket.endpoint}/{open_bucket.bucket}/closed", None])["status"] == 403
        finally:
            browser.close()
