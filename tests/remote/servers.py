"""Real S3 servers for tests: SeaweedFS on free ports of 127.0.0.1, gone when the tests are over.

A test module takes what it needs: `from tests.remote.servers import s3_bucket, s3_server`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import S3Store

_WEED = Path(sys.executable).with_name("weed")
# Also if we are killed. setpriv becomes weed: it has the process id that we know.
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
_READY_S = 60
_MINUTE = timedelta(minutes=1)
_TRIES = 3
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port", "webdav.port", "admin.port")


@dataclass(frozen=True)
class S3Server:
    """Where it is, and who may use it. credentials: as open_blobs takes them."""

    endpoint: str
    credentials: dict[str, str] = field(repr=False)
    region: str = "us-east-1"

    def new_bucket(self) -> S3Bucket:
        """An empty one."""
        bucket = S3Bucket(self, f"kacas-{secrets.token_hex(6)}")
        # Making a bucket is a PUT of its name: that of an object without a key.
        httpx.put(obstore.sign(bucket.store(), "PUT", "", _MINUTE), timeout=30).raise_for_status()
        return bucket


@dataclass(frozen=True)
class S3Bucket:
    """`open_blobs(bucket.url, endpoint=bucket.endpoint, region=bucket.region, credentials=bucket.credentials)`"""

    server: S3Server
    bucket: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    @property
    def region(self) -> str:
        return self.server.region

    @property
    def credentials(self) -> dict[str, str]:
        return self.server.credentials

    def remove(self) -> None:
        """With all that is in it: the next ones need its room."""
        httpx.delete(obstore.sign(self.store(), "DELETE", "", _MINUTE), timeout=30)

    def store(self) -> S3Store:
        """A bare client, for what tests do behind the back of ours."""
        return S3Store(
            self.bucket,
            endpoint=self.endpoint,
            region=self.region,
            access_key_id=self.credentials["access_key_id"],
            secret_access_key=self.credentials["secret_access_key"],
            client_options={"allow_http": True},
        )


@contextmanager
def seaweedfs(*options: str, below: Path | None = None, keyless: bool = False) -> Iterator[S3Server]:
    """A server of one's own, in its own process group; its data is gone afterwards. options: more for its command line.
    below: where its data is, else in a temporary place. keyless: it knows no keys, and lets everybody do everything."""
    with (
        tempfile.TemporaryDirectory(prefix="kacas-weed-", dir=below, ignore_cleanup_errors=True) as place,
        ExitStack() as stopping,
    ):
        yield _started(Path(place), stopping, options, keyless=keyless)


def _started(place: Path, stopping: ExitStack, options: Sequence[str], *, keyless: bool) -> S3Server:
    for attempt in range(1, _TRIES + 1):
        data = place / f"data-{attempt}"
        data.mkdir()
        credentials = {"access_key_id": secrets.token_hex(8), "secret_access_key": secrets.token_hex(16)}
        keys = {} if keyless else {f"AWS_{name.upper()}": value for name, value in credentials.items()}
        ports = free_ports(len(_PORTS))
        with open(place / "log", "wb") as log:
            process = subprocess.Popen(
                [
                    *DIES_WITH_US,
                    *(_WEED, "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
                    *("-webdav=false", "-volume.max=2000", "-admin.ui=false", "-s3.autoCreateBucket=false"),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                    *(f"-{name}={port}" for name, port in zip(_PORTS, ports, strict=True)),
                    *options,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=place,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(place), **keys},
                start_new_session=True,
            )
        server = S3Server(f"http://127.0.0.1:{ports[_PORTS.index('s3.port')]}", credentials)
        if _is_ready(server, process):
            stopping.callback(stop, process)
            return server
        stop(process)  # most likely somebody else took one of the ports
    raise RuntimeError("SeaweedFS does not start: " + (place / "log").read_text(errors="replace")[-3000:])


def _is_ready(server: S3Server, process: subprocess.Popen[bytes]) -> bool:
    """Whether it takes an object before long."""
    until = time.monotonic() + _READY_S
    while time.monotonic() < until and process.poll() is None:
        try:
            bucket = server.new_bucket()
            obstore.put(bucket.store(), "ready", b"?")
        except (httpx.HTTPError, obstore.exceptions.BaseError):
            time.sleep(0.1)
        else:
            return True
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """With all that it started. What it keeps is not needed."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(timeout=30)


def free_ports(count: int) -> list[int]:
    """The second port of each server, for gRPC, is the first plus 10,000."""
    ports: list[int] = []
    while len(ports) < count:
        port = 20_000 + secrets.randbelow(12_000)
        if port not in ports and _is_free(port) and _is_free(port + 10_000):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with seaweedfs() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[S3Bucket]:
    bucket = s3_server.new_bucket()
    yield bucket
    bucket.remove()
