"""What the guides in docs/remotes/ tell to do, done: on SeaweedFS with their identities, and on a plain web server."""

from __future__ import annotations

import functools
import getpass
import http.server
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest

from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from kacas_remote.errors import RemoteRefusedError
from kacas_remote.layout import LEASES, MARKER, PROBES
from kacas_remote.probe import probe, shortcomings
from kacas_remote.remote import Remote, new_remote, open_configured, open_remote
from tests.remote.servers import S3Server, seaweedfs

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "remotes"


def blocks(guide: str) -> list[Any]:
    text = (GUIDES / guide).read_text("utf-8")
    return [json.loads(body) for body in re.findall(r"^```json\n(.*?)^```$", text, re.M | re.S)]


@pytest.fixture(scope="module")
def home_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """As at-home.md says, with the owner's keys."""
    (identities,) = blocks("at-home.md")
    path = tmp_path_factory.mktemp("weed") / "identities.json"
    path.write_text(json.dumps(identities))
    with seaweedfs(f"-s3.config={path}") as server:
        yield server


@pytest.fixture(scope="module")
def lab(home_server: S3Server) -> RemoteConfiguration:
    owner = replace(home_server, credentials=keys("OWNER"))
    bucket = replace(owner.new_bucket(), bucket="lab")
    httpx.put(obstore.sign(bucket.store(), "PUT", "", timedelta(minutes=5)), timeout=30).raise_for_status()
    return RemoteConfiguration("lab", "s3://lab/kacas", endpoint=home_server.endpoint, region="us-east-1")


def keys(who: str) -> dict[str, str]:
    return {"access_key_id": f"{who}-KEY", "secret_access_key": f"{who}-SECRET"}


@pytest.fixture
def open_as(lab: RemoteConfiguration, monkeypatch: pytest.MonkeyPatch) -> Any:
    """By its name in remotes.toml, with credentials in the remote's own variables."""

    def call(who: str, **changes: Any) -> Remote:
        change_remotes(lambda found: [replace(lab, **changes)])
        for key, value in keys(who).items():
            monkeypatch.setenv(f"KACAS_REMOTE_LAB_{key.upper()}", value)
        return open_remote("lab")

    return call


def test_the_pusher_of_seaweedfs_can_do_all_that_a_push_needs(open_as: Any) -> None:
    remote = open_as("PUSHER")
    seen = probe(remote)
    assert list(shortcomings(seen, remote.configuration)) == []
    assert (seen.writable, seen.conditional_put, seen.checksums) == (True, True, True)
    assert len(remote.mark()) == 16


def test_the_reader_of_seaweedfs_is_seen_to_be_one(open_as: Any) -> None:
    open_as("PUSHER").mark()
    remote = open_as("READER")
    seen = probe(remote)
    assert (seen.writable, seen.listing, seen.ranges) == (False, True, True)
    assert remote.marked
    assert "can only be read" in " ".join(shortcomings(seen, remote.configuration))


def test_the_reader_of_seaweedfs_removes_nothing_and_is_told_so_at_once(open_as: Any) -> None:
    open_as("PUSHER").mark()
    remote = open_as("READER")
    with pytest.raises(RemoteRefusedError, match=r"403 AccessDenied.*Ask who owns the bucket"):
        remote.blobs.delete([MARKER, "packs/of-nobody"])
    assert remote.marked


def test_wrong_keys_are_an_error_that_shows_none(open_as: Any) -> None:
    remote = open_as("INTRUDER")
    with pytest.raises(RemoteRefusedError) as caught:
        probe(remote)
    assert "INTRUDER-SECRET" not in f"{caught.value!r} {caught.value} {remote!r} {vars(remote)!r}"


def test_no_secret_is_pickled_and_whoever_unpickles_has_credentials_of_its_own(open_as: Any) -> None:
    remote = open_as("PUSHER")
    remote_id = remote.mark()
    packed = pickle.dumps(remote)
    assert b"PUSHER" not in packed
    open_as("READER")
    look = "import pickle, sys; print(pickle.load(sys.stdin.buffer).remote_id.hex())"
    done = subprocess.run([sys.executable, "-c", look], input=packed, capture_output=True, check=True)
    assert done.stdout.decode().strip() == remote_id.hex()


def test_a_browser_may_read_ranges_of_seaweedfs_from_another_page(open_as: Any) -> None:
    remote = open_as("PUSHER")
    remote.mark()
    url = remote.blobs.sign("kacas-remote.json", "GET", 60)
    origin = {"Origin": "https://figurl.org"}
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
    allowed = httpx.options(url, headers=origin | asked)
    assert allowed.status_code < 300
    assert allowed.headers["access-control-allow-origin"] in ("*", "https://figurl.org")
    answer = httpx.get(url, headers=origin | {"Range": "bytes=1-4"})
    assert (answer.status_code, len(answer.content)) == (206, 4)
    assert answer.headers["access-control-allow-origin"] in ("*", "https://figurl.org")


def test_the_policies_for_amazon_give_each_only_what_it_needs() -> None:
    reader, pusher, collector, cors, lifecycle = blocks("amazon.md")
    (rule,) = lifecycle["Rules"]
    assert rule.keys() == {"ID", "Status", "Filter", "AbortIncompleteMultipartUpload"}  # it expires no objects

    def several(one: str | list[str]) -> list[str]:
        return [one] if isinstance(one, str) else one

    def allowed(policy: Any) -> set[tuple[str, str]]:
        return {
            (action, resource)
            for statement in policy["Statement"]
            for action in several(statement["Action"])
            for resource in several(statement["Resource"])
        }

    below = "arn:aws:s3:::lab-bucket/kacas/"
    assert allowed(reader) == {("s3:ListBucket", "arn:aws:s3:::lab-bucket"), ("s3:GetObject", f"{below}*")}
    assert allowed(reader) < allowed(pusher)
    assert {place for action, place in allowed(pusher) if "Delete" in action} == {
        f"{below}{LEASES}*",
        f"{below}{PROBES}*",
    }
    assert ("s3:DeleteObject", f"{below}*") in allowed(collector)
    assert cors["CORSRules"][0]["AllowedMethods"] == ["GET", "HEAD"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """`python -m http.server` in tmp_path."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_directory_that_was_filled_as_a_remote_is_one_behind_a_web_server(tmp_path: Path, web: str) -> None:
    (tmp_path / "kacas").mkdir()
    filled = new_remote("publish", DirectoryBlobs(tmp_path / "kacas"))
    remote = open_configured(RemoteConfiguration("published", f"{web}/kacas"))
    assert remote.remote_id == filled.remote_id
    seen = probe(remote)
    assert (seen.writable, seen.listing, seen.ranges) == (False, False, False)
    assert not remote.configuration.writable
    words = " ".join(shortcomings(seen, remote.configuration))
    assert "can only be read" in words
    assert "no parts" in words
    remote.close()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[str]:
    """With what web-server.md has for it."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    cors, immutable = re.findall(r"^```text\n(.*?)^```$", (GUIDES / "web-server.md").read_text("utf-8"), re.M | re.S)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    for name in ("www", "state"):
        (tmp_path / name).mkdir()
    tmp_path.chmod(0o755)
    state = tmp_path / "state"
    paths = "".join(
        f"{kind}_temp_path {state}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (state / "nginx.conf").write_text(
        f"{f'user {getpass.getuser()};' if os.geteuid() == 0 else ''} daemon off; worker_processes 1; pid {state}/pid; "
        f"error_log {state}/error.log; events {{}} http {{ access_log off; {paths}\n"
        f"server {{ listen 127.0.0.1:{port}; root {tmp_path}/www;\nlocation / {{\n{cors}}}\n{immutable}}} }}"
    )
    process = subprocess.Popen([program, "-e", f"{state}/error.log", "-c", f"{state}/nginx.conf"])
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until and process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{port}/")
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_nginx_as_in_the_guide_gives_ranges_and_lets_browsers_read(tmp_path: Path, nginx: str) -> None:
    filled = new_remote("publish", DirectoryBlobs(tmp_path / "www"))
    remote = open_configured(RemoteConfiguration("published", nginx))
    assert remote.remote_id == filled.remote_id
    seen = probe(remote)
    assert (seen.writable, seen.listing, seen.ranges) == (False, False, True)
    answer = httpx.get(f"{nginx}/kacas-remote.json", headers={"Origin": "https://figurl.org", "Range": "bytes=1-4"})
    assert (answer.status_code, len(answer.content)) == (206, 4)
    assert answer.headers["access-control-allow-origin"] == "*"
    asked = {"Origin": "https://figurl.org", "Access-Control-Request-Method": "GET"}
    allowed = httpx.options(f"{nginx}/kacas-remote.json", headers=asked | {"Access-Control-Request-Headers": "range"})
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-headers"] == "Range"
    remote.close()


def test_a_web_server_without_a_marker_is_read_all_the_same(web: str) -> None:
    remote = open_configured(RemoteConfiguration("published", web))
    assert not remote.marked
    assert len(remote.remote_id) == 16
    assert probe(remote).ranges is None
    remote.close()
