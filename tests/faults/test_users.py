"""Several real users and one store: members read and add, nobody edits, and who may not is told so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kacas
from kacas.disk.volume import open_volume
from tests.faults import contents
from tests.faults.lab import Lab, User, doctor, everything_in, ids, init, loaded, mode_of, put, refused


@pytest.mark.parametrize("world_readable", [False, True])
@pytest.mark.parametrize("sticky", [False, True])
def test_whatever_the_umask_all_in_a_shared_store_has_the_stores_group_and_modes(
    lab: Lab, sticky: bool, world_readable: bool
) -> None:
    init(lab, sticky=sticky, world_readable=world_readable)
    uris = {user.name: put(user, lab.store, f"by {user.name}") for user in (lab.ada, lab.ben, lab.dan)}

    def make_more() -> None:
        with kacas.Store.open(lab.store) as opened:
            opened.repository.volume.make_directory(lab.store / "refs" / "@a" / "@b" / "key")
            contents.array("large", 200_000).put(opened)
            opened.merge_segments()

    lab.ben.act(make_more)
    directory = (0o2775 if world_readable else 0o2770) | (0o1000 if sticky else 0)
    for path in everything_in(lab.store):
        assert path.stat().st_gid == lab.gid, path
        assert mode_of(path) == (directory if path.is_dir() else 0o444 if world_readable else 0o440), path
    assert list((lab.store / "segments").iterdir())
    for reader in (lab.ada, lab.ben, lab.dan):
        for name, uri in uris.items():
            assert loaded(reader, lab.store, uri) == f"by {name}"
    report = doctor(lab.ben, lab.store)
    assert report.healthy, report.remaining


def test_members_share_what_they_store(lab: Lab) -> None:
    init(lab)
    uris = {put(user, lab.store, "the same") for user in (lab.ada, lab.ben)}
    assert len(uris) == 1
    content = contents.array("of ada's", 300_000)

    def store_array() -> str:
        with kacas.Store.open(lab.store) as opened:
            return content.put(opened)

    def size() -> int:
        with kacas.Store.open(lab.store) as opened:
            return opened.stats().pack_size

    lab.ada.act(store_array)
    before = lab.ada.act(size)
    lab.ben.act(store_array)
    assert lab.ben.act(size) - before < 10_000, "ben's copy is ada's"


def test_members_store_at_the_same_time_and_nothing_is_lost(lab: Lab) -> None:
    init(lab)

    def store_many(name: str) -> list[str]:
        with kacas.Store.open(lab.store) as opened:
            return [opened.store_text(f"{name} {number}") for number in range(40)]

    working = [
        (user, user.start(lambda user=user: store_many(user.name)))  # type: ignore[misc]
        for user in (lab.ada, lab.ben, lab.dan)
    ]
    stored = {(user.name, n): uri for user, child in working for n, uri in enumerate(child.wait().get())}

    def load_all() -> None:
        with kacas.Store.open(lab.store) as opened:
            for (name, number), uri in stored.items():
                assert opened.load_text(uri) == f"{name} {number}"

    for user in (lab.ada, lab.ben, lab.dan):
        user.act(load_all)


def test_members_make_the_same_directories_at_once(lab: Lab) -> None:
    """Between mkdir and chmod, the one of ben's umask keeps the others out."""
    init(lab)
    volume = open_volume(lab.store, create=False)
    gate = lab.place / "gate"

    def make() -> None:
        while not gate.exists():
            pass
        for number in range(60):
            volume.make_directory(lab.store / "refs" / f"@{number}" / "@b" / "key")

    working = [user.start(make) for user in (lab.ada, lab.ben, lab.dan)]
    gate.touch()
    for child in working:
        child.wait().get()
    assert {mode_of(path) for path in everything_in(lab.store) if path.is_dir()} == {0o2770}


def test_nobody_edits_what_another_stored(lab: Lab) -> None:
    init(lab)
    put(lab.ada, lab.store, "ada's")
    (pack,) = (lab.store / "packs").glob("*.pack")

    def edit(path: Path) -> None:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(PermissionError):
                os.open(path, flags)
        with pytest.raises(PermissionError):
            os.truncate(path, 0)
        with pytest.raises(PermissionError):
            os.chmod(path, 0o660)

    lab.ben.act(lambda: edit(pack))
    lab.ben.act(lambda: edit(lab.store / "kacas.toml"))


def test_members_can_delete_unless_the_store_is_sticky(lab: Lab) -> None:
    init(lab)
    put(lab.ada, lab.store, "ada's")
    (pack,) = (lab.store / "packs").glob("*.pack")
    lab.ben.act(pack.unlink)
    assert not pack.exists()


def test_in_a_sticky_store_only_its_owner_and_whoever_stored_can_delete(lab: Lab) -> None:
    init(lab, sticky=True)
    put(lab.ada, lab.store, "ada's")
    (adas,) = (lab.store / "packs").glob("*.pack")
    put(lab.ben, lab.store, "ben's")
    (bens,) = set((lab.store / "packs").glob("*.pack")) - {adas}

    def delete(path: Path) -> None:
        with pytest.raises(PermissionError):
            path.unlink()
        with pytest.raises(PermissionError):
            path.rename(path.with_name("elsewhere"))

    lab.ben.act(lambda: delete(adas))
    lab.dan.act(lambda: delete(bens))
    lab.ben.act(lambda: delete(lab.store / "kacas.toml"))
    lab.ada.act(bens.unlink)  # the store's owner collects
    assert adas.exists()


def test_who_may_not_write_reads_and_is_told_whose_it_is_and_which_group_it_takes(lab: Lab) -> None:
    init(lab, world_readable=True)
    uri = put(lab.ben, lab.store, "for all")
    assert loaded(lab.cleo, lab.store, uri) == "for all"
    words = refused(lab.cleo, lab.store)
    assert f"{lab.ada.name}'s, of the group {lab.group}" in words
    assert f"you are {lab.cleo.name}" in words
    assert f"only members of the group {lab.group} can write it" in words
    assert f"ask {lab.ada.name}" in words

    def look() -> None:
        with kacas.Store.open(lab.store, create=False) as opened:
            assert not opened.exists("sha1://" + "00" * 20)
            assert opened.load_file(uri).read_text() == "for all"
            assert opened.repository.cache.is_relative_to(lab.cleo.home)

    before = sorted(everything_in(lab.store))
    lab.cleo.act(look)
    report = doctor(lab.cleo, lab.store)
    assert report.healthy, report.remaining
    assert "not-tried" in ids(report)
    assert sorted(everything_in(lab.store)) == before


def test_who_is_not_of_the_group_is_told_so(lab: Lab) -> None:
    init(lab)
    uri = put(lab.ada, lab.store, "members only")

    def attempt() -> str:
        with pytest.raises(kacas.AccessDeniedError) as caught:
            kacas.Store.open(lab.store, create=False)
        assert isinstance(caught.value, PermissionError)
        return str(caught.value)

    words = lab.cleo.act(attempt)
    assert f"{lab.store} is {lab.ada.name}'s, of the group {lab.group}, drwxrws---" in words
    assert f"only members of the group {lab.group} can read it" in words
    (finding,) = doctor(lab.cleo, lab.store).remaining
    assert finding.id == "closed"
    assert f"ask {lab.ada.name}" in finding.what
    assert loaded(lab.dan, lab.store, uri) == "members only"


def test_a_shared_store_is_for_a_group_that_is_there_and_that_one_is_in(lab: Lab) -> None:
    def create(user: User, group: str) -> str:
        def attempt() -> str:
            with pytest.raises(kacas.InvalidSettingError) as caught:
                kacas.Store.create(user.home / "store", group=group)
            assert not (user.home / "store").exists()
            return str(caught.value)

        return str(user.act(attempt))

    assert "there is no group 'no-such-group'" in create(lab.ada, "no-such-group")
    words = create(lab.cleo, lab.group)
    assert f"you ({lab.cleo.name}) are no member of the group '{lab.group}'" in words
    assert f"usermod -aG {lab.group} {lab.cleo.name}" in words
    newcomer = User(lab.ben.name, lab.ben.uid, lab.ben.gid, (lab.ben.gid,), lab.ben.home, 0o077)
    assert "log in anew" in create(newcomer, lab.group)


def test_a_place_that_cannot_be_handed_over_is_refused_with_what_to_run(lab: Lab) -> None:
    lab.store.mkdir()
    os.chown(lab.store, lab.dan.uid, lab.gid)
    lab.store.chmod(0o775)

    def attempt() -> str:
        with pytest.raises(kacas.StoreError) as caught:
            kacas.Store.create(lab.store, group=lab.group)
        return str(caught.value)

    words = lab.ada.act(attempt)
    assert f"it is {lab.dan.name}'s" in words
    assert f"chmod 2770 {lab.store}" in words
    assert list(lab.store.iterdir()) == []
