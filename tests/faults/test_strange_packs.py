"""Packs cut short, foreign, renamed, newer or not packs at all: named by loads and by verify, and nobody else is hurt."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.model.pack_format import FOOTER_SIZE, HEADER_SIZE, PAYLOAD_HEADER_SIZE
from kacas.upkeep.verify import verify
from tests.faults import contents
from tests.faults.children import run
from tests.faults.examination import check_verified, open_store
from tests.faults.forging import replace_file, with_version
from tests.faults.specimen import Specimen


def check_hurt(damaged: Specimen, error: type[kacas.KacasError]) -> None:
    """No content of the pack loads; each says why; other packs' contents do."""
    with damaged.open_fresh() as store:
        assert damaged.check_loads(store) == list(damaged.inside)
        for uri in damaged.inside:
            with pytest.raises(error, match=damaged.pack.stem):
                store.load_bytes(uri)
            with pytest.raises(error, match=damaged.pack.stem):
                store.exists(uri)
        damaged.check_verify(store)
        # The store is not refused to writers.
        content = contents.text("stored beside the damage")
        content.check(store, content.put(store))


def test_a_pack_cut_at_any_length_is_named(specimen: Specimen) -> None:
    data = specimen.pack.read_bytes()
    size = len(data)
    lengths = {0, 1, 7, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 1, HEADER_SIZE + PAYLOAD_HEADER_SIZE - 1}
    lengths |= {HEADER_SIZE + FOOTER_SIZE - 1, HEADER_SIZE + FOOTER_SIZE, size - FOOTER_SIZE, size - 1, size - 16}
    lengths |= set(range(0, size, 53))
    for length in sorted(lengths):
        replace_file(specimen.pack, data[:length])
        with specimen.open_fresh() as store:
            assert specimen.check_loads(store) == list(specimen.inside), length
            specimen.check_verify(store)
        # An index from before the damage still finds the payloads that are there.
        replace_file(specimen.pack, data)
        specimen.open_fresh().close()
        replace_file(specimen.pack, data[:length])
        with specimen.open() as store:
            specimen.check_loads(store)
            specimen.check_verify(store)


def test_a_pack_with_bytes_behind_its_end_is_named(specimen: Specimen) -> None:
    replace_file(specimen.pack, specimen.pack.read_bytes() + b"\n")
    check_hurt(specimen, kacas.DamagedPackError)


def test_an_empty_pack_is_named(specimen: Specimen) -> None:
    replace_file(specimen.pack, b"")
    check_hurt(specimen, kacas.DamagedPackError)


def test_a_pack_of_a_newer_format_is_named_and_says_what_is_needed(specimen: Specimen) -> None:
    replace_file(specimen.pack, with_version(specimen.pack.read_bytes(), 2))
    check_hurt(specimen, kacas.NewerFormatError)
    with specimen.open_fresh() as store:
        with pytest.raises(kacas.NewerFormatError, match="upgrade kacas") as caught:
            store.load_bytes(next(iter(specimen.inside)))
        assert caught.value.needed == 2
        assert {problem.kind for problem in verify(store).problems} == {"newer"}


def test_a_store_of_a_newer_format_is_refused(specimen: Specimen) -> None:
    settings = specimen.store / "kacas.toml"
    replace_file(settings, settings.read_bytes().replace(b"format = 1", b"format = 2"))
    with pytest.raises(kacas.NewerFormatError, match="upgrade kacas") as caught:
        specimen.open_fresh()
    assert caught.value.needed == 2


def test_a_pack_of_another_store_is_foreign_and_not_believed(specimen: Specimen, tmp_path: Path) -> None:
    content = contents.text("of another store")
    with open_store(tmp_path / "other", tmp_path / "other-cache", create=True) as other:
        uri = content.put(other)
    (pack,) = (tmp_path / "other" / "packs").iterdir()
    shutil.copy(pack, specimen.store / "packs")
    with specimen.open_fresh() as store:
        with pytest.raises(kacas.DamagedPackError, match=f"{pack.stem}.*belongs to the store") as caught:
            store.load_bytes(uri)
        assert caught.value.pack == pack.stem
        assert specimen.check_loads(store) == []
        (problem,) = verify(store).problems
        assert (problem.kind, problem.pack) == ("foreign", pack.stem)
        # Stored here, it is here.
        content.check(store, content.put(store))


def test_a_pack_under_another_name_is_foreign_and_its_own_name_heals(specimen: Specimen) -> None:
    own = specimen.pack
    specimen.pack = own.rename(own.with_name(f"{secrets.token_hex(16)}.pack"))
    with specimen.open_fresh() as store:
        for uri in specimen.inside:
            with pytest.raises(kacas.DamagedPackError, match=f"{specimen.pack.stem}.*{own.stem}"):
                store.load_bytes(uri)
        assert {(problem.kind, problem.pack) for problem in verify(store).problems} == {("foreign", specimen.pack.stem)}
        specimen.pack = specimen.pack.rename(own)
        assert specimen.check_loads(store) == []
        check_verified(store)


def test_a_copy_under_another_name_disturbs_nothing(specimen: Specimen) -> None:
    copy = specimen.pack.with_name(f"{secrets.token_hex(16)}.pack")
    shutil.copy(specimen.pack, copy)
    with specimen.open_fresh() as store:
        assert specimen.check_loads(store) == []
        assert {problem.pack for problem in verify(store).problems} == {copy.stem}


def test_two_packs_that_changed_names_are_both_named(specimen: Specimen) -> None:
    other = sorted(set(specimen.pack.parent.iterdir()) - {specimen.pack})[0]
    data, other_data = specimen.pack.read_bytes(), other.read_bytes()
    replace_file(specimen.pack, other_data)
    replace_file(other, data)
    with specimen.open_fresh() as store:
        for uri in specimen.inside:
            with pytest.raises(kacas.DamagedPackError, match="give it its own name back"):
                store.load_bytes(uri)
        assert {problem.pack for problem in verify(store).problems} == {specimen.pack.stem, other.stem}


@pytest.mark.parametrize("size", [0, 1, 63, 64, 191, 192, 193, 5000])
def test_garbage_with_a_packs_name_is_named_and_hurts_nobody(specimen: Specimen, size: int) -> None:
    garbage = specimen.pack.with_name(f"{'ab' * 16}.pack")
    garbage.write_bytes(np.random.default_rng(contents.SEED + size).bytes(size))
    with specimen.open_fresh() as store:
        assert specimen.check_loads(store) == []
        assert [problem.pack for problem in verify(store).problems] == [garbage.stem]
        content = contents.text("beside garbage")
        content.check(store, content.put(store))


@pytest.mark.parametrize("what", ["directory", "dangling link", "link to itself", "fifo", "socket"])
def test_what_is_no_file_but_has_a_packs_name_is_named_and_hurts_nobody(specimen: Specimen, what: str) -> None:
    strange = specimen.pack.with_name(f"{'ab' * 16}.pack")
    if what == "directory":
        strange.mkdir()
    elif what == "dangling link":
        strange.symlink_to("/nowhere/at/all")
    elif what == "link to itself":
        strange.symlink_to(strange.name)
    elif what == "fifo":
        os.mkfifo(strange)
    else:
        os.mknod(strange, stat.S_IFSOCK | 0o600)

    def use() -> list[str]:
        with specimen.open_fresh() as store:
            assert specimen.check_loads(store) == []
            content = contents.text("beside strange things")
            content.check(store, content.put(store))
            return [problem.pack for problem in verify(store).problems]

    # In a child: opening a fifo that nobody writes to waits for ever.
    named = run(use, timeout_s=10).get()
    # A link to nothing is as if it were not there.
    assert named == [strange.stem] or (not named and what == "dangling link")


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "ABCDEF0123456789ABCDEF0123456789.pack", "x.pack", ".DS_Store", "0" * 32, "0" * 32 + ".pack.bak"],
)
def test_strangers_beside_the_packs_are_told_and_left_alone(specimen: Specimen, name: str) -> None:
    stranger = specimen.pack.with_name(name)
    stranger.write_bytes(b"somebody's notes")
    with specimen.open_fresh() as store:
        assert specimen.check_loads(store) == []
        assert not store.exists("sha1://" + "00" * 20)
        report = verify(store)
        assert report.clean
        assert report.orphans == [f"packs/{name}"]
    assert stranger.read_bytes() == b"somebody's notes"


def test_a_pack_that_was_deleted_takes_only_its_own_content_along(specimen: Specimen) -> None:
    specimen.open_fresh().close()
    with specimen.open() as store:
        specimen.pack.unlink()
        for uri in specimen.inside:
            # The index says that it is there, and the tables prove that it is not.
            with pytest.raises(kacas.NotFoundError):
                store.load_bytes(uri)
            assert not store.exists(uri)
        for uri, content in specimen.outside.items():
            assert store.load_bytes(uri) == content.data
        specimen.store_again(store)
        for uri, content in specimen.inside.items():
            assert store.load_bytes(uri) == content.data
    specimen.check_healed()


def test_content_of_a_deleted_pack_is_stored_again_even_if_that_pack_is_still_open(specimen: Specimen) -> None:
    with specimen.open_fresh() as store:
        assert specimen.check_loads(store) == []
        specimen.pack.unlink()
        try:
            specimen.store_again(store)
        except kacas.WriteError as exc:
            assert "store again" in str(exc)
            specimen.store_again(store)
    specimen.check_healed()


def test_a_pack_that_comes_back_is_found_by_stores_that_are_open(specimen: Specimen) -> None:
    data = specimen.pack.read_bytes()
    specimen.pack.unlink()
    with specimen.open_fresh() as store:
        assert not any(store.exists(uri) for uri in specimen.inside)
        specimen.pack.write_bytes(data)
        assert specimen.check_loads(store) == []
        check_verified(store)


def test_a_pack_whose_reads_fail_is_named_and_read_again_when_they_do_not(
    specimen: Specimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk with a bad sector; a wrapper, as strace cannot choose a file by a name that is not yet open."""
    preadv = os.preadv

    def fail_for_pack(fd: int, buffers: list[memoryview], offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{fd}") == str(specimen.pack):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(fd, buffers, offset)

    with specimen.open_fresh() as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", fail_for_pack)
            assert specimen.check_loads(store) == list(specimen.inside)
            specimen.check_verify(store)
        assert specimen.check_loads(store) == []
        check_verified(store)
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fail_for_pack)
        check_hurt(specimen, kacas.DamagedPackError)
