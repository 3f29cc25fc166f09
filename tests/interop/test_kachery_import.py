"""Moving in: what kachery-cloud keeps is kept here, under the same URIs."""

from __future__ import annotations

import io
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from kacas import InvalidSettingError, Store, UnreadableSourceError
from kacas.interop.kachery_import import import_kachery
from kacas.upkeep.verify import verify
from tests.interop.kachery import Kachery, sha1_of

LARGE = random.Random(7).randbytes(3_000_000)


def full(kachery: Kachery, beside: Path) -> dict[str, bytes]:
    """Contents of several sizes, one of them an array, and a linked file. Returns them by URI."""
    contents = [b"", b"test-content\n", bytes(262_144), bytes(262_145), LARGE, *(b"%d" % n for n in range(600))]
    array = io.BytesIO()
    np.save(array, np.arange(200_000))
    contents.append(array.getvalue())
    uris = {kachery.keep(data): data for data in contents}
    linked = beside / "recording.dat"
    linked.write_bytes(LARGE[::-1])
    uris[kachery.link(linked)] = LARGE[::-1]
    return uris


@pytest.mark.parametrize("adopt", ["links", "all", "nothing"])
def test_every_uri_of_the_directory_gives_the_same_bytes_here(
    store: Store, kachery: Kachery, tmp_path: Path, adopt: str
) -> None:
    uris = full(kachery, tmp_path)
    before = kachery.state()
    report = import_kachery(store, kachery.path, adopt=adopt)
    assert report.complete
    assert (report.copied, report.linked) == {
        "links": (len(uris) - 1, 1), "all": (1, len(uris) - 1), "nothing": (len(uris), 0),  # the empty one is copied
    }[adopt]  # fmt: skip
    assert report.copied_size + report.linked_size == sum(map(len, uris.values()))
    for uri, data in uris.items():
        assert store.load_bytes(uri) == data
        assert store.load_bytes(f"{uri}?label=x&location=/nowhere/x") == data
    assert verify(store).clean
    assert kachery.state() == before


def test_after_an_import_the_directory_may_be_deleted(store: Store, kachery: Kachery, tmp_path: Path) -> None:
    uris = full(kachery, tmp_path)
    within = kachery.path / "tmp_12345678"
    within.mkdir()
    (within / "file.dat").write_bytes(b"linked in the directory itself")
    uris[kachery.link(within / "file.dat")] = b"linked in the directory itself"
    assert import_kachery(store, kachery.path).linked == 1
    shutil.rmtree(kachery.path)
    assert all(store.load_bytes(uri) == data for uri, data in uris.items())
    assert verify(store).clean


def test_when_nothing_is_adopted_linked_files_may_be_deleted_too(
    store: Store, kachery: Kachery, tmp_path: Path
) -> None:
    uris = full(kachery, tmp_path)
    import_kachery(store, kachery.path, adopt="nothing")
    (tmp_path / "recording.dat").unlink()
    assert all(store.load_bytes(uri) == data for uri, data in uris.items())


def test_linking_all_takes_no_space_for_the_bytes(store: Store, kachery: Kachery) -> None:
    kachery.keep(LARGE)
    report = import_kachery(store, kachery.path, adopt="all")
    assert (report.linked, report.linked_size) == (1, len(LARGE))
    assert sum(path.stat().st_size for path in (store.path / "packs").iterdir()) < 20_000
    (adopted,) = store.describe(f"sha1://{sha1_of(LARGE)}").adopted
    assert adopted == str(kachery.place(sha1_of(LARGE)))


def test_a_linked_file_keeps_its_name_and_a_content_has_none(store: Store, kachery: Kachery, tmp_path: Path) -> None:
    (tmp_path / "räw data.dat").write_bytes(LARGE)
    linked, stored = kachery.link(tmp_path / "räw data.dat"), kachery.keep(b"stored")
    import_kachery(store, kachery.path)
    assert [claim.label for claim in store.describe(linked).claims] == ["räw data.dat"]
    assert [claim.label for claim in store.describe(stored).claims] == [""]


def test_arrays_are_recognised_as_store_file_does(store: Store, kachery: Kachery) -> None:
    array = np.arange(300_000, dtype=np.int32).reshape(-1, 30)
    file = io.BytesIO()
    np.save(file, array)
    uri = kachery.keep(file.getvalue())
    import_kachery(store, kachery.path)
    root = store.describe(uri).root
    assert store.store_npy(array) == uri
    assert store.describe(uri).root == root  # one layout, not two
    assert (store.open_npy(uri)[500] == array[500]).all()


@pytest.mark.parametrize("adopt", ["links", "all", "nothing"])
def test_a_second_import_reads_nothing_and_writes_nothing(
    store: Store, kachery: Kachery, tmp_path: Path, adopt: str
) -> None:
    uris = full(kachery, tmp_path)
    import_kachery(store, kachery.path, adopt=adopt)
    packs = set(os.listdir(store.path / "packs"))
    for uri in uris:  # it would be noticed that these are other bytes now
        place = kachery.place(uri[7:])
        if place.exists() and adopt != "all":
            place.write_bytes(b"y" * place.stat().st_size)
    report = import_kachery(store, kachery.path, adopt=adopt)
    assert report.complete
    assert (report.copied, report.linked, report.here) == (0, 0, len(uris))
    assert set(os.listdir(store.path / "packs")) == packs


def test_what_is_linked_can_be_copied_later(store: Store, kachery: Kachery, tmp_path: Path) -> None:
    uris = full(kachery, tmp_path)
    import_kachery(store, kachery.path, adopt="all")
    report = import_kachery(store, kachery.path, adopt="nothing")
    assert (report.copied, report.here) == (len(uris) - 1, 1)  # the empty one was copied at once
    shutil.rmtree(kachery.path)
    (tmp_path / "recording.dat").unlink()
    assert all(store.load_bytes(uri) == data for uri, data in uris.items())


def test_what_others_keep_is_claimed_without_being_read(
    kachery: Kachery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = kachery.keep(LARGE)
    monkeypatch.setenv("KACAS_OWNER", "bob")
    with Store.open(tmp_path / "shared") as store:
        store.store_bytes(LARGE, label="bob's")
    monkeypatch.setenv("KACAS_OWNER", "ada")
    with Store.open(tmp_path / "shared") as store:
        assert import_kachery(store, kachery.path).here == 1
        assert sorted(claim.owner for claim in store.describe(uri).claims) == ["ada", "bob"]


def test_what_is_kept_already_gets_no_second_claim(store: Store, kachery: Kachery) -> None:
    uri = store.store_text("example text", label="a.txt").partition("?")[0]
    kachery.keep(b"example text")
    assert import_kachery(store, kachery.path).here == 1
    assert [claim.label for claim in store.describe(uri).claims] == ["a.txt"]


def test_what_was_forgotten_is_claimed_again(store: Store, kachery: Kachery) -> None:
    uri = kachery.keep(b"example text")
    import_kachery(store, kachery.path)
    store.forget(uri)
    import_kachery(store, kachery.path)
    assert len(store.describe(uri).claims) == 1


def test_content_that_is_damaged_in_the_store_is_healed(store: Store, kachery: Kachery) -> None:
    uri = kachery.keep(LARGE)
    import_kachery(store, kachery.path)
    (pack,) = (store.path / "packs").iterdir()
    pack.chmod(0o644)
    with open(pack, "r+b") as file:
        file.seek(500_000)
        file.write(bytes(100))
    assert not verify(store).clean
    assert import_kachery(store, kachery.path).copied == 1
    assert store.load_bytes(uri) == LARGE


@pytest.mark.parametrize("what", ["missing", "a file", "empty path", "no such layout", "the store", "~"])
def test_what_is_no_directory_of_kachery_cloud_is_refused(
    store: Store, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    inside = store.path / "kachery"
    (inside / "sha1").mkdir(parents=True)
    given = {
        "missing": tmp_path / "nowhere", "a file": tmp_path / "file", "empty path": "",
        "no such layout": tmp_path / "other", "the store": inside, "~": "~",
    }[what]  # fmt: skip
    with pytest.raises(UnreadableSourceError, match=r"kachery-cloud|store itself"):
        import_kachery(store, given)
    assert not list(store.history())


def test_what_is_to_be_adopted_is_one_of_three_words(store: Store, kachery: Kachery) -> None:
    with pytest.raises(InvalidSettingError, match="links, all, nothing"):
        import_kachery(store, kachery.path, adopt="some")


def test_the_directory_may_be_named_by_a_symbolic_link(store: Store, kachery: Kachery, tmp_path: Path) -> None:
    uri = kachery.keep(b"example text")
    (tmp_path / "link").symlink_to(kachery.path)
    assert import_kachery(store, tmp_path / "link").directory == str(kachery.path)
    assert store.load_text(uri) == "example text"
