"""running: somebody else's server, as long as a block of a test goes on."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import pytest

from tests.remote.servers import DIES_WITH_US, stop

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
