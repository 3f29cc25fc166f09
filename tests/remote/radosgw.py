"""Ceph's S3 server for tests, as Debian has it: one monitor, one OSD in memory and radosgw, on free ports of 127.0.0.1.

`apt-get install --no-install-recommends ceph-mon ceph-osd radosgw`. It is ready in some 13 s.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.remote.servers import DIES_WITH_US, S3Bucket, S3Server, free_ports, stop

_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_READY_S = 90
# Without `ms mon client mode` the clients wait for the monitor for ever.
_CONFIGURATION = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{monitor}
auth cluster required = none
auth service required = none
auth client required = none
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
run dir = {place}/run
admin socket = {place}/run/$name.asok
log file = {place}/$name.log
[mon]
mon data = {place}/mon
mon cluster log file = {place}/cluster.log
mon data avail crit = 1
[osd]
osd objectstore = memstore
osd data = {place}/osd
memstore device bytes = 4294967296
[client]
ms mon client mode = crc
rgw data = {place}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


@contextmanager
def radosgw() -> Iterator[S3Server]:
    """A server of one's own; its data is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="kacas-ceph-", ignore_cleanup_errors=True) as place,
        ExitStack() as stopping,
    ):
        yield _started(Path(place), stopping)


def _started(place: Path, stopping: ExitStack) -> S3Server:
    for name in ("mon", "osd", "run", "rgw"):
        (place / name).mkdir()
    monitor, port = free_ports(2)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    told = _CONFIGURATION.format(fsid=fsid, place=place, monitor=monitor, port=port)
    (place / "ceph.conf").write_text(told, encoding="ascii")

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [program, *arguments, "-c", str(place / "ceph.conf")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_READY_S,
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stderr[-3000:]}"

    def start(program: str, *arguments: str) -> None:
        with open(place / f"{program}.out", "wb") as out:
            process = subprocess.Popen(
                [*DIES_WITH_US, program, "-f", *arguments, "-c", str(place / "ceph.conf")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=place,
                start_new_session=True,
            )
        stopping.callback(stop, process)

    monitors = str(place / "monmap")
    run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{monitor}]", monitors)
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors)
    start("ceph-mon", "-i", "a")
    run("ceph", "osd", "new", osd)
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    start("ceph-osd", "-i", "0")
    key, secret = secrets.token_hex(8), secrets.token_hex(16)
    who = ("--uid=kacas", "--display-name=kacas", "--max-buckets=0")
    run("radosgw-admin", "user", "create", *who, f"--access-key={key}", f"--secret={secret}")
    start("radosgw", "-n", "client.rgw")
    server = S3Server(f"http://127.0.0.1:{port}", {"access_key_id": key, "secret_access_key": secret})
    _wait_for(server)
    return server


def _wait_for(server: S3Server) -> None:
    until = time.monotonic() + _READY_S
    while True:
        try:
            server.new_bucket().remove()
        except httpx.HTTPError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


@pytest.fixture(scope="session")
def radosgw_server() -> Iterator[S3Server]:
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (ceph-mon, ceph-osd and radosgw of Debian)")
    with radosgw() as server:
        yield server


@pytest.fixture
def radosgw_bucket(radosgw_server: S3Server) -> Iterator[S3Bucket]:
    bucket = radosgw_server.new_bucket()
    yield bucket
    bucket.remove()
