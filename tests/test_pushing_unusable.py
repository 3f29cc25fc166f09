"""Content comes first: a remote that cannot be used keeps nobody from storing, and what should be there is pending."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kacas
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from kacas_remote.errors import InvalidRemoteError, PushError
from kacas_remote.pending import PendingPush, pending, write_down

KACAS = str(Path(sys.executable).parent / "kacas")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Remotes, credentials and pending pushes of nobody else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "KACAS_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def mark(url: str, name: str = "lab", **fields: str) -> None:
    made = RemoteConfiguration(name, url, default=name == "lab", push=name == "lab", **fields)  # type: ignore[arg-type]
    change_remotes(lambda others: [*(one for one in others if one.name != name), made])


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    mark(f"file://{tmp_path}/bucket")
    return tmp_path / "bucket"


def unreadable_credentials(home: Path) -> None:
    mark("s3://bucket", endpoint="https://127.0.0.1:9")
    credentials = home / ".config" / "kacas" / "credentials.toml"
    credentials.write_text("[lab]\n")
    credentials.chmod(0o644)


def service_that_is_down(home: Path) -> None:
    (home / "file").write_text("no directory")
    mark(f"file://{home}/file")


@pytest.mark.filterwarnings("ignore:remote lab is left out:RuntimeWarning")  # it is not read from either
@pytest.mark.parametrize("break_it", [unreadable_credentials, service_that_is_down])
@pytest.mark.parametrize("together", [False, True])
def test_content_is_stored_though_its_remote_cannot_be_used(home: Path, break_it: object, together: bool) -> None:
    home.mkdir()
    (home / ".config" / "kacas").mkdir(parents=True)
    assert callable(break_it)
    break_it(home)

    def store() -> None:
        if together:
            with kacas.batch():
                kacas.store_text("text")
        else:
            kacas.store_text("text")

    with pytest.raises(PushError, match="kacas push --pending") as failure:
        store()
    (uri,) = failure.value.uris
    assert kacas.load_text(uri) == "text"
    assert [one.uris for one in pending()] == [(uri,)]
    (home / "bucket").mkdir()
    mark(f"file://{home}/bucket")
    kacas.push_pending()
    assert pending() == []
    assert list((home / "bucket" / "packs").iterdir())


def test_content_is_stored_though_the_packages_for_remotes_are_missing(bucket: Path) -> None:
    code = (
        "import sys, kacas\n"
        "for name in ('obstore', 'httpx', 'tenacity', 'nacl'): sys.modules[name] = None\n"
        "try: kacas.store_text('text')\n"
        "except OSError as exc: print(type(exc).__name__, exc, *exc.uris)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("PushError"), done
    assert "pip install" in done.stdout
    uri = done.stdout.split()[-1]
    assert kacas.load_text(uri) == "text"
    assert [one.uris for one in pending()] == [(uri,)]


def test_content_is_stored_though_what_is_pending_cannot_be_noted(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bucket / "file").write_text("no directory")
    monkeypatch.setenv("XDG_STATE_HOME", str(bucket / "file"))
    with pytest.raises(PushError, match="kacas push --to lab") as failure:
        kacas.store_text("text")
    assert kacas.load_text(failure.value.uris[0]) == "text"


def test_a_name_of_the_environment_that_is_none_is_refused_before_anything_is_stored(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KACAS_REMOTE", "lob")
    with pytest.raises(InvalidRemoteError, match="lob"):
        kacas.store_text("text")
    monkeypatch.delenv("KACAS_REMOTE")
    assert list(kacas.history()) == []


@pytest.mark.parametrize("together", [False, True])
def test_who_is_killed_when_all_is_stored_finds_it_pending(bucket: Path, together: bool) -> None:
    code = (
        "import os, kacas\n"
        "from kacas.pushing import Outgoing\n"
        "Outgoing.send = lambda *_: os.kill(os.getpid(), 9)\n"
        + ("with kacas.batch(): [kacas.store_text(str(n)) for n in range(3)]" if together else "kacas.store_text('0')")
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sum(map(len, (one.uris for one in pending()))) == (3 if together else 1)
    kacas.push_pending()
    assert pending() == []
    assert len(list((bucket / "packs").iterdir())) == 1


def test_who_is_killed_before_a_batch_is_published_leaves_nothing_that_stays_pending(bucket: Path) -> None:
    code = (
        "import os, kacas\n"
        "from kacas.repository import Repository\n"
        "Repository.end_batch = lambda *_: os.kill(os.getpid(), 9)\n"
        "with kacas.batch(): kacas.store_text('text')"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert len(pending()) == 1
    kacas.push_pending()
    assert pending() == []


def test_a_batch_that_cannot_be_published_is_not_pending(bucket: Path) -> None:
    code = (
        "import kacas\n"
        "from kacas.repository import Repository\n"
        "def full(*_): raise OSError('full')\n"
        "Repository.end_batch = full\n"
        "with kacas.batch(): kacas.store_text('text')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 1
    assert pending() == []


def test_a_note_that_cannot_be_served_keeps_no_other_from_being_sent(bucket: Path, tmp_path: Path) -> None:
    lost = "sha1://" + 40 * "0"
    for store, remote in ((tmp_path / "no-store", "lab"), (kacas.default.default_store().path, "gone")):
        write_down(PendingPush(str(store), remote, (lost,))).release()
    (bucket.parent / "aside").mkdir()
    uri = kacas.store_text("text", push=False)
    write_down(PendingPush(str(kacas.default.default_store().path), "lab", (uri,))).release()
    done = subprocess.run([KACAS, "push", "--pending"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 14, done
    assert "no-store" in done.stderr
    assert "delete" in done.stderr
    assert sorted(one.uris for one in pending()) == [(lost,), (lost,)]
    assert list((bucket / "packs").iterdir())
    with pytest.raises(PushError, match="delete"):
        kacas.push_pending()


@pytest.mark.parametrize("command", ["store", "link"])
def test_a_path_after_push_is_a_path(bucket: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "other").mkdir()
    mark(f"file://{tmp_path}/other", "other")
    (tmp_path / "lab").write_text("a file that is called like a remote")
    done = subprocess.run([KACAS, command, "--push", "lab"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1), done
    assert list((bucket / "packs").iterdir())
    done = subprocess.run(
        [KACAS, command, "--push-to", "other", "lab"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done
    assert os.listdir(tmp_path / "other" / "packs")
    done = subprocess.run(
        [KACAS, command, "--push-to", "", "lab"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert done.stdout == ""
