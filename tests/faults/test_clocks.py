"""Clocks that are an hour off, of one host or of several on one store: nothing is lost, dropped or believed by them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import contents, strace, uml
from tests.faults.examination import check_verified, make_store, open_store
from tests.faults.programs.clocked import events_of

OFFSETS_S = {"ahead": 3600, "right": 0, "behind": -3600}
_LIBRARIES = [Path(f"/usr/lib/{arch}-linux-gnu/faketime/libfaketimeMT.so.1") for arch in ("x86_64", "aarch64")]


@pytest.fixture
def faketime() -> Path:
    found = [path for path in _LIBRARIES if path.exists()]
    if not found:
        pytest.skip("not installed: apt-get install libfaketime")
    return found[0]


def off_by(offset_s: int, library: Path) -> dict[str, str]:
    """The environment of a program whose clock is off; the times of files are those of the file server."""
    return strace.environment(
        LD_PRELOAD=str(library), FAKETIME=f"{offset_s:+}", NO_FAKE_STAT="1", DONT_FAKE_MONOTONIC="1",
        FAKETIME_DONT_FAKE_UTIME="1", KACAS_OWNER="somebody",
    )  # fmt: skip


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KACAS_OWNER", "somebody")


@pytest.mark.usefixtures("owner")
def test_hosts_whose_clocks_are_two_hours_apart_lose_and_forget_nothing_wrongly(tmp_path: Path, faketime: Path) -> None:
    make_store(tmp_path, [])
    hosts = [
        subprocess.Popen(
            strace.command("clocked", tmp_path, host, "6"), cwd=strace.ROOT, env=off_by(offset_s, faketime)
        )
        for host, offset_s in OFFSETS_S.items()
    ]
    assert [host.wait(100) for host in hosts] == [0, 0, 0]
    said = {host: events_of(tmp_path, [host]) for host in OFFSETS_S}
    assert said["ahead"][0]["time"] - said["behind"][0]["time"] == pytest.approx(7200, abs=60)
    events = [event for of_one in said.values() for event in of_one]
    stored = {event["stored"]: event["sha1"] for event in events if "stored" in event}
    forgotten = {event["forgotten"] for event in events if "forgotten" in event}
    with open_store(tmp_path / "store", tmp_path / "fresh") as store:
        for uri, sha1 in stored.items():
            assert contents.sha1_of(store.load_bytes(uri)) == sha1
        items = list(store.history())
        assert {item.uri for item in items if not item.forgotten} == stored.keys()
        assert forgotten <= {item.uri for item in items if item.forgotten}
        # Newest first, each by the clock of who stored it.
        assert [item.time_s for item in items] == sorted((item.time_s for item in items), reverse=True)
        check_verified(store)


@pytest.mark.usefixtures("owner")
@pytest.mark.parametrize("offset_s", [3600, -3600])
def test_what_a_host_with_a_wrong_clock_stored_is_forgotten_by_another_and_kept_again(
    tmp_path: Path, faketime: Path, offset_s: int
) -> None:
    def with_wrong_clock(code: str) -> None:
        line = f"import kacas; s = kacas.Store.open({str(tmp_path / 'store')!r}); {code}; s.close()"
        env = off_by(offset_s, faketime) | {"KACAS_CACHE_DIR": str(tmp_path / "other")}
        subprocess.run([sys.executable, "-c", line], cwd=strace.ROOT, env=env, check=True)

    content = contents.text("of two hosts")
    make_store(tmp_path, [])
    with_wrong_clock(f"s.store_text({content.value!r})")
    uri = f"sha1://{content.sha1}"

    def kept() -> list[str]:
        with open_store(tmp_path / "store", tmp_path / "cache") as store:
            return [item.uri for item in store.history() if not item.forgotten]

    assert len(kept()) == 1
    with open_store(tmp_path / "store", tmp_path / "cache") as store:
        store.forget(uri)
    assert kept() == []
    with_wrong_clock(f"s.store_text({content.value!r})")
    assert len(kept()) == 1
    with_wrong_clock(f"s.forget({uri!r})")
    assert kept() == []
    with open_store(tmp_path / "store", tmp_path / "cache") as store:
        content.put(store)
    assert len(kept()) == 1


@pytest.mark.skipif(bool(uml.missing()), reason=uml.missing())
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_a_clock_that_is_set_by_hours_while_a_host_works_loses_nothing(tmp_path: Path, kind: str) -> None:
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(512 << 20)
    mount = "mkfs.ext4 -q /dev/ubda && mount /dev/ubda /mnt" if kind == "ext4" else "true"
    script = f"{mount} && {shlex.join(strace.command('set_clock', '/mnt'))}"
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}
    assert "all is there" in uml.run(script, disks=[disk], environment=environment).check()
    os.unlink(disk)
