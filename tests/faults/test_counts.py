"""What each operation costs in system calls: counted, so that a promise of speed does not hang on a clock."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import kacas
from kacas.disk import identities
from kacas.disk.identities import sync_source
from tests.faults import contents, strace
from tests.faults.contents import MIB
from tests.faults.examination import open_store
from tests.faults.programs import puts
from tests.faults.programs.counted import ARRAY, KNOWN, UNCHANGED
from tests.faults.strace import Call

SYNCS = ("fsync", "fdatasync", "sync_file_range", "syncfs", "sync")
LINKS = ("link", "linkat", "rename", "renameat", "renameat2")
WRITES = ("pwritev", "pwritev2", "pwrite64", "write", "writev")
READS = ("preadv", "preadv2", "pread64", "read", "readv")
OPENS = ("open", "openat", "openat2")
TRACED = (*SYNCS, *LINKS, *WRITES, *READS, *OPENS, "getdents64", "mkdir", "mkdirat")
CHUNK = 256 * 1024


@dataclass
class Trace:
    """The calls of each operation that touch the store's directory (not its cache)."""

    store: Path
    calls: dict[str, list[Call]]

    def of(self, operation: str, names: tuple[str, ...]) -> list[Call]:
        inside = f"{self.store}/"
        return [
            call
            for call in self.calls[operation]
            if call.name in names and any(f"{path}/".startswith(inside) for path in call.paths)
        ]

    def count(self, operation: str, names: tuple[str, ...]) -> int:
        return len(self.of(operation, names))

    def size(self, operation: str, names: tuple[str, ...]) -> int:
        """Bytes read or written."""
        return sum(max(call.result, 0) for call in self.of(operation, names))

    def packs(self, operation: str, names: tuple[str, ...]) -> list[str]:
        """The packs that are opened, in order."""
        return [path for call in self.of(operation, names) for path in call.paths if path.endswith(".pack")]


Count = Callable[..., Trace]


@pytest.fixture
def count(tmp_path: Path) -> Count:
    """count(*operations, durability="full"): trace them on a store that knows KNOWN and ARRAY, and 20 other packs."""

    def run(*operations: str, durability: str = "full", warm: bool = True) -> Trace:
        store_path, log = tmp_path / "store", tmp_path / "log"
        with kacas.Store.open(store_path, durability=durability) as store:
            for number in range(20):
                store.store_text(f"pack {number}")
            KNOWN.put(store)
            ARRAY.put(store)
        if not warm:
            shutil.rmtree(tmp_path / "cache")
        options = ["-y", "-o", str(log)]
        options += ["-e", "trace=" + ",".join(f"?{name}" for name in TRACED) + f",{strace.MARK_CALLS}"]
        strace.run("counted", store_path, *operations, options=options, KACAS_CACHE_DIR=str(tmp_path / "cache"))
        trace = Trace(store_path, strace.sections(log))
        assert set(operations) <= trace.calls.keys()
        return trace

    return run


def test_a_single_durable_put_costs_two_syncs_and_one_link(count: Count) -> None:
    trace = count("single-put")
    temporary, directory = [call.paths[0] for call in trace.of("single-put", SYNCS)]
    assert Path(temporary).name.startswith(".")
    assert directory == str(trace.store / "packs")
    assert trace.count("single-put", LINKS) == 1
    assert trace.count("single-put", WRITES) == 1
    assert trace.size("single-put", WRITES) < 1024
    # The sync of the file, the link, the sync of the directory: in this order.
    order = [call.name for call in trace.of("single-put", (*SYNCS, *LINKS, *WRITES))]
    assert order == [order[0], "fsync", order[2], "fsync"]
    assert order[0] in WRITES
    assert order[2] in LINKS


def test_no_put_syncs_anything_outside_the_store(count: Count) -> None:
    trace = count("single-put", "batch", "array-put", "repeated-put")
    for operation in ("single-put", "batch", "array-put", "repeated-put"):
        every = [call for call in trace.calls[operation] if call.name in SYNCS]
        assert every == trace.of(operation, SYNCS)


def test_a_relaxed_store_syncs_nothing(count: Count) -> None:
    operations = ("single-put", "batch", "array-put")
    trace = count(*operations, durability="relaxed")
    for operation in operations:
        assert [call for call in trace.calls[operation] if call.name in SYNCS] == []
        assert trace.count(operation, LINKS) == 1


def test_a_batch_of_a_thousand_costs_the_syncs_of_one_put(count: Count) -> None:
    trace = count("batch")
    assert trace.count("batch", SYNCS) == 2
    assert trace.count("batch", LINKS) == 1
    # Gathered: a few calls, and per content its payload header, table record and entry.
    assert trace.count("batch", WRITES) <= 3
    assert trace.size("batch", WRITES) < 1000 * 400


def test_a_repeated_put_publishes_nothing(count: Count) -> None:
    operations = ("repeated-put", "known-put", "known-array-put")
    trace = count("single-put", *operations)
    for operation in operations:
        assert trace.of(operation, LINKS) == []
        assert trace.of(operation, WRITES) == []
    # What this process stored is durable already.
    assert [call for call in trace.calls["repeated-put"] if call.name in SYNCS] == []
    # What another process stored may still wait for the sync of its name: that is made sure of, once.
    for operation in ("known-put", "known-array-put"):
        syncs = [call.paths for call in trace.calls[operation] if call.name in SYNCS]
        assert syncs in ([], [[str(trace.store / "packs")]])


def test_what_is_known_to_be_durable_is_not_synced_again(count: Count) -> None:
    trace = count("known-put", "known-put", "known-array-put", "known-array-put")
    # The marks of one name follow one another: all calls of both.
    for operation in ("known-put", "known-array-put"):
        assert len([call for call in trace.calls[operation] if call.name in SYNCS]) <= 1


def test_a_known_array_is_not_read_to_be_known(count: Count) -> None:
    trace = count("known-array-put")
    # One payload header for each chunk.
    chunks = len(ARRAY.data) // CHUNK + 4
    assert trace.size("known-array-put", READS) <= chunks * 64


def test_the_same_content_under_another_label_costs_an_entry_and_no_payload(count: Count) -> None:
    trace = count("single-put", "other-label")
    assert trace.count("other-label", SYNCS) == 2
    # Header, entry and footer.
    assert trace.size("other-label", WRITES) < 64 + 250 + 128


def test_a_large_put_is_written_once_and_read_never(count: Count) -> None:
    trace = count("array-put")
    assert trace.count("array-put", SYNCS) == 2
    assert len(ARRAY.data) <= trace.size("array-put", WRITES) <= len(ARRAY.data) * 1.002
    assert trace.count("array-put", WRITES) <= len(ARRAY.data) // MIB + 4
    assert trace.size("array-put", READS) < 4096


def test_an_unchanged_file_is_opened_and_none_of_its_bytes_read(
    count: Count, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, kacas.Store.open(tmp_path / "store") as store:
        # The cache's clock is an hour ahead: what was written just now has settled.
        patch.setattr(identities, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + 3600 * 10**9))
        for name, size in UNCHANGED.items():
            (tmp_path / name).write_bytes(contents.random_bytes(name, size).data)
            with open(tmp_path / name, "rb") as file:
                if sync_source(file.fileno()) is None:
                    pytest.skip("the file system of the tests does not tell of writes through mappings")
            store.store_file(tmp_path / name)
    trace = count("unchanged-files")
    calls = trace.calls["unchanged-files"]
    for name in UNCHANGED:
        touching = [call.name for call in calls if str(tmp_path / name) in call.paths]
        assert len(touching) == 1, touching
        assert touching[0] in OPENS
    # The payload headers of two roots.
    assert trace.size("unchanged-files", READS) <= 2 * 64
    assert trace.count("unchanged-files", WRITES) == 0
    assert len([call for call in calls if call.name in SYNCS]) <= 1, "the packs directory, as for any known content"


def test_a_load_of_a_small_content_reads_one_payload(count: Count) -> None:
    trace = count("load")
    (pack,) = set(trace.packs("load", (*OPENS, *READS)))
    assert pack.endswith(".pack")
    assert trace.count("load", OPENS) == 1
    # Its header to confirm the place, then header and bytes in one call.
    assert trace.count("load", READS) <= 2
    assert trace.size("load", READS) <= 64 + 64 + len(KNOWN.data)


def test_opening_a_store_whose_packs_are_known_reads_no_pack(count: Count) -> None:
    trace = count("load")
    assert trace.packs("open", OPENS) == []


def test_a_new_index_reads_the_tables_and_no_payload(count: Count) -> None:
    trace = count("load", warm=False)
    assert len(trace.packs("open", OPENS)) == 22
    # Header, footer and table of each.
    assert trace.size("open", READS) < 22 * 600 + 4096


def test_a_64_kib_slice_of_a_large_array_reads_the_chunks_it_lies_in(count: Count) -> None:
    trace = count("slice-open")
    # 64 KiB lie in one chunk or in two.
    assert trace.size("slice", READS) <= 2 * (CHUNK + 64)
    # To open an array is to read its header: the manifest holds it.
    assert trace.size("slice-open", READS) <= CHUNK + 8192
    assert trace.count("slice", OPENS) == 0


def test_a_byte_range_reads_the_chunks_it_lies_in(count: Count) -> None:
    trace = count("range")
    assert trace.size("range", READS) <= 2 * (CHUNK + 64) + 8192


def test_a_whole_load_reads_each_byte_once(count: Count) -> None:
    trace = count("load-array")
    assert len(ARRAY.data) <= trace.size("load-array", READS) <= len(ARRAY.data) * 1.005 + CHUNK
    assert trace.count("load-array", OPENS) == 1


def test_exists_of_known_content_opens_at_most_one_pack(count: Count) -> None:
    trace = count("exists")
    assert trace.count("exists", OPENS) <= 1
    assert trace.size("exists", READS) <= 64
    assert trace.count("exists", ("getdents64",)) == 0


def test_a_miss_is_proved_by_the_tables_and_a_second_miss_reads_none(count: Count) -> None:
    trace = count("miss", "second-miss")
    assert len(set(trace.packs("miss", OPENS))) <= 22
    assert trace.size("miss", READS) < 22 * 600 + 4096
    # The list of packs is read anew each time; what they hold is known.
    assert trace.packs("second-miss", OPENS) == []
    assert trace.size("second-miss", READS) == 0
    assert trace.count("second-miss", ("getdents64",)) >= 2


def test_a_store_is_made_with_its_names_synced_outside_in(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "new").mkdir()
    options = ["-y", "-o", str(log), "-e", "trace=?fsync,?mkdir,?mkdirat,?link,?linkat"]
    strace.attach(lambda: puts.run("new", tmp_path / "new"), options).get()
    store = str(tmp_path / "new" / "store")
    lines = [line.split(" ", 1)[1].strip() for line in log.read_text().splitlines() if f"{tmp_path}/new" in line]
    made = [line for line in lines if "cache" not in line]
    steps = [(line.split("(")[0].removesuffix("at"), line) for line in made]
    names = [name for name, _ in steps[:4]]
    # Each directory is durable in its parent before anything in it is.
    assert names == ["mkdir", "fsync", "mkdir", "fsync"]
    assert f"<{tmp_path}/new>" in steps[1][1]
    assert f"<{store}>" in steps[3][1]
    with open_store(Path(store), tmp_path / "new" / "cache") as opened:
        assert opened.stats().packs == 1
