"""az:// keeps the promises of a blob store, as far as Microsoft's own emulator can tell: `npm install azurite`, on PATH.

gs:// has none that could tell: fake-gcs-server answers 400 to the uploads of obstore, which are those of the XML API.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.open_blobs import open_blobs
from tests.conformance.blob_store import BlobStoreSuite
from tests.remote.servers import DIES_WITH_US, free_ports, stop

pytestmark = pytest.mark.heavy
_ACCOUNT = "lab"
_KEY = base64.b64encode(b"k" * 64).decode()
_READY_S = 30


@contextmanager
def running(command: Sequence[str], url: str, **environment: str) -> Iterator[None]:
    """Until it answers, whatever it answers; then until the end of the block."""
    path = shutil.which(command[0])
    if path is None:
        pytest.skip(f"{command[0]} is not installed")
    process = subprocess.Popen(
        [*DIES_WITH_US, path, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
        start_new_session=True,
    )
    try:
        until = time.monotonic() + _READY_S
        while True:
            try:
                httpx.get(url)
                break
            except httpx.HTTPError:
                assert time.monotonic() < until, f"{command[0]} does not start"
                time.sleep(0.1)
        yield
    finally:
        stop(process)


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    [port] = free_ports(1)
    place: Path = tmp_path_factory.mktemp("azurite")
    options = ("--silent", "--skipApiVersionCheck", "--disableTelemetry")
    url = f"http://127.0.0.1:{port}"
    command = ("azurite-blob", "--blobPort", str(port), "-l", str(place), *options)
    with running(command, url, AZURITE_ACCOUNTS=f"{_ACCOUNT}:{_KEY}"):
        yield f"{url}/{_ACCOUNT}"


class TestAzurite(BlobStoreSuite):
    put_headers: ClassVar[Mapping[str, str]] = {"x-ms-blob-type": "BlockBlob"}
    signed_key = "a/c+d"  # obstore signs one with a blank wrongly, which kacas never has

    @pytest.fixture
    def blobs(self, azurite: str) -> BlobStore:
        container = f"kacas-{secrets.token_hex(6)}"
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        said = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
        signed = "PUT" + "\n" * 12 + said + f"/{_ACCOUNT}/{_ACCOUNT}/{container}\nrestype:container"
        mac = hmac.digest(base64.b64decode(_KEY), signed.encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(mac).decode()}"
        httpx.put(f"{azurite}/{container}?restype=container", headers=headers).raise_for_status()
        known = {"account_name": _ACCOUNT, "account_key": _KEY}
        return open_blobs(f"az://{container}/a/prefix", endpoint=azurite, credentials=known)
