"""Web servers: several ranges come in parallel, and a certificate of one's own authority is believed if it is named."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kacas_remote.blobs.http import HttpBlobs
from kacas_remote.errors import BlobNotFoundError
from tests.remote.web_server import WebServer, web_server

_MIB = 1 << 20
_FAR = [(n * _MIB, n * _MIB + 1000) for n in range(6)]


def test_ranges_that_lie_apart_come_at_once(tmp_path: Path) -> None:
    """Each waits until all the others are there: one after another they would never end."""
    (tmp_path / "a").write_bytes(data := os.urandom(6 * _MIB))
    together = threading.Barrier(len(_FAR) - 1)
    with web_server(tmp_path) as server:
        # The first range tells whether the server knows ranges: it is alone.
        server.before_each = lambda number: together.wait(30) if number > 1 else None
        blobs = HttpBlobs(server.url)
        assert [bytes(part) for part in blobs.get_ranges("a", _FAR)] == [data[a:b] for a, b in _FAR]
        blobs.close()


def test_one_range_that_fails_fails_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(6 * _MIB))
    with web_server(tmp_path) as server:
        blobs = HttpBlobs(server.url)
        assert len(blobs.get_ranges("a", _FAR)) == len(_FAR)
        (tmp_path / "a").unlink()
        with pytest.raises(BlobNotFoundError):
            blobs.get_ranges("a", _FAR)
        blobs.close()


@contextmanager
def with_tls(directory: Path, certificate: Path, key: Path) -> Iterator[str]:
    """The URL of a web server that has files of the directory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with WebServer(directory) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.url.replace("http:", "https:")
        finally:
            server.shutdown()
            thread.join()


_READING = """
import sys
from kacas_remote.blobs.open_blobs import open_blobs
keys = {"access_key_id": "AK", "secret_access_key": "SK"}
for blobs in (
    open_blobs("s3://bucket", endpoint=sys.argv[1], credentials=keys, retry_for_s=0),
    open_blobs(sys.argv[1] + "/bucket", retry_for_s=0),
):
    try:
        print(blobs.get("a", 100).decode())
    except Exception as exc:
        print(type(exc).__name__, "SSL_CERT_FILE" in str(exc))
"""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificates, is not installed")
def test_an_authority_that_ssl_cert_file_names_is_believed_by_buckets_and_web_servers(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    authority = ("-subj", "/CN=lab", "-days", "2", "-addext", "basicConstraints=critical,CA:true")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", *authority)
    openssl("req", *new_key, "-keyout", "key", "-out", "request", "-subj", "/CN=server")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    signed_by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
    openssl("x509", "-req", "-in", "request", "-out", "certificate", *signed_by)
    (tmp_path / "www" / "bucket").mkdir(parents=True)
    (tmp_path / "www" / "bucket" / "a").write_text("content")

    def read(**environment: str) -> list[str]:
        without = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT_")}
        done = subprocess.run(
            [sys.executable, "-c", _READING, url],
            env={**without, **environment},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    with with_tls(tmp_path / "www", tmp_path / "certificate", tmp_path / "key") as url:
        assert read() == ["RemoteUnavailableError True"] * 2
        assert read(SSL_CERT_FILE=str(tmp_path / "ca.pem")) == ["content"] * 2
