"""Moving in: whatever is wrong with the directory is named, and the rest is imported."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from kacas import Store
from kacas.interop.import_report import ImportReport
from kacas.interop.kachery_import import import_kachery
from kacas.upkeep.verify import verify
from tests.faults.children import NOBODY, become_nobody, run
from tests.faults.test_bad_sources import OneHash
from tests.interop.kachery import Kachery, sha1_of

LARGE = random.Random(7).randbytes(3_000_000)
GOOD = b"a good content"


@pytest.fixture
def kachery(kachery: Kachery) -> Kachery:
    kachery.keep(GOOD)
    return kachery


def only(report: ImportReport, kind: str) -> str:
    """The message of the one that was left out; the good content came in."""
    (left,) = report.left_out
    assert (left.kind, report.counts, report.complete) == (kind, {kind: 1}, False)
    assert report.copied + report.linked >= 1
    return f"{left.path}: {left.message}"


@pytest.mark.parametrize("adopt", ["links", "all", "nothing"])
@pytest.mark.parametrize("size", [0, 1, 1000, 262_144, 262_145, 3_000_000])
def test_damaged_contents_are_named_and_not_kept(store: Store, kachery: Kachery, adopt: str, size: int) -> None:
    data = LARGE[:size]
    place = kachery.place(sha1_of(data))
    damaged = data[:-1] + b"x" if data else b"x"
    place.write_bytes(damaged)
    message = only(import_kachery(store, kachery.path, adopt=adopt), "damaged")
    assert str(place) in message
    assert sha1_of(damaged) in message
    for sha1 in (sha1_of(data), sha1_of(damaged)):
        assert not store.exists(f"sha1://{sha1}")
    assert store.exists(f"sha1://{sha1_of(GOOD)}")
    assert verify(store).clean
    place.write_bytes(data)  # restored from a backup, it comes in
    assert import_kachery(store, kachery.path, adopt=adopt).complete
    assert store.load_bytes(f"sha1://{sha1_of(data)}") == data


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_contents_that_were_cut_short_or_grew_are_damaged(store: Store, kachery: Kachery, size: int) -> None:
    kachery.place(sha1_of(LARGE[:size])).write_bytes(LARGE[: size // 2])
    kachery.place(sha1_of(LARGE[: size - 1])).write_bytes(LARGE[: size - 1] + b"more")
    assert import_kachery(store, kachery.path).counts == {"damaged": 2}


def _link_gone(kachery: Kachery, target: Path) -> None:
    target.unlink()


def _directory_gone(kachery: Kachery, target: Path) -> None:
    target.unlink()
    target.parent.rmdir()
    target.parent.write_bytes(b"a file in place of the directory")


def _grown(kachery: Kachery, target: Path) -> None:
    target.write_bytes(LARGE + b"x")


def _changed(kachery: Kachery, target: Path) -> None:
    target.write_bytes(LARGE[:-1] + b"x")


def _changed_secretly(kachery: Kachery, target: Path) -> None:
    status = target.stat()
    target.write_bytes(LARGE[:-1] + b"x")
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _pipe(kachery: Kachery, target: Path) -> None:
    target.unlink()
    os.mkfifo(target)


def _to_itself(kachery: Kachery, target: Path) -> None:
    target.unlink()
    target.symlink_to(target)


@pytest.mark.parametrize("adopt", ["links", "nothing"])
@pytest.mark.parametrize(
    "change,kind",
    [
        (_link_gone, "missing"), (_directory_gone, "missing"), (_grown, "changed"), (_changed, "changed"),
        (_changed_secretly, "changed"), (_pipe, "changed"), (_to_itself, "unreadable"),
    ],
)  # fmt: skip
def test_a_linked_file_that_is_not_what_it_was_is_named(
    store: Store, kachery: Kachery, tmp_path: Path, change: Any, kind: str, adopt: str
) -> None:
    target = tmp_path / "data" / "recording.dat"
    target.parent.mkdir()
    target.write_bytes(LARGE)
    uri = kachery.link(target)
    change(kachery, target)
    assert str(target) in only(import_kachery(store, kachery.path, adopt=adopt), kind)
    assert not store.exists(uri)
    assert verify(store).clean


@pytest.mark.parametrize("adopt", ["links", "nothing"])
def test_a_linked_file_whose_time_alone_changed_is_imported(
    store: Store, kachery: Kachery, tmp_path: Path, adopt: str
) -> None:
    target = tmp_path / "recording.dat"
    target.write_bytes(LARGE)
    uri = kachery.link(target)
    os.utime(target, ns=(10**18, 10**18))
    assert import_kachery(store, kachery.path, adopt=adopt).complete
    assert store.load_bytes(uri) == LARGE


def test_a_linked_file_that_changed_between_two_imports_is_named_by_the_second(
    store: Store, kachery: Kachery, tmp_path: Path
) -> None:
    target = tmp_path / "recording.dat"
    target.write_bytes(LARGE)
    kachery.link(target)
    assert import_kachery(store, kachery.path).complete
    target.write_bytes(LARGE[:-1] + b"x")
    os.utime(target, ns=(10**18, 10**18))
    assert import_kachery(store, kachery.path).counts == {"changed": 1}


@pytest.mark.parametrize(
    "record",
    [
        b"", b"{", b"[]", b"null", b"\xff", b"[" * 50_000, b" " * 70_000, {"path": 1}, {"path": "relative"}, {"path": "/a\0b"},
        {"path": "/\ud800"}, {"size": -1}, {"size": "1"}, {"size": True}, {"mtime": "now"}, {"sha1": "0" * 40}, {"sha1": None},
    ],
)  # fmt: skip
def test_a_record_that_makes_no_sense_is_named(store: Store, kachery: Kachery, tmp_path: Path, record: Any) -> None:
    target = tmp_path / "recording.dat"
    target.write_bytes(LARGE)
    place = kachery.place(kachery.link(target)[7:], "linked_files/sha1")
    if isinstance(record, dict):
        record = json.dumps(json.loads(place.read_text()) | record).encode()
    place.write_bytes(record)
    assert str(place) in only(import_kachery(store, kachery.path), "strange")


def test_names_that_are_no_contents_are_named_and_dead_writers_are_counted(store: Store, kachery: Kachery) -> None:
    here = kachery.place(sha1_of(LARGE))
    strange = [
        here.with_name("notes.txt"), here.with_name(here.name.upper()), here.with_name(here.name + "0"),
        here.with_name("ff" + here.name[2:]), here.with_name("a directory"),
        kachery.path / "sha1" / "file", kachery.path / "sha1" / "AB", kachery.path / "sha1" / "abc",
        here.parent.parent / "file", here.with_name("f" + here.name[1:] + "\n"),
    ]  # fmt: skip
    for path in strange:
        path.mkdir() if path.name in ("a directory", "AB", "abc") else path.write_bytes(LARGE)
    for dead in (f"{here.name}.aB3dE6gH9j", f"{here.name}.tmp.aB3dE6gH"):
        here.with_name(dead).write_bytes(LARGE)
    report = import_kachery(store, kachery.path)
    assert {left.path for left in report.left_out} == set(map(str, strange))
    assert report.counts == {"strange": len(strange)}
    assert (report.temporaries, report.copied) == (2, 1)


def test_pipes_and_symbolic_links_in_the_directory_are_not_opened(
    store: Store, kachery: Kachery, tmp_path: Path
) -> None:
    os.mkfifo(kachery.place(sha1_of(b"pipe")))
    (tmp_path / "outside").write_bytes(LARGE)
    kachery.place(sha1_of(LARGE)).symlink_to(tmp_path / "outside")
    (tmp_path / "elsewhere").mkdir()
    (kachery.path / "sha1" / "ab").symlink_to(tmp_path / "elsewhere")
    (kachery.path / "linked_files").symlink_to(tmp_path / "elsewhere")
    report = import_kachery(store, kachery.path)
    assert report.counts == {"strange": 4}
    assert sum("symbolic link" in left.message for left in report.left_out) == 3
    assert report.copied == 1


def test_a_directory_of_contents_that_is_elsewhere_is_named(store: Store, kachery: Kachery, tmp_path: Path) -> None:
    os.rename(kachery.path / "sha1", tmp_path / "elsewhere")
    (kachery.path / "sha1").symlink_to(tmp_path / "elsewhere")
    report = import_kachery(store, kachery.path)
    assert [left.kind for left in report.left_out] == ["strange"]
    assert "symbolic link" in report.left_out[0].message


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_what_may_not_be_read_is_named_and_a_read_only_directory_is_enough(open_place: Path) -> None:
    kachery = Kachery(open_place / "kachery")
    kachery.keep(GOOD)
    linked = open_place / "linked"
    linked.write_bytes(LARGE)
    linked.chmod(0)
    kachery.link(linked)
    secret = kachery.place(sha1_of(b"secret"))
    secret.write_bytes(b"secret")
    secret.chmod(0)
    closed = kachery.path / "sha1" / "00"
    closed.mkdir(mode=0)
    record = kachery.place("ab" * 20, "linked_files/sha1")
    record.write_bytes(b"{}")
    record.chmod(0)
    before = kachery.state()
    (open_place / "home").mkdir()
    os.chown(open_place / "home", NOBODY, NOBODY)

    def moved() -> ImportReport:
        become_nobody(open_place / "home")
        os.environ["KACAS_CACHE_DIR"] = str(open_place / "home" / "cache")
        with Store.open(open_place / "home" / "store") as store:
            return import_kachery(store, kachery.path)

    report = run(moved).get()
    assert {left.path for left in report.left_out} == {str(linked), str(secret), str(closed), str(record)}
    assert report.counts == {"unreadable": 4}
    assert report.copied == 1
    assert kachery.state() == before


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_content_that_collides_with_a_linked_one_is_named_and_the_rest_comes_in(
    store: Store, kachery: Kachery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    place = kachery.place("11" * 20)
    place.write_bytes(LARGE[:size])
    (tmp_path / "other").write_bytes(LARGE[::-1][:size])
    with monkeypatch.context() as patch:
        patch.setattr("kacas.ingest.new_sha1", OneHash)
        linked = store.link_file(tmp_path / "other")
        report = import_kachery(store, kachery.path)  # all else seems to be damaged meanwhile
    assert [left.path for left in report.left_out if left.kind == "collision"] == [str(place)]
    assert store.load_bytes(linked) == LARGE[::-1][:size]
    report = import_kachery(store, kachery.path)
    assert (report.counts, report.copied) == ({"damaged": 1}, 1)
    assert store.load_bytes(f"sha1://{sha1_of(GOOD)}") == GOOD


def test_no_more_than_ten_thousand_are_named_and_all_are_counted() -> None:
    report = ImportReport("/somewhere")
    for number in range(10_005):
        report.leave_out("damaged", str(number), "why")
    assert (len(report.left_out), report.counts) == (10_000, {"damaged": 10_005})
