"""Moving in: killed, interrupted, run twice at once: nothing is lost, and what is here is not read again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kacas import Store
from kacas.interop import kachery_import
from kacas.interop.import_report import ImportReport
from kacas.interop.kachery_import import import_kachery
from kacas.upkeep.verify import verify
from tests.cli.conftest import PROGRAM
from tests.faults.children import fork, peak_memory, run
from tests.interop.kachery import Kachery

COUNT = 1500
GIB_OF_ZEROS = "2a492f15396a6768bcbca016993f4b4c8b0b5307"


class Until:
    """Watches an import, and does something when so many contents are done."""

    def __init__(self, count: int, do: Callable[[], None]) -> None:
        self.left = count
        self.do = do
        self.total: int | None = None
        self.done = 0

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        assert (stage, total) == ("counting", None)

    def expect(self, total: int | None) -> None:
        self.total = total

    def begin(self, name: str) -> None:
        assert name

    def finished(self, size: int) -> None:
        self.done += size
        self.left -= 1
        if self.left == 0:
            self.do()


@pytest.fixture
def uris(kachery: Kachery, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Contents of a directory, of which a batch takes a third."""
    monkeypatch.setattr(kachery_import, "_BATCH_COUNT", 512)
    return {kachery.keep(data): data for data in (b"content %d" % number * 50 for number in range(COUNT))}


def assert_all_here(store: Store, uris: dict[str, bytes]) -> None:
    assert all(store.load_bytes(uri) == data for uri, data in uris.items())
    assert verify(store).clean


def test_an_import_that_is_killed_is_taken_up_where_its_last_batch_ended(
    kachery: Kachery, uris: dict[str, bytes], tmp_path: Path
) -> None:
    def killed() -> None:
        with Store.open(tmp_path / "store") as store:
            import_kachery(store, kachery.path, watcher=Until(1200, lambda: os.kill(os.getpid(), signal.SIGKILL)))

    assert run(killed).killed_by == "SIGKILL"
    with Store.open(tmp_path / "store") as store:
        report = import_kachery(store, kachery.path)
        assert (report.here, report.copied, report.complete) == (1024, COUNT - 1024, True)
        assert_all_here(store, uris)


def test_an_import_that_is_interrupted_leaves_a_clean_store(
    store: Store, kachery: Kachery, uris: dict[str, bytes]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_kachery(store, kachery.path, watcher=Until(700, interrupt))
    assert verify(store).orphans == []
    assert import_kachery(store, kachery.path).here == 512
    assert_all_here(store, uris)


def test_two_imports_at_once_import_all(kachery: Kachery, uris: dict[str, bytes], tmp_path: Path) -> None:
    kachery.mutable("@a/key", "value")
    kachery.keys()
    before = kachery.state()

    def moved() -> ImportReport:
        with Store.open(tmp_path / "store") as store:
            return import_kachery(store, kachery.path, keys=True)

    children = [fork(moved) for _ in range(3)]
    reports = [child.wait().get() for child in children]
    assert all(report.complete and report.copied + report.here == COUNT for report in reports)
    assert sorted(report.key_pair for report in reports) == ["here", "here", "imported"]
    assert sum(report.mutables for report in reports) == 1
    with Store.open(tmp_path / "store") as store:
        assert_all_here(store, uris)
    assert kachery.state() == before


def test_who_watches_is_told_all_sizes_and_how_much_is_done(store: Store, kachery: Kachery, tmp_path: Path) -> None:
    (tmp_path / "linked").write_bytes(bytes(2000))
    kachery.link(tmp_path / "linked")
    kachery.keep(bytes(1000))
    kachery.place("ab" * 20).write_bytes(bytes(500))  # damaged, and done with all the same
    for _ in range(2):
        watcher = Until(0, lambda: None)
        import_kachery(store, kachery.path, watcher=watcher)
        assert (watcher.total, watcher.done) == (3500, 3500)


@pytest.mark.parametrize("adopt", ["links", "all"])
def test_a_large_content_takes_no_more_memory_than_a_small_one(kachery: Kachery, tmp_path: Path, adopt: str) -> None:
    with open(kachery.place(GIB_OF_ZEROS), "wb") as file:
        file.truncate(1 << 30)

    def moved() -> int:
        with Store.open(tmp_path / "store") as store:
            before = peak_memory()
            report = import_kachery(store, kachery.path, adopt=adopt)
            assert (report.copied + report.linked, report.complete) == (1, True)
            return peak_memory() - before

    assert run(moved).get() < 200 << 20


def test_ctrl_c_says_how_to_go_on(kachery: Kachery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KACAS_DIR", str(tmp_path / "store"))
    huge = kachery.place("ab" * 20)
    with open(huge, "wb") as file:
        file.truncate(1 << 40)  # nobody waits for its end
    program = subprocess.Popen([*PROGRAM, "import-kachery", kachery.path], stderr=subprocess.PIPE, text=True)
    try:
        while not _has_open(program.pid, huge):
            assert program.poll() is None
            time.sleep(0.01)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=60)
    finally:
        program.kill()
        program.wait()
    assert program.returncode == 130
    assert "to go on, give the same command again" in said
    with Store.open(tmp_path / "store") as store:
        assert verify(store).orphans == []


def _has_open(pid: int, path: Path) -> bool:
    try:
        return any(os.path.realpath(link) == str(path) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
