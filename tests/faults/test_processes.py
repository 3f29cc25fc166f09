"""Many processes on one store: they see each other's puts at once, and make, fill and read it together."""

from __future__ import annotations

import os
import pickle
import subprocess
import time
from pathlib import Path

import pytest

import kacas
from tests.faults import contents, strace
from tests.faults.children import Child, become_nobody, fork, run
from tests.faults.examination import check_sound, check_verified, make_store, names, open_store, said
from tests.faults.peers import peers
from tests.faults.programs import puts


def put_text(store: kacas.Store, label: str) -> str:
    return contents.text(label).put(store)


def put_array(store: kacas.Store, label: str) -> str:
    return contents.noise(label, 3 * contents.MIB // 128).put(store)


def put_batch(store: kacas.Store, label: str) -> list[str]:
    with store.batch():
        return [contents.json(f"{label}-{i}").put(store) for i in range(20)]


def load_text(store: kacas.Store, label: str) -> bool:
    """What is known by its identity alone."""
    content = contents.text(label)
    uri = f"sha1://{content.sha1}"
    if not store.exists(uri):
        with pytest.raises(kacas.NotFoundError):
            store.load_bytes(uri)
        return False
    content.check(store, uri)
    return True


def load_array(store: kacas.Store, label: str) -> None:
    content = contents.noise(label, 3 * contents.MIB // 128)
    content.check(store, f"sha1://{content.sha1}")


def load_batch(store: kacas.Store, label: str) -> None:
    for i in range(20):
        content = contents.json(f"{label}-{i}")
        content.check(store, f"sha1://{content.sha1}")


def verify_store(store: kacas.Store, _: object) -> None:
    check_verified(store)


@pytest.mark.parametrize("caches", [("same", "same"), ("one", "other")], ids=["one index", "an index each"])
def test_processes_see_each_others_puts_at_once(tmp_path: Path, caches: tuple[str, str]) -> None:
    make_store(tmp_path, [])
    with peers(tmp_path / "store", *(tmp_path / cache for cache in caches)) as (one, other):
        for number in range(30):
            for writer, reader in ((one, other), (other, one)):
                label = f"{number} {writer is one}"
                # A miss that was remembered would be wrong a moment later.
                assert not reader.ask(load_text, label)
                writer.ask(put_text, label)
                assert reader.ask(load_text, label)
                assert writer.ask(load_text, label)
        for writer, reader in ((one, other), (other, one)):
            writer.ask(put_array, str(writer is one))
            reader.ask(load_array, str(writer is one))
            writer.ask(put_batch, str(writer is one))
            reader.ask(load_batch, str(writer is one))
        for peer in (one, other):
            peer.ask(verify_store)


def start_together(count: int, function: object) -> list[Child]:
    """function(number) in `count` children, which begin at one moment."""
    start = time.monotonic() + 0.1

    def begin(number: int) -> object:
        while time.monotonic() < start:
            pass
        return function(number)  # type: ignore[operator]

    return [fork(lambda number=number: begin(number)) for number in range(count)]  # type: ignore[misc]


@pytest.mark.parametrize("round_number", range(8))
def test_processes_that_make_one_store_at_once_make_one_store(tmp_path: Path, round_number: int) -> None:
    def make_and_put(number: int) -> tuple[str, str]:
        with open_store(tmp_path / "store", tmp_path / "cache", create=True) as store:
            return store.store_id, contents.text(f"by {number}").put(store)

    made = [child.wait().get() for child in start_together(6, make_and_put)]
    assert len({store_id for store_id, _ in made}) == 1
    stored = {uri: contents.text(f"by {number}") for number, (_, uri) in enumerate(made)}
    check_sound(tmp_path, stored, tmp_path / "fresh-cache")
    left = {name for name in names(tmp_path / "store") if ".tmp." in name}
    assert left == set()


@pytest.mark.parametrize(
    "step, call", [("kacas.toml", "openat"), ("kacas.toml", "link"), ("packs", "mkdir"), (".", "mkdir")]
)
def test_a_process_that_is_slow_to_make_a_store_meets_one_that_was_quick(tmp_path: Path, step: str, call: str) -> None:
    """The slow one stops for half a second behind each step; the quick one makes and fills the store meanwhile."""
    place = tmp_path / "new"
    place.mkdir()
    log = tmp_path / "log"
    options = ["-o", str(log), "-e", f"trace=?{call},?{call}at", "-P", str(place / "store" / step)]
    options += ["-e", f"inject=?{call},?{call}at:delay_exit=500000"]
    slow = fork(lambda: strace.attach(lambda: puts.run("new", place), options).get())
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < deadline, f"no {call} of {step}"
        time.sleep(0.005)
    with open_store(place / "store", place / "quick-cache", create=True) as store:
        store_id, uri = store.store_id, contents.text("quick").put(store)
    slow.wait().get()
    assert "(DELAYED)" in log.read_text()
    events = said(place)
    assert events[-1] == {"done": True}, events
    assert events[0]["opened"] == store_id
    check_sound(
        place,
        {uri: contents.text("quick"), events[1]["uri"]: contents.text("first")},
        place / "fresh-cache",
    )


def test_processes_that_store_the_same_at_once_all_get_uris_that_load(tmp_path: Path) -> None:
    make_store(tmp_path, [])
    same = [*contents.singles(), contents.array("the same array", 9000), *contents.batch()]

    def put_all(number: int) -> dict[str, str]:
        with open_store(tmp_path / "store", tmp_path / "cache") as store:
            if number % 2:
                with store.batch():
                    return {content.put(store): content.label for content in same}
            found = {}
            for content in same:
                uri = content.put(store)
                content.check(store, uri)
                found[uri] = content.label
            return found

    answers = [child.wait().get() for child in start_together(6, put_all)]
    assert all(answer == answers[0] for answer in answers)
    by_label = {content.label: content for content in same}
    check_sound(tmp_path, {uri: by_label[label] for uri, label in answers[0].items()}, tmp_path / "fresh-cache")


def test_a_pickled_store_works_in_a_new_process(tmp_path: Path, store: kacas.Store) -> None:
    labels = {content.put(store): content.label for content in contents.singles()}
    done = subprocess.run(
        strace.command("unpickle"),
        input=pickle.dumps((store, labels)),
        cwd=strace.ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    content = contents.text("from the other process")
    content.check(store, done.stdout.decode().strip())


def test_a_store_in_another_pid_namespace_sees_the_same_content(tmp_path: Path, store: kacas.Store) -> None:
    """As in a container: pids mean something else there, and LMDB's locks name pids."""
    labels = {content.put(store): content.label for content in contents.singles()}
    line = ["unshare", "--fork", "--pid", "--mount-proc"]
    probe = subprocess.run([*line, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"this machine does not let us make a pid namespace: {probe.stderr.strip()}")
    for _ in range(2):
        done = subprocess.run(
            [*line, *strace.command("unpickle")],
            input=pickle.dumps((store, labels)),
            cwd=strace.ROOT,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        content = contents.text("from the other process")
        content.check(store, done.stdout.decode().strip())
        check_verified(store)


def test_a_read_only_store_loads_and_refuses_puts_by_name(open_place: Path) -> None:
    content = contents.array("for all", 3000)
    stored = make_store(open_place, [content, *contents.singles()])
    (open_place / "reader").mkdir()
    (open_place / "reader").chmod(0o777)
    for path in [*(open_place / "store").rglob("*"), open_place / "store"]:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def read() -> None:
        if os.geteuid() == 0:
            become_nobody(open_place / "reader")
        with open_store(open_place / "store", open_place / "reader" / "cache") as store:
            for uri, known in stored.items():
                known.check(store, uri)
            array_uri = next(uri for uri, known in stored.items() if known is content)
            assert store.load_file(array_uri).read_bytes() == content.data
            assert (store.open_npy(array_uri)[5:9] == content.value[5:9]).all()
            assert not store.exists("sha1://" + "00" * 20)
            check_verified(store)
            refused = contents.text("refused")
            with pytest.raises(kacas.ReadOnlyStoreError):
                refused.put(store)
            with pytest.raises(kacas.ReadOnlyStoreError), store.batch():
                refused.put(store)
            with pytest.raises(kacas.ReadOnlyStoreError):
                contents.large().put(store)
            assert not store.exists(f"sha1://{refused.sha1}")
            for uri, known in stored.items():
                known.check(store, uri)

    before = names(open_place / "store")
    run(read).get()
    assert names(open_place / "store") == before


def test_a_store_that_may_not_be_made_is_refused_by_name(open_place: Path) -> None:
    (open_place / "closed").mkdir()
    (open_place / "reader").mkdir()
    (open_place / "reader").chmod(0o777)
    (open_place / "closed").chmod(0o555)

    def make() -> None:
        if os.geteuid() == 0:
            become_nobody(open_place / "reader")
        with pytest.raises(kacas.ReadOnlyStoreError):
            open_store(open_place / "closed" / "store", open_place / "reader" / "cache", create=True)
        with pytest.raises(kacas.StoreNotFoundError):
            open_store(open_place / "closed" / "store", open_place / "reader" / "cache")

    run(make).get()
    assert list((open_place / "closed").iterdir()) == []
