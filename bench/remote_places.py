"""Where bench/remote.py pushes to: SeaweedFS of its own on loopback, and the same one 50 ms away."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
import obstore

from bench.remote_systems import Bucket
from bench.worker import ROOT
from tests.remote.servers import S3Bucket, S3Server, seaweedfs

NEAR, FAR = "loopback", "50 ms"
LATENCY_S = 0.05


class Place:
    """A server, and a proxy before it that counts and, if it is far, takes its time."""

    def __init__(self, name: str, server: S3Server, proxy: subprocess.Popen[str] | None) -> None:
        self.name = name
        self._proxy = proxy
        self._server = server
        self._buckets: dict[str, S3Bucket] = {}
        self.endpoint = server.endpoint
        if proxy is not None:
            self.endpoint = f"http://127.0.0.1:{self._pipe(proxy.stdout).readline().strip()}"

    def new_bucket(self) -> dict[str, str]:
        """One with nothing in it."""
        made = self._server.new_bucket()
        self._buckets[made.bucket] = made
        keys = made.credentials
        return asdict(
            Bucket(
                endpoint=self.endpoint,
                bucket=made.bucket,
                prefix="run",
                region=made.region,
                access_key_id=keys["access_key_id"],
                secret_access_key=keys["secret_access_key"],
            )
        )

    def counted(self) -> dict[str, float]:
        """Requests and bytes of bodies since this was last asked; nothing where nobody counts."""
        if self._proxy is None:
            return {}
        self._pipe(self._proxy.stdin).write("\n")
        self._pipe(self._proxy.stdin).flush()
        passed: list[Any] = json.loads(self._pipe(self._proxy.stdout).readline())
        return {"requests": len(passed), "bytes": sum(sent + received for *_, sent, received in passed)}

    def stored(self, bucket: dict[str, str]) -> int:
        """Bytes of all objects there."""
        store = self._buckets[bucket["bucket"]].store()
        return sum(entry["size"] for found in obstore.list(store) for entry in found)

    def delete(self, bucket: dict[str, str]) -> None:
        """With all in it: SeaweedFS gives the disk back only then."""
        store = self._buckets.pop(bucket["bucket"]).store()
        httpx.delete(obstore.sign(store, "DELETE", "", timedelta(minutes=5)), timeout=60).raise_for_status()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


@contextlib.contextmanager
def places(below: Path) -> Iterator[dict[str, Place]]:
    """By name; the data is below a directory. The server and the proxy are processes, which end with this."""
    with seaweedfs(below=below) as server, contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", "tests.remote.proxy", str(urlsplit(server.endpoint).port), str(LATENCY_S)]
        proxy = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        )
        yield {NEAR: Place(NEAR, server, None), FAR: Place(FAR, server, proxy)}
