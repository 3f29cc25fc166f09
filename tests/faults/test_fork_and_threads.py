"""One store object across a fork and in many threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import kacas
from tests.faults import contents
from tests.faults.children import fork, run
from tests.faults.examination import check_index, check_verified, names, open_store


def test_a_forked_child_stores_and_loads_with_its_parents_store(store: kacas.Store) -> None:
    before = contents.array("before the fork", 9000)
    uri = before.put(store)
    before.check(store, uri)

    def child() -> str:
        before.check(store, uri)
        stored = contents.text("by the child")
        stored.check(store, stored.put(store))
        with store.batch():
            inside = contents.json("in the child's batch").put(store)
        contents.json("in the child's batch").check(store, inside)
        contents.large().check(store, contents.large().put(store))
        return inside

    inside = run(child).get()
    # The parent is not disturbed, and sees what the child stored.
    before.check(store, uri)
    contents.json("in the child's batch").check(store, inside)
    contents.text("by the child").check(store, f"sha1://{contents.text('by the child').sha1}")
    after = contents.text("by the parent")
    after.check(store, after.put(store))
    check_verified(store)
    check_index(store)


def test_parent_child_and_grandchild_store_at_the_same_time(store: kacas.Store) -> None:
    def put_many(who: str) -> None:
        for number in range(25):
            content = contents.json(f"{who} {number}")
            content.check(store, content.put(store))

    def child() -> None:
        grandchild = fork(lambda: put_many("grandchild"))
        put_many("child")
        grandchild.wait().get()

    put_many("parent before")
    running = fork(child)
    put_many("parent")
    running.wait().get()
    for who in ("parent before", "parent", "child", "grandchild"):
        for number in range(25):
            content = contents.json(f"{who} {number}")
            content.check(store, f"sha1://{content.sha1}")
    check_verified(store)
    check_index(store)


def test_a_child_that_puts_into_its_parents_batch_is_refused_and_leaves_it_whole(store: kacas.Store) -> None:
    large, small = contents.large(), contents.text("by the child")

    def child() -> None:
        for content in (small, contents.array("of the child", 3000)):
            with pytest.raises(kacas.StoreClosedError, match="after the fork"):
                content.put(store)

    with store.batch():
        uri = large.put(store)
        run(child).get()
    large.check(store, uri)
    assert not store.exists(f"sha1://{small.sha1}")
    check_verified(store)


def test_a_child_that_closes_the_store_or_exits_leaves_it_to_its_parent(store: kacas.Store) -> None:
    content = contents.text("kept")
    uri = content.put(store)

    def close() -> None:
        store.close()
        with pytest.raises(kacas.StoreClosedError):
            store.load_bytes(uri)

    run(close).get()
    content.check(store, uri)
    pid = os.fork()
    if pid == 0:
        try:
            content.check(store, uri)
            del store
            sys.exit(0)  # with all that the interpreter does at its end
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    content.check(store, uri)
    contents.text("later").check(store, contents.text("later").put(store))


def test_open_files_and_lazy_arrays_work_in_a_child(store: kacas.Store) -> None:
    array = contents.array("lazy", 20_000)
    uri = array.put(store)
    lazy, file = store.open_npy(uri), store.open_file(uri)
    assert np.array_equal(lazy[100:200], array.value[100:200])

    def child() -> None:
        assert np.array_equal(lazy[5000:5100], array.value[5000:5100])
        assert np.array_equal(np.asarray(lazy), array.value)
        file.seek(1000)
        assert file.read(5000) == array.data[1000:6000]

    run(child).get()
    assert np.array_equal(lazy[-3:], array.value[-3:])
    file.seek(7)
    assert file.read(300_000) == array.data[7:300_007]


def test_a_child_in_the_middle_of_its_parents_batch_is_refused_and_the_batch_is_whole(store: kacas.Store) -> None:
    batch = contents.batch()
    child_content = contents.text("by the child")
    with store.batch():
        stored = {content.put(store): content for content in batch[:10]}
        before = names(store.path)

        def child() -> None:
            with pytest.raises(kacas.StoreClosedError, match="parent"):
                child_content.put(store)
            with pytest.raises(kacas.StoreClosedError, match="parent"):
                contents.large().put(store)

        run(child).get()
        assert names(store.path) == before, "the child touched its parent's temporary"
        stored |= {content.put(store): content for content in batch[10:]}
    for uri, content in stored.items():
        content.check(store, uri)
    assert not store.exists(f"sha1://{child_content.sha1}")
    assert check_verified(store).orphans == []


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_a_child_that_leaves_its_parents_batch_publishes_and_removes_nothing(store: kacas.Store, how: str) -> None:
    content = contents.text("of the batch")
    with store.batch():
        uri = content.put(store)
        before = names(store.path)
        pid = os.fork()
        if pid == 0:
            # Out of the with block, as a child does that forgets to exit.
            leave = store.batch()
            try:
                with leave:
                    if how == "raises":
                        raise KeyError("in the child")
                    contents.text("by the child").put(store)
            except (kacas.StoreClosedError, KeyError):
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert status == 0
        assert names(store.path) == before
    content.check(store, uri)
    assert check_verified(store).orphans == []


def test_children_of_a_busy_threaded_parent_never_hang(store: kacas.Store) -> None:
    """A fork copies locks as other threads hold them; threads are not copied."""
    known = contents.array("known to all", 9000)
    uri = known.put(store)
    stop = threading.Event()

    def work(number: int) -> int:
        count = 0
        while not stop.is_set():
            content = contents.json(f"thread {number} {count}")
            content.check(store, content.put(store))
            known.check(store, uri)
            store.exists("sha1://" + "00" * 20)
            count += 1
        return count

    def child(number: int) -> None:
        known.check(store, uri)
        content = contents.text(f"child {number}")
        content.check(store, content.put(store))
        assert not store.exists("sha1://" + "11" * 20)
        with store.batch():
            contents.text(f"in a batch of child {number}").put(store)

    with ThreadPoolExecutor(6) as pool:
        busy = [pool.submit(work, number) for number in range(6)]
        try:
            for first in range(0, 24, 3):
                children = [fork(lambda number=first + i: child(number)) for i in range(3)]  # type: ignore[misc]
                for running in children:
                    running.wait(timeout_s=10).get()
        finally:
            stop.set()
        assert all(future.result() > 0 for future in busy)
    for number in range(24):
        content = contents.text(f"child {number}")
        content.check(store, f"sha1://{content.sha1}")
    check_verified(store)
    check_index(store)


def in_threads(count: int, function: Callable[[int], object]) -> list[object]:
    """function(number) in `count` threads that begin together; the first exception is raised."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> object:
        barrier.wait(timeout=30)
        return function(number)

    with ThreadPoolExecutor(count) as pool:
        return [future.result(timeout=120) for future in [pool.submit(begin, number) for number in range(count)]]


def test_eight_threads_put_and_load_through_one_store(store: kacas.Store) -> None:
    shared = [contents.array("shared", 20_000), contents.noise("shared noise", 20_000), *contents.singles()]
    uris: dict[str, contents.Content] = {}

    def work(number: int) -> None:
        for content in shared[number % len(shared) :] + shared[: number % len(shared)]:
            uri = content.put(store)
            uris[uri] = content
            content.check(store, uri)
        for count in range(15):
            own = contents.json(f"thread {number} {count}")
            uris[own.put(store)] = own
            for uri, content in list(uris.items())[-5:]:
                content.check(store, uri)
            assert not store.exists(f"sha1://{number:020x}{count:020x}")

    in_threads(8, work)
    for uri, content in uris.items():
        content.check(store, uri)
    check_verified(store)
    check_index(store)


def test_a_batch_belongs_to_its_thread_and_others_go_on(store: kacas.Store) -> None:
    def work(number: int) -> list[str]:
        if number % 2:
            with store.batch():
                found = [contents.json(f"batch {number} {count}").put(store) for count in range(40)]
                # Not there for others until the batch ends: here only what this thread did is open.
                assert not store.exists(found[0])
            return found
        return [contents.json(f"single {number} {count}").put(store) for count in range(10)]

    for uris in in_threads(6, work):
        for uri in uris:  # type: ignore[attr-defined]
            assert store.exists(uri)
    check_verified(store)


def test_many_threads_read_one_lazy_array_and_one_uri(store: kacas.Store) -> None:
    array = contents.array("one lazy array", 60_000)
    uri = array.put(store)
    lazy = store.open_npy(uri)

    def read(number: int) -> None:
        generator = np.random.default_rng([contents.SEED, number])
        for start in generator.integers(59_000, size=25).tolist():
            assert np.array_equal(lazy[start : start + 700], array.value[start : start + 700])
            assert store.load_bytes(uri, start, start + 300_000) == array.data[start : start + 300_000]

    in_threads(8, read)


def test_threads_materialise_one_file_at_once(store: kacas.Store) -> None:
    array = contents.array("materialised", 20_000)
    uri = array.put(store)
    paths = in_threads(8, lambda _: store.load_file(uri))
    assert len(set(paths)) == 1
    assert Path(str(paths[0])).read_bytes() == array.data
    beside = sorted(path.name for path in Path(str(paths[0])).parent.iterdir() if not path.name.endswith(".json"))
    assert beside == [Path(str(paths[0])).name]


def test_a_store_that_is_closed_while_threads_use_it_gives_right_answers_or_says_so(tmp_path: Path) -> None:
    content = contents.array("of a closing store", 9000)
    for round_number in range(6):
        store = open_store(tmp_path / "store", tmp_path / "cache", create=True)
        uri = content.put(store)

        def use(number: int, store: kacas.Store = store, uri: str = uri, round_number: int = round_number) -> None:
            if number == 0:
                store.close()
                return
            for count in range(30):
                try:
                    content.check(store, uri)
                    contents.text(f"{round_number} {number} {count}").put(store)
                except kacas.StoreClosedError:
                    return

        in_threads(5, use)
        with pytest.raises(kacas.StoreClosedError):
            store.load_bytes(uri)
    with open_store(tmp_path / "store", tmp_path / "cache") as store:
        content.check(store, uri)
        check_verified(store)
        check_index(store)


AFTER_THE_END = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import kacas

array = np.arange(1 << 22, dtype="<u4").reshape(-1, 64)

def read(store, uris):
    while True:  # until nobody can have new threads
        try:
            ThreadPoolExecutor(1).submit(int)
        except RuntimeError:
            break
        time.sleep(0.01)
    same = [np.array_equal(store.load_npy(uri), array) for uri in uris]
    columns = [np.array_equal(store.open_npy(uri)[:, 5], array[:, 5]) for uri in uris]
    print(same, columns)

store = kacas.Store.open(sys.argv[1], durability="relaxed")
uris = [store.store_npy(array, chunks=chunks) for chunks in (None, (4096, 16))]
threading.Thread(target=read, args=(store, uris)).start()
"""


def test_a_thread_that_outlives_the_main_threads_code_reads_chunks_and_tiles(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", AFTER_THE_END, str(tmp_path / "quick")], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.split("\n") == ["[True, True] [True, True]", ""], ended.stderr
