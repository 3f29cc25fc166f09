"""The store's directory: created once, opened exactly, never made over somebody else's files."""

from __future__ import annotations

import os
import shutil
import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kacas.disk.file_systems import file_system
from kacas.disk.volume import Sharing, Volume, open_volume
from kacas.errors import InvalidSettingError, NewerFormatError, StoreError, StoreNotFoundError

PACK = bytes(range(16))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tree(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


@pytest.mark.parametrize("durability", [None, "full", "relaxed"])
def test_a_store_that_is_made_is_the_one_that_is_opened(tmp_path: Path, durability: str | None) -> None:
    made = open_volume(tmp_path / "a" / "store", create=True, durability=durability)
    assert tree(tmp_path / "a" / "store") == {"kacas.toml", "packs"}
    assert made.settings.durability == (durability or "full")
    assert made.durable == (durability != "relaxed")
    assert len(made.store_id) == 16
    assert open_volume(tmp_path / "a" / "store", create=False) == made
    assert open_volume(tmp_path / "a" / "store", create=True) == made


def test_a_new_store_is_private_and_its_settings_cannot_be_edited_by_accident(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        open_volume(tmp_path / "store", create=True)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "store") == 0o700
    assert mode_of(tmp_path / "store" / "kacas.toml") == 0o444


def test_the_settings_file_is_plain_toml_that_says_what_the_store_is(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "store", create=True, durability="relaxed")
    table = tomllib.loads((tmp_path / "store" / "kacas.toml").read_text("utf-8"))
    assert table["store"]["id"] == volume.store_id.hex()
    assert table["store"]["format"] == 1
    assert table["settings"] == {
        "durability": "relaxed",
        "sharing": "private",
        "cutter": "fastcdc2020-128k-256k-1m-nc2-seed0",
    }
    assert table["probed"] == {"file_system": file_system(tmp_path), "hard_links": True}


def test_two_stores_have_different_ids(tmp_path: Path) -> None:
    ids = {open_volume(tmp_path / name, create=True).store_id for name in "abc"}
    assert len(ids) == 3


def test_a_missing_store_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="kacas init") as caught:
        open_volume(tmp_path / "store", create=False)
    assert caught.value.path == str(tmp_path / "store")
    assert isinstance(caught.value, FileNotFoundError)
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("strange", ["data.csv", ".hidden", "packs.txt", "sub"])
def test_a_directory_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path, strange: str) -> None:
    (tmp_path / strange).mkdir() if strange == "sub" else (tmp_path / strange).write_text("mine")
    with pytest.raises(StoreError, match="choose an empty place") as caught:
        open_volume(tmp_path, create=True)
    assert repr(strange) in str(caught.value)
    assert tree(tmp_path) == {strange}


def test_an_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(0o750)
    assert open_volume(tmp_path / "empty", create=True).list_packs() == set()


@pytest.mark.parametrize("create", [True, False])
def test_a_file_is_not_a_store(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError):
        open_volume(tmp_path / "file", create=create)
    with pytest.raises(StoreError):
        open_volume(tmp_path / "file" / "store", create=create)
    assert (tmp_path / "file").read_text() == "mine"


def test_packs_that_is_a_file_makes_no_store(tmp_path: Path) -> None:
    (tmp_path / "packs").write_text("mine")
    with pytest.raises(StoreError):
        open_volume(tmp_path, create=True)
    assert tree(tmp_path) == {"packs"}


def test_packs_without_their_settings_are_not_made_over(tmp_path: Path) -> None:
    open_volume(tmp_path / "store", create=True)
    (tmp_path / "store" / "packs" / f"{PACK.hex()}.pack").write_bytes(b"content")
    (tmp_path / "store" / "kacas.toml").unlink()
    with pytest.raises(StoreError, match=r"restore that file"):
        open_volume(tmp_path / "store", create=True)


def test_the_durability_was_chosen_when_the_store_was_made(tmp_path: Path) -> None:
    open_volume(tmp_path / "store", create=True, durability="relaxed")
    assert not open_volume(tmp_path / "store", create=True, durability="relaxed").durable
    with pytest.raises(InvalidSettingError, match="'relaxed', chosen when it was made; it cannot be 'full'"):
        open_volume(tmp_path / "store", create=True, durability="full")


def test_an_unknown_durability_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match="'paranoid'"):
        open_volume(tmp_path / "store", create=True, durability="paranoid")
    assert tree(tmp_path) == set()


def test_a_store_of_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    open_volume(tmp_path / "store", create=True)
    file = tmp_path / "store" / "kacas.toml"
    text = file.read_text()
    file.chmod(0o644)
    file.write_text(text.replace("format = 1", "format = 2"))
    with pytest.raises(NewerFormatError, match="upgrade") as caught:
        open_volume(tmp_path / "store", create=True)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[store]\n", b"x" * 100_000])
def test_damaged_settings_are_refused_and_not_made_anew(tmp_path: Path, content: bytes) -> None:
    open_volume(tmp_path / "store", create=True)
    file = tmp_path / "store" / "kacas.toml"
    file.chmod(0o644)
    file.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        open_volume(tmp_path / "store", create=True)
    assert str(file) in str(caught.value)
    assert file.read_bytes() == content


def test_of_many_who_make_one_store_all_open_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: open_volume(tmp_path / "store", create=True), range(8)))
    assert {volume.store_id for volume in made} == {made[0].store_id}
    assert tree(tmp_path / "store") == {"kacas.toml", "packs"}


def test_packs_and_orphans_are_told_apart_by_name(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "store", create=True)
    strays = [
        f".{PACK.hex()}.pack.tmp.host.1.abcd", f"{PACK.hex()}.pack.bak", f"{PACK.hex().upper()}.pack",
        f"{PACK.hex()[:-1]}.pack", "notes.txt",
    ]  # fmt: skip
    for name in [*strays, f"{PACK.hex()}.pack"]:
        (volume.packs / name).write_bytes(b"")
    assert volume.list_packs() == {PACK}
    assert volume.list_orphans() == sorted(f"packs/{name}" for name in strays)
    assert volume.pack_path(PACK).name == f"{PACK.hex()}.pack"


def test_packs_that_vanished_are_an_error_and_not_an_empty_store(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "store", create=True)
    shutil.rmtree(volume.packs)
    with pytest.raises(StoreError, match="is gone"):
        volume.list_packs()


def test_the_cache_directory_is_private_and_always_the_same(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "store", create=True)
    before = os.umask(0)
    try:
        place = volume.cache_directory(tmp_path / "cache")
    finally:
        os.umask(before)
    assert mode_of(place) == 0o700
    assert mode_of(tmp_path / "cache") == 0o700
    assert place.parent == tmp_path / "cache"
    assert volume.store_id.hex() in place.name
    assert open_volume(tmp_path / "store", create=False).cache_directory(tmp_path / "cache") == place


def test_a_cache_is_never_inside_of_the_store(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "store", create=True)
    (tmp_path / "link").symlink_to(volume.path)
    before = tree(volume.path)
    for parent in (volume.path / "cache", volume.path, tmp_path / "link" / "cache"):
        with pytest.warns(RuntimeWarning, match="it is inside the store"):
            place = volume.cache_directory(parent)
        assert place.parent == Path(f"/var/tmp/kacas-{os.getuid()}")
    shutil.rmtree(place)
    assert tree(volume.path) == before


def test_a_copied_store_has_another_cache_and_a_moved_one_the_same(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "store", create=True)
    place = volume.cache_directory(tmp_path / "cache")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    copy = open_volume(tmp_path / "copy", create=False)
    assert copy.store_id == volume.store_id
    assert copy.cache_directory(tmp_path / "cache") != place
    (tmp_path / "store").rename(tmp_path / "moved")
    assert open_volume(tmp_path / "moved", create=False).cache_directory(tmp_path / "cache") == place


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    volume: Volume = open_volume(Path("store"), create=True)
    assert volume.path == tmp_path / "store"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
@pytest.mark.parametrize(
    "sticky, world_readable, directory, file",
    [(False, False, 0o2770, 0o440), (True, False, 0o3770, 0o440), (False, True, 0o2775, 0o444)],
)
def test_a_shared_store_has_its_modes_whatever_the_umask(
    tmp_path: Path, umask: int, sticky: bool, world_readable: bool, directory: int, file: int
) -> None:
    sharing = Sharing(str(os.getegid()), sticky, world_readable)
    before = os.umask(umask)
    try:
        volume = open_volume(tmp_path / "store", create=True, sharing=sharing)
        volume.make_directory(volume.path / "refs" / "@a" / "key")
    finally:
        os.umask(before)
    assert (volume.directory_mode, volume.record_mode, volume.pack_mode) == (directory, file, file)
    places = [volume.path, *(path for path in volume.path.rglob("*") if path.is_dir())]
    named = {"packs", "segments", "refs", "feeds", "leases", "groups"}
    assert {place.name for place in places} == {"store", "@a", "key"} | named
    assert {mode_of(place) for place in places} == {directory}
    assert mode_of(volume.path / "kacas.toml") == file
    assert open_volume(tmp_path / "store", create=True, sharing=sharing) == volume
    assert open_volume(tmp_path / "store", create=False) == volume
    assert volume.sharing_words().startswith("shared by the group ")


def test_the_sharing_of_a_store_was_chosen_when_it_was_made(tmp_path: Path) -> None:
    group = str(os.getegid())
    open_volume(tmp_path / "private", create=True)
    with pytest.raises(InvalidSettingError, match="is private, chosen when it was made"):
        open_volume(tmp_path / "private", create=True, sharing=Sharing(group))
    open_volume(tmp_path / "shared", create=True, sharing=Sharing(group))
    for other in (Sharing(group, sticky=True), Sharing(group, world_readable=True)):
        with pytest.raises(InvalidSettingError, match=r"is shared by the group .*, chosen when it was made"):
            open_volume(tmp_path / "shared", create=True, sharing=other)


def test_an_empty_directory_becomes_a_shared_store_with_its_modes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(0o755)
    volume = open_volume(tmp_path / "empty", create=True, sharing=Sharing(str(os.getegid())))
    assert mode_of(volume.path) == 0o2770


def test_the_directory_behind_a_link_is_not_given_to_a_group(tmp_path: Path) -> None:
    (tmp_path / "another's").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "another's")
    with pytest.raises(StoreError, match=r"is a symbolic link, .* leads to: .*/another's"):
        open_volume(tmp_path / "link", create=True, sharing=Sharing(str(os.getegid())))
    assert mode_of(tmp_path / "another's") == 0o700
    assert os.listdir(tmp_path / "another's") == []


def test_directories_of_a_private_store_are_as_they_were(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "store", create=True)
    volume.make_directory(volume.path / "refs" / "@a")
    assert (mode_of(volume.path), mode_of(volume.path / "refs" / "@a")) == (0o700, 0o755)
    assert (volume.shared, volume.record_mode, volume.sharing_words()) == (False, 0o444, "private")


def test_a_directory_that_cannot_be_made_is_a_typed_error(tmp_path: Path) -> None:
    volume = open_volume(tmp_path / "store", create=True)
    (volume.path / "refs").touch()
    with pytest.raises(StoreError):
        volume.make_directory(volume.path / "refs" / "@a")
