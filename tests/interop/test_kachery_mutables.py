"""Moving in: mutables come along, and never over one that the store has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kacas import Store
from kacas.interop.import_report import ImportReport
from kacas.interop.kachery_import import import_kachery
from tests.interop.kachery import Kachery


def counted(report: ImportReport) -> tuple[int, int, dict[str, int]]:
    return report.mutables, report.mutables_here, report.counts


def test_every_mutable_has_its_value_here(store: Store, kachery: Kachery) -> None:
    values = {"top": "one", "@a/key": "zwei\n", "@a/@b/key": "", "@a/@b/käse": "x" * 100_000}
    for key, value in values.items():
        kachery.mutable(key, value)
    kachery.mutable("@compute_sha1_cache/" + "ab" * 20, "{}")
    before = kachery.state()
    assert counted(import_kachery(store, kachery.path)) == (4, 0, {})
    assert {key: store.get_mutable(key) for key in store.list_mutables()} == values
    assert kachery.state() == before
    assert counted(import_kachery(store, kachery.path)) == (0, 4, {})
    assert all(len(list(store.mutable_history(key))) == 1 for key in values)


@pytest.mark.parametrize("newer", ["set here", None])
def test_a_mutable_that_was_set_or_deleted_here_stays_so(store: Store, kachery: Kachery, newer: str | None) -> None:
    kachery.mutable("@a/key", "old")
    kachery.mutable("@a/other", "old")
    store.set_mutable("@a/key", "set here")
    if newer is None:
        store.delete_mutable("@a/key")
    report = import_kachery(store, kachery.path)
    assert counted(report) == (1, 0, {"mutable": 1})
    assert report.left_out[0].path == str(kachery.path / "mutables/@a/key")
    assert store.get_mutable("@a/key", default=None) == newer
    assert store.get_mutable("@a/other") == "old"


def test_what_is_no_mutable_is_named(store: Store, kachery: Kachery, tmp_path: Path) -> None:
    kachery.mutable("@a/key", "value")
    top = kachery.path / "mutables"
    wrong = [top / "@a" / name for name in (".hidden", "@file", "latin", "long", "back\\slash")]
    for path in wrong:
        path.write_bytes({"latin": b"\xe4", "long": b"x" * 100_001}.get(path.name, b"value"))
    (top / "@a" / "huge").write_bytes(b"x" * 400_001)
    os.mkfifo(top / "@a" / "pipe")
    (top / "folder").mkdir()
    (top / "folder" / "key").write_bytes(b"value")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"value")
    (top / "@outside").symlink_to(tmp_path / "outside")
    report = import_kachery(store, kachery.path)
    assert counted(report) == (1, 0, {"mutable": 6, "strange": 3})
    assert store.list_mutables() == ["@a/key"]
    assert {str(path) for path in wrong} < {left.path for left in report.left_out}


def test_folders_that_are_deeper_than_a_key_may_be_are_named(store: Store, kachery: Kachery) -> None:
    kachery.mutable("/".join(["@" + "x" * 100] * 20) + "/key", "value")
    assert counted(import_kachery(store, kachery.path)) == (0, 0, {"mutable": 1})
