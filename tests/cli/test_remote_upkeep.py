"""`kacas remote usage|verify|gc|rm|index`, on a bucket that is a directory."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.conftest import Runner
from tests.remote.proxy import Proxy
from tests.remote.proxy_faults import refuse
from tests.remote.servers import S3Bucket, s3_bucket, s3_server  # noqa: F401


@pytest.fixture
def bucket(kacas: Runner, tmp_path: Path) -> Path:
    directory = tmp_path / "bucket"
    directory.mkdir()
    kacas("remote", "add", "lab", f"file://{directory}", "--no-probe")
    return directory


def pushed(kacas: Runner, tmp_path: Path, text: bytes) -> str:
    path = tmp_path / "file.bin"
    path.write_bytes(text)
    (uri,) = kacas("store", str(path)).lines
    assert kacas("push", uri).code == 0
    return uri


def test_what_is_removed_is_freed_by_gc(kacas: Runner, bucket: Path, tmp_path: Path) -> None:
    uri = pushed(kacas, tmp_path, b"some bytes" * 100)
    assert kacas("remote", "verify", "lab").lines[-1].endswith("clean")
    assert kacas("remote", "usage", "--json", "lab").object["contents"]["count"] == 1
    assert kacas("remote", "rm", "lab", uri).code == 2  # nobody is asked
    dry = kacas("remote", "rm", "--dry-run", "lab", uri)
    assert dry.lines[0].startswith("would remove 1 content")
    found = kacas("remote", "rm", "--yes", "--json", "lab", uri).object
    assert len(found["recipes"]) == 1
    assert kacas("remote", "rm", "--yes", "lab", uri).code == 3
    assert kacas("remote", "gc", "--grace", "0", "--dry-run", "--json", "lab").object["condemned"] == 1
    assert len(list((bucket / "packs").iterdir())) == 1
    assert kacas("remote", "gc", "--json", "lab").object["deleted"] == 0  # it is younger than a day


def test_nothing_is_changed_in_a_remote_that_was_added_as_read_only(
    kacas: Runner, bucket: Path, tmp_path: Path
) -> None:
    uri = pushed(kacas, tmp_path, b"some bytes" * 100)
    kacas("remote", "add", "look", f"file://{bucket}", "--read-only", "--no-probe")
    before = {path: path.stat().st_mtime_ns for path in bucket.rglob("*")}
    for command in (("rm", "--yes", "look", uri), ("gc", "--grace", "0", "look"), ("index", "look")):
        answer = kacas("remote", *command)
        assert (answer.code, "remote look can only be read" in answer.error) == (9, True)
    assert kacas("remote", "rm", "--dry-run", "look", uri).code == 0
    assert kacas("remote", "gc", "--dry-run", "look").code == 0
    assert {path: path.stat().st_mtime_ns for path in bucket.rglob("*")} == before


def test_verify_ends_with_5_and_says_what_to_do(kacas: Runner, bucket: Path, tmp_path: Path) -> None:
    pushed(kacas, tmp_path, b"some bytes" * 100)
    (pack,) = (bucket / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    answer = kacas("remote", "verify", "--deep", "lab")
    assert answer.code == 5
    assert pack.name in answer.lines[0]
    assert "push again" in answer.lines[0]
    assert kacas("remote", "verify", "--deep", "--json", "lab").object["clean"] is False
    pack.write_bytes(data[:-1])
    assert kacas("remote", "gc", "--grace", "0", "lab").code == 5


def test_verify_ends_with_9_where_nothing_is_wrong_but_that_the_service_does_not_give_something(
    kacas: Runner,
    s3_bucket: S3Bucket,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_bucket.credentials["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_bucket.credentials["secret_access_key"])
    port = urlsplit(s3_bucket.endpoint).port
    assert port
    with Proxy(port) as proxy:
        where = (s3_bucket.url, "--endpoint", proxy.url, "--region", s3_bucket.region)
        assert kacas("remote", "add", "lab", *where, "--no-probe").code == 0
        pushed(kacas, tmp_path, b"some bytes" * 100)
        proxy.fault(refuse("AccessDenied"), method="GET", part="/packs/", times=None)
        answer = kacas("remote", "verify", "lab")
        assert answer.code == 9
        assert answer.lines[0].startswith("could not be read: reading packs/")
        assert "the service answered 403 AccessDenied" in answer.lines[0]
        assert "could not be read" in answer.error
        found = kacas("remote", "verify", "--json", "lab").object
        assert (found["clean"], found["problems"], found["unread"][0]["kind"]) == (False, [], "unread")
        proxy.heal()
        assert kacas("remote", "verify", "--json", "lab").object["unread"] == []


def test_a_marker_that_is_gone_is_put_back(kacas: Runner, bucket: Path, tmp_path: Path) -> None:
    uri = pushed(kacas, tmp_path, b"some bytes" * 100)
    marker = bucket / "kacas-remote.json"
    remote_id = json.loads(marker.read_bytes())["id"]
    marker.unlink()
    answer = kacas("remote", "verify", "lab")
    assert (answer.code, "kacas remote mark lab" in answer.lines[0]) == (5, True)
    answer = kacas("push", uri)
    assert (answer.code, "kacas remote mark lab" in answer.error) == (14, True)
    kacas("remote", "add", "look", f"file://{bucket}", "--read-only", "--no-probe")
    assert kacas("remote", "mark", "look").code == 9
    assert kacas("remote", "mark", "lab", "--id", "no hex").code == 2
    assert not marker.exists()
    for _ in range(2):
        assert kacas("remote", "mark", "lab").lines == [f"lab has the id {remote_id}"]
    assert json.loads(marker.read_bytes())["id"] == remote_id
    assert kacas("remote", "verify", "--deep", "lab").code == 0


def test_index_makes_recipes_and_names_what_is_wrong(kacas: Runner, bucket: Path) -> None:
    sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d"
    for name, data in ((sha1, b"abc"), ("b" * 40, b"abc")):
        path = bucket / "sha1" / name[:2] / name[2:4] / name[4:6] / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    assert kacas("remote", "index", "--dry-run", "lab").lines[0].startswith("would read 2 plain objects of 6 B")
    answer = kacas("remote", "index", "lab")
    assert answer.code == 5
    assert "1 recipe made" in answer.lines[0]
    assert "b" * 40 in answer.lines[1]
    assert (bucket / "recipes" / "a9" / "99" / sha1).is_file()
