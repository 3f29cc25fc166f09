"""Directories whose files stay where they are."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

import kacas
from kacas.repository import Repository
from tests.formats.trees import SMALL, read


def test_a_linked_directory_has_the_identity_of_the_stored_one_and_none_of_its_bytes(
    store: kacas.Store, source: Path, tmp_path: Path
) -> None:
    uri = store.link_dir(source)
    packs = list(store.repository.volume.packs.glob("*.pack"))
    assert sum(pack.stat().st_size for pack in packs) < 20_000  # large.bin alone has 700,000
    assert store.load_bytes(uri.partition("?")[0] + "/large.bin", 100, 200) == SMALL[b"large.bin"][100:200]  # type: ignore[index]
    store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == SMALL
    assert kacas.Store.open(tmp_path / "other").store_dir(source) == uri
    assert store.link_dir(source) == uri


@pytest.mark.parametrize("files", ["new", "known from another store"])
def test_storing_a_linked_directory_stores_its_bytes(
    store: kacas.Store, source: Path, tmp_path: Path, files: str
) -> None:
    if files != "new":
        time.sleep(2.1)  # the identity cache believes no file that changed within two seconds
        kacas.Store.open(tmp_path / "other").store_dir(source)
    uri = store.link_dir(source)
    assert store.store_dir(source) == uri
    for path in source.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.unlink()
    store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == SMALL


@pytest.mark.parametrize("name", ["notes.txt", "large.bin"])
def test_a_linked_file_that_changed_or_went_is_named_and_the_others_are_restored(
    store: kacas.Store, source: Path, tmp_path: Path, name: str
) -> None:
    uri = store.link_dir(source)
    data = bytearray((source / name).read_bytes())
    data[7] ^= 1
    (source / name).write_bytes(data)
    with pytest.raises(kacas.AdoptedFileError, match=name):
        store.load_bytes(uri.partition("?")[0] + "/" + name)
    with pytest.raises(kacas.DamagedContentError, match=rf"1 file .*{name}"):
        store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == {key: what for key, what in SMALL.items() if key != name.encode()}
    (source / name).unlink()
    with pytest.raises(kacas.AdoptedFileError, match=name):
        store.load_bytes(uri.partition("?")[0] + "/" + name)


def test_a_linked_directory_leaves_out_what_it_is_told(store: kacas.Store, source: Path) -> None:
    uri = store.link_dir(source, exclude=["*.bin", "raw"], label="x")
    assert uri.endswith("?label=x")
    assert not {"large.bin", "raw"} & {item.name for item in store.list_dir(uri)}
    with pytest.raises(kacas.UnreadableSourceError):
        store.link_dir(source / "notes.txt")


def test_a_file_that_changes_while_its_directory_is_linked_is_named(store: kacas.Store, source: Path) -> None:
    from kacas.formats import link

    def changing(self: link.LinkedSource) -> None:
        (source / "large.bin").write_bytes(random.randbytes(700_001))
        real(self)

    real = link.LinkedSource.check_unchanged
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link.LinkedSource, "check_unchanged", changing)
        with pytest.raises(kacas.UnreadableSourceError, match=r"large\.bin changed"):
            store.link_dir(source)
    assert list(store.history()) == []


def test_a_file_that_is_replaced_before_it_is_linked_is_named(
    store: kacas.Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be remembered under the state of the one that was looked at."""
    from kacas.formats import tree_link

    real = tree_link.adopted_path

    def replacing(repository: Repository, path: str) -> str:
        if path.endswith("notes.txt"):
            (source / "new").write_bytes(random.randbytes(13))
            (source / "new").rename(path)
        return str(real(repository, path))

    monkeypatch.setattr(tree_link, "adopted_path", replacing)
    with pytest.raises(kacas.UnreadableSourceError, match=r"notes\.txt became another file"):
        store.link_dir(source)
