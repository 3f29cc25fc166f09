"""What is stored is uploaded when it is stored: by name, because the user marked a remote for it, in batches, and failing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from kacas_remote.errors import InvalidRemoteError, PushError, RemoteNotFoundError
from kacas_remote.pending import pending
from kacas_remote.remote import Remote, open_remote
from kacas_remote.tables import Tables


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Remotes, pending pushes and identity of nobody else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "KACAS_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def lab(tmp_path: Path) -> Remote:
    return add("lab", tmp_path / "bucket")


def add(name: str, path: Path, *, default: bool = False, push: bool = False) -> Remote:
    path.mkdir(exist_ok=True)
    made = RemoteConfiguration(name, f"file://{path}", default=default, push=push)
    change_remotes(lambda others: [*others, made])
    return open_remote(name)


def is_at(remote: Remote, uri: str) -> bool:
    """By its recipe, or else by the table of a pack."""
    sha1 = bytes.fromhex(uri.partition("://")[2][:40])
    if any(remote.blobs.list(f"recipes/{sha1.hex()[:2]}/{sha1.hex()[2:4]}/{sha1.hex()}")):
        return True
    tables = Tables(remote, Path("tables-of-a-test"))
    tables.refresh()
    return bool(tables.entries([sha1]).get(sha1))


def packs(remote: Remote) -> int:
    return len(list(remote.blobs.list("packs/")))


def break_down(path: Path) -> Callable[[], None]:
    """The bucket is gone: a file is where it was. Returns what brings it back."""
    aside = path.with_suffix(".aside")
    path.rename(aside)
    path.write_text("no directory")

    def mend() -> None:
        path.unlink()
        aside.rename(path)

    return mend


STORES: dict[str, Callable[..., str]] = {
    "store_bytes": lambda **how: kacas.store_bytes(b"bytes", **how),
    "store_text": lambda **how: kacas.store_text("text", **how),
    "store_json": lambda **how: kacas.store_json({"a": 1}, **how),
    "store_npy": lambda **how: kacas.store_npy(np.arange(9), **how),
    "store_pkl": lambda **how: kacas.store_pkl([1, 2], **how),
    "store_file": lambda **how: kacas.store_file("some/file", **how),
    "store_dir": lambda **how: kacas.store_dir("some", **how),
    "link_file": lambda **how: kacas.link_file("some/file", **how),
    "link_dir": lambda **how: kacas.link_dir("some", **how),
}


@pytest.fixture(autouse=True)
def some(tmp_path: Path, home: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file").write_bytes(b"file")


@pytest.mark.parametrize("name", STORES)
def test_every_store_function_pushes_where_it_is_told_to(name: str, lab: Remote) -> None:
    uri = STORES[name]()
    assert packs(lab) == 0
    assert STORES[name](push="lab") == uri
    assert is_at(lab, uri)
    assert kacas.exists(uri)


def test_the_cases_are_all_the_functions_that_store() -> None:
    assert set(STORES) == {name for name in kacas.__all__ if name.startswith(("store_", "link_"))}


def test_a_remote_that_is_marked_for_it_is_pushed_to_without_being_asked(tmp_path: Path) -> None:
    lab = add("lab", tmp_path / "bucket", default=True, push=True)
    assert is_at(lab, kacas.store_text("for all of us"))
    assert not is_at(lab, kacas.store_text("for me", push=False))


def test_a_default_remote_without_the_mark_is_pushed_to_only_when_asked(tmp_path: Path) -> None:
    lab = add("lab", tmp_path / "bucket", default=True)
    assert not is_at(lab, kacas.store_text("for me"))
    assert is_at(lab, kacas.store_text("for all of us", push=True))


def test_the_environment_names_the_remote_that_is_pushed_to(lab: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KACAS_REMOTE", "lab")
    assert is_at(lab, kacas.store_text("text"))
    monkeypatch.setenv("KACAS_REMOTE", "")
    assert not is_at(lab, kacas.store_text("other text"))


def test_a_remote_that_cannot_be_meant_is_refused_before_anything_is_stored(lab: Remote) -> None:
    change_remotes(lambda others: [*others, RemoteConfiguration("web", "https://example.org/data")])
    with pytest.raises(RemoteNotFoundError, match="lob"):
        kacas.store_text("text", push="lob")
    with pytest.raises(InvalidRemoteError, match="only be read"):
        kacas.store_text("text", push="web")
    with pytest.raises(InvalidRemoteError, match="no default remote"):
        kacas.store_text("text", push=True)
    with pytest.raises(RemoteNotFoundError), kacas.npy_writer((1, 1), np.int8, push="lob"):
        pytest.fail("nothing is appended")
    assert list(kacas.history()) == []


def test_an_array_that_is_written_by_rows_is_pushed_when_its_block_ends(lab: Remote) -> None:
    with kacas.npy_writer((2, 3), np.int16, push="lab") as writer:
        writer.append(np.ones((2, 3), np.int16))
        assert packs(lab) == 0
    assert is_at(lab, writer.uri)


def test_a_batch_is_pushed_in_one_go_when_it_ends(lab: Remote) -> None:
    with kacas.batch():
        uris = [kacas.store_text(f"text {i}", push="lab") for i in range(20)]
        kept = kacas.store_text("for me")
        with kacas.batch(), kacas.npy_writer((None,), int, push="lab") as writer:
            writer.append([1, 2])
        assert packs(lab) == 0
    assert packs(lab) == 1
    assert all(is_at(lab, uri) for uri in [*uris, writer.uri])
    assert not is_at(lab, kept)


def test_a_batch_that_fails_pushes_nothing(lab: Remote) -> None:
    def fail() -> None:
        with kacas.batch():
            kacas.store_text("text", push="lab")
            raise RuntimeError("our own")

    with pytest.raises(RuntimeError, match="our own"):
        fail()
    assert packs(lab) == 0
    assert pending() == []
    assert is_at(lab, kacas.store_text("after it", push="lab"))


def test_what_could_not_be_pushed_is_safe_here_and_pending(lab: Remote, tmp_path: Path) -> None:
    mend = break_down(tmp_path / "bucket")
    with pytest.raises(PushError, match="lab") as failure:
        kacas.store_text("text", label="a.txt", push="lab")
    (uri,) = failure.value.uris
    assert kacas.load_text(uri) == "text"
    assert [(one.remote, one.uris) for one in pending()] == [("lab", (uri,))]
    mend()
    kacas.push_pending()
    assert is_at(lab, uri)
    assert pending() == []


def test_an_array_is_stored_though_it_could_not_be_pushed(lab: Remote, tmp_path: Path) -> None:
    break_down(tmp_path / "bucket")
    with pytest.raises(PushError) as failure, kacas.npy_writer((2,), int, push="lab") as writer:
        writer.append([1, 2])
    assert failure.value.uris == (writer.uri,)
    assert kacas.load_npy(writer.uri).tolist() == [1, 2]


def test_of_two_remotes_the_good_one_gets_its_part_of_a_batch(lab: Remote, tmp_path: Path) -> None:
    bad = add("bad", tmp_path / "other")
    break_down(tmp_path / "other")
    uris: list[str] = []

    def store_both() -> None:
        with kacas.batch():
            uris.extend([kacas.store_text("one", push="bad"), kacas.store_text("two", push="lab")])

    with pytest.raises(PushError, match=bad.name) as failure:
        store_both()
    lost, uri = uris
    assert failure.value.uris == (lost,)
    assert kacas.load_text(lost) == "one"
    assert is_at(lab, uri)


def test_push_pull_and_sync_are_functions_of_the_default_store(lab: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, other = kacas.store_text("one"), kacas.store_text("two")
    assert kacas.push([uri], to="lab").contents == 1
    assert kacas.push(uri, to="lab").sent_size == 0
    kacas.sync(to="lab")
    assert is_at(lab, other)
    monkeypatch.setenv("KACAS_DIR", "new-store")
    kacas.pull([uri, other], source="lab")
    with kacas.Store.open("new-store") as alone:
        assert alone.load_text(uri) == "one"
        assert alone.load_text(other) == "two"


def test_without_a_remote_storing_imports_nothing_of_remotes() -> None:
    code = (
        "import sys, kacas; kacas.store_text('text'); kacas.npy_writer((0,), int).close()\n"
        "with kacas.batch(): kacas.store_json(1)\n"
        "assert not [name for name in sys.modules if name.startswith(('kacas_remote', 'obstore', 'httpx'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def kacas_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "kacas"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_pushes_what_it_stored_to_the_remote_that_is_named_or_marked(lab: Remote, tmp_path: Path) -> None:
    done = kacas_command("store", "--push-to", "lab", "some")
    assert done.returncode == 0, done.stderr
    assert is_at(lab, done.stdout.strip())
    other = add("other", tmp_path / "other", default=True)
    linked = kacas_command("link", "--push", "some/file")
    assert linked.returncode == 0, linked.stderr
    assert is_at(other, linked.stdout.strip())
    assert packs(other) == 1
    assert kacas_command("store", "some/file").returncode == 0
    assert packs(other) == 1
    change_remotes(lambda all_of: [RemoteConfiguration("other", all_of[1].url, default=True, push=True)])
    (tmp_path / "some" / "new").write_text("new")
    assert kacas_command("--store", "else", "store", "some/new").returncode == 0
    assert packs(other) == 1
    assert kacas_command("store", "some/new").returncode == 0
    assert packs(other) == 2


def test_the_command_prints_the_uris_of_what_it_could_not_push(lab: Remote, tmp_path: Path) -> None:
    mend = break_down(tmp_path / "bucket")
    done = kacas_command("store", "some/file", "--push-to", "lab")
    assert done.returncode == 14
    uri = done.stdout.strip()
    assert kacas.load_bytes(uri) == b"file"
    assert "kacas push --pending" in done.stderr
    mend()
    assert [summary.contents for summary in kacas.push_pending()] == [1]
    assert is_at(lab, uri)


def test_pull_fetches_all_that_can_be_had_and_then_says_what_could_not(
    lab: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, tree = kacas.store_text("one", push="lab"), kacas.store_dir("some", push="lab")
    monkeypatch.setenv("KACAS_DIR", "new-store")
    with pytest.raises(kacas.NotFoundError, match=40 * "0"):
        kacas.pull(["sha1://" + 40 * "0", uri, tree], source="lab")
    with kacas.Store.open("new-store") as alone:
        assert alone.load_text(uri) == "one"
        assert (alone.load_dir(tree, "restored") / "file").read_bytes() == b"file"
    assert kacas.pull(uri).contents_here == 1
    with pytest.raises(RemoteNotFoundError):
        kacas.pull(uri, source="lob")
