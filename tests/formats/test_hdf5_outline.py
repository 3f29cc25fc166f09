"""The outline of HDF5 files in the store, from their metadata alone."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import kacas
from tests.formats.hdf5_files import filters, links, recording, types


def test_groups_datasets_and_links_are_named_with_what_they_are(store: kacas.Store, tmp_path: Path) -> None:
    links(tmp_path / "x.h5")
    shown = {item.path: item for item in store.list_h5(store.store_file(tmp_path / "x.h5"))}
    assert list(shown)[:4] == ["/", "/a", "/a/b", "/a/b/again"]
    assert shown["/a/b/again"] == kacas.Hdf5Item(
        "/a/b/again", "dataset", shape=(6000, 64), dtype="int16", storage="chunked", chunks=(500, 64)
    )
    assert shown["/chunked"] == kacas.Hdf5Item("/chunked", "hard link", target="/a/b/again")
    assert shown["/a/b/up"] == kacas.Hdf5Item("/a/b/up", "hard link", target="/")
    assert shown["/nowhere"] == kacas.Hdf5Item("/nowhere", "soft link", target="/not/there")
    assert shown["/reference"].dtype == "reference"
    assert shown["/region"].dtype == "region reference"
    assert shown["/contiguous"].storage == "contiguous"


def test_filters_and_types_are_named_in_words(store: kacas.Store, tmp_path: Path) -> None:
    filters(tmp_path / "f.h5")
    types(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "a") as file:
        file["named"] = np.dtype("f4")
        file.attrs["one"] = file.attrs["two"] = 1
    shown = {item.path: item for item in store.list_h5(store.store_file(tmp_path / "f.h5"))}
    assert shown["/all"].filters == ("shuffle", "gzip 4", "fletcher32")
    assert shown["/lzf"].filters == ("shuffle", "lzf")
    assert shown["/scaled"].filters == ("scaleoffset",)
    shown = {item.path: item for item in store.list_h5(store.store_file(tmp_path / "t.h5"))}
    assert shown["/"].attributes == 2
    assert {path: item.dtype for path, item in shown.items() if item.type == "dataset"} == {
        "/big-endian": ">f4", "/bool": "bool", "/complex": "complex64", "/enum": "enum uint8", "/nothing": "int16",
        "/null": "float32", "/ragged": "ragged int32", "/scalar": "float64", "/texts": "text", "/unwritten": "int16",
        "/compound": "record(a int32, b float64 (2,), c |S5)".replace("c |S5", "c text"),
    }  # fmt: skip
    assert shown["/null"].shape is None
    assert shown["/scalar"].shape == ()
    assert shown["/named"].type == "datatype"


def test_a_part_is_shown_by_its_path_and_one_that_is_not_there_is_not_found(store: kacas.Store, tmp_path: Path) -> None:
    links(tmp_path / "x.h5")
    uri = store.store_file(tmp_path / "x.h5")
    assert [item.path for item in store.list_h5(uri, "a/b/again")] == ["/a/b/again"]
    assert [item.path for item in store.list_h5(uri, "/a")][:2] == ["/a", "/a/b"]
    with pytest.raises(kacas.NotFoundError, match="nowhere"):
        list(store.list_h5(uri, "nowhere"))
    with pytest.raises(kacas.WrongKindError, match="does not begin as HDF5"):
        list(store.list_h5(store.store_text("a text")))


def test_what_cannot_be_read_is_shown_as_such(store: kacas.Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name in "abc":
            file[name] = recording()
        header = h5py.h5o.get_info(file["b"].id).addr
    with (tmp_path / "x.h5").open("r+b") as raw:
        raw.seek(header)
        raw.write(b"\xff" * 16)
    shown = [(item.path, item.type) for item in store.list_h5(store.store_file(tmp_path / "x.h5"))]
    assert shown == [("/", "group"), ("/a", "dataset"), ("/b", "unreadable"), ("/c", "dataset")]


@pytest.mark.parametrize("libver, mark", [("earliest", b"TREE"), ("earliest", b"HEAP"), ("latest", b"OHDR")])
@pytest.mark.parametrize("group", ["/", "/a"])
def test_a_damaged_group_is_shown_as_such(
    store: kacas.Store, tmp_path: Path, libver: str, mark: bytes, group: str
) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver=libver) as file:
        file["a/b"] = 1.0
        header = h5py.h5o.get_info(file[group].id).addr
    data = bytearray((tmp_path / "x.h5").read_bytes())
    at = data.index(mark, header)
    data[at : at + 16] = b"\xff" * 16
    (tmp_path / "x.h5").write_bytes(data)
    uri = store.store_file(tmp_path / "x.h5")
    try:
        shown = [(item.path, item.type) for item in store.list_h5(uri)]
    except kacas.WrongKindError:
        assert (libver, group) == ("latest", "/")  # h5py does not open it
        return
    assert shown[-1] == (group, "unreadable")
    assert [(item.path, item.type) for item in store.list_h5(uri, group)] == [(group, "unreadable")]
    with pytest.raises(kacas.NotFoundError):
        list(store.list_h5(uri, f"{group}/b"))


def test_damage_of_the_store_is_named_as_such(store: kacas.Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["d"] = np.random.default_rng(0).integers(0, 1 << 62, 200_000)
    uri = store.store_file(tmp_path / "x.h5")
    (pack,) = (store.path / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    for at in range(4096, len(data) - 100_000, 4096):
        data[at] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    with pytest.raises((kacas.DamagedError, OSError)), store.open_h5(uri) as file:
        file["d"][:]
