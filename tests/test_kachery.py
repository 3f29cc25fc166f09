"""kacas.kachery: what scripts of kachery-cloud call, and what they get."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kacas
import kacas.kachery as kcl
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from kacas_remote.remote import Remote, open_remote

ARRAY = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)
TEXT = "sha1://d9e989f651cdd269d7f9bb8a215d024d8d283688"
NOWHERE = "sha1://" + 40 * "0"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "KACAS_REMOTE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def lab(tmp_path: Path) -> Remote:
    """The default remote, to which stores of kacas do not push by themselves."""
    (tmp_path / "bucket").mkdir()
    change_remotes(lambda _: [RemoteConfiguration("lab", f"file://{tmp_path}/bucket", default=True)])
    return open_remote("lab")


def packs(remote: Remote) -> int:
    return len(list(remote.blobs.list("packs/")))


@pytest.mark.parametrize("end", ["", "_local"])
def test_identities_are_those_that_kachery_cloud_documented(end: str) -> None:
    Path("test_content.txt").write_bytes(b"test-content\n")

    def stored(kind: str, value: Any, label: str | None = None) -> str:
        return str(getattr(kcl, f"store_{kind}{end}")(value, label=label))

    assert stored("text", "example text", "example.txt") == f"{TEXT}?label=example.txt"
    assert stored("text", "some-text " * 3) == "sha1://cbb44480e2918cb41791366d748294bdbb874b52"
    json = "sha1://d0d9555e376ff13a08c6d56072808e27ca32d54a"
    assert stored("json", {"example": "dict"}, "example.json") == f"{json}?label=example.json"
    npy = "sha1://bb55205a2482c6db2ace544fc7d8397551110701"
    assert stored("npy", ARRAY, "example.npy") == f"{npy}?label=example.npy"
    assert stored("npy", ARRAY) == npy
    file = "sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230"
    assert stored("file", "test_content.txt") == file
    assert stored("file", "test_content.txt", "a b.txt") == f"{file}?label=a%20b.txt"
    assert stored("file", f"{file}?label=x") == file


def test_loads_give_what_was_stored() -> None:
    Path("a.dat").write_bytes(b"0123456789")
    uri = kcl.store_file("a.dat", cache_locally=True)
    assert Path("a.dat").read_bytes() == b"0123456789"
    path = kcl.load_file(uri)
    assert isinstance(path, str)
    assert Path(path).read_bytes() == b"0123456789"
    assert kcl.load_file(uri, dest="b.dat") == "b.dat"
    assert Path("b.dat").read_bytes() == b"0123456789"
    assert kcl.load_text(kcl.store_text("example text")) == "example text"
    assert kcl.load_json(kcl.store_json({"example": "dict"})) == {"example": "dict"}
    np.testing.assert_array_equal(kcl.load_npy(kcl.store_npy(ARRAY)), ARRAY)
    loaded = kcl.load_pkl(kcl.store_pkl({"example": ARRAY}))
    assert loaded is not None
    np.testing.assert_array_equal(loaded["example"], ARRAY)
    assert kcl.load_text(kcl.link_file("a.dat", label="x.dat")) == "0123456789"
    assert kcl.load_text(kcl.store_file_local("a.dat", reference=True), local_only=True) == "0123456789"
    (tmp := Path("a.dat").absolute()).chmod(0o644)
    assert kcl.load_file(str(tmp)) == str(tmp)
    assert kcl.load_file("/no/such/file") is None


def test_a_range_is_half_open_and_must_be_within_the_content(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    uri = kcl.store_text("0123456789")
    assert kcl.load_bytes(uri, 2, 5) == b"234"
    assert kcl.load_bytes(uri, None, 3) == b"012"
    assert kcl.load_bytes(uri, 7, None) == b"789"
    assert kcl.load_bytes(uri, 4, 4) == b""
    for start, end in ((-1, 3), (5, 4), (0, 11), (11, 11)):
        with pytest.raises(kacas.InvalidRangeError, match="10 bytes"):
            kcl.load_bytes(uri, start, end)
    assert kcl.load_bytes(uri, 8, 10, write_to_stdout=True) is None
    kcl.cat_file(uri)
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"890123456789"


LOADS: list[Callable[..., Any]] = [kcl.load_text, kcl.load_json, kcl.load_npy, kcl.load_pkl, kcl.load_file]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
def test_what_is_not_found_is_none(load: Callable[..., Any]) -> None:
    assert load(NOWHERE) is None
    assert load(NOWHERE, local_only=True) is None


def test_bytes_that_are_not_found_are_none() -> None:
    assert kcl.load_bytes(NOWHERE, 0, 1) is None
    kcl.cat_file(NOWHERE)


def test_what_is_damaged_or_of_another_kind_is_an_error_and_never_none() -> None:
    with pytest.raises(kacas.WrongKindError):
        kcl.load_npy(kcl.store_text("no array"))
    with pytest.raises(kacas.InvalidUriError):
        kcl.load_text("no uri")


def test_json_can_be_laid_out_otherwise_and_has_no_nan() -> None:
    assert kcl.load_text(kcl.store_json({"b": 1, "a": [2]}, indent=1)) == '{\n "a":[\n  2\n ],\n "b":1\n}'
    assert kcl.load_text(kcl.store_json_local({"b": 1, "a": 2}, separators=(", ", ": "))) == '{"a": 2, "b": 1}'
    with pytest.raises(kacas.UnsupportedDataError, match="JSON"):
        kcl.store_json({"a": float("nan")})
    assert kcl.store_json({"b": 1, "a": 2})[7:] == kcl.sha1_of_dict({"a": 2, "b": 1})


def test_stores_upload_to_the_default_remote_and_local_ones_never(lab: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    local = kcl.store_text_local("local")
    kcl.store_npy(ARRAY, local=True)
    assert packs(lab) == 0
    monkeypatch.setenv("KACAS_REMOTE", "lab")
    kcl.store_json_local({"a": 1})
    Path("a.dat").write_bytes(b"0123456789")
    kcl.store_file_local("a.dat")
    kcl.store_pkl_local([1])
    kcl.store_npy_local(ARRAY)
    assert packs(lab) == 0
    monkeypatch.delenv("KACAS_REMOTE")
    uri = kcl.store_text("for all of us")
    assert packs(lab) == 1
    assert kcl.load_text(local) == "local"
    assert kcl.load_text(uri, local_only=True) == "for all of us"


def test_mutables_of_the_cloud_and_local_ones_are_apart() -> None:
    kcl.set_mutable("test/key1", "of all")
    kcl.set_mutable_local("test/key1", "mine")
    assert (kcl.get_mutable("test/key1"), kcl.get_mutable_local("@test/key1")) == ("of all", "mine")
    assert kacas.get_mutable("@test/key1") == "mine"
    assert kcl.get_mutable("test/key2") is None
    assert kcl.get_mutable_local("test/key2", "default") == "default"
    kcl.delete_mutable("test/key1")
    kcl.delete_mutable("test/key1")
    assert kcl.get_mutable("test/key1") is None
    kcl.delete_mutable_local("test/key1")
    with pytest.raises(kacas.MutableNotFoundError):
        kcl.delete_mutable_local("test/key1")


def test_folders_of_mutables_go_as_a_whole() -> None:
    kcl.set_mutable("@a/@b/c", "1")
    kcl.set_mutable_local("@a/@b/c", "1")
    kcl.delete_mutable_folder("@a")
    kcl.delete_mutable_folder_local("@a/@b")
    assert kcl.get_mutable("@a/@b/c") is None
    assert kcl.get_mutable_local("@a/@b/c") is None
    kcl.delete_mutable_folder_local("@a")
    with pytest.raises(kacas.InvalidKeyError):
        kcl.delete_mutable_folder_local("@a/b")


def test_a_feed_is_read_as_the_documentation_of_kachery_cloud_has_it() -> None:
    feed = kcl.create_feed()
    assert feed.append_message({"message": 1}) is None  # type: ignore[func-returns-value]
    feed.append_messages([{"message": 2}, {"message": 3}])
    again = kcl.load_feed(feed.uri)
    assert again.get_next_messages() == [{"message": 1}, {"message": 2}, {"message": 3}]
    assert again.current_message_number == 3
    assert again.get_next_messages(timeout_sec=0.01) == []
    again.set_position(2)
    assert kcl.load_feed(feed.feed_id).uri == feed.uri
    assert again.get_next_messages() == [{"message": 3}]


def test_a_client_id_is_the_public_key_and_made_when_it_is_asked_for() -> None:
    with pytest.raises(kacas.InvalidSettingError, match="generate_if_missing"):
        kcl.get_client_id()
    made = kcl.get_client_id(generate_if_missing=True)
    assert len(bytes.fromhex(made)) == 32
    assert kcl.get_client_id() == made


def test_the_arguments_are_those_of_kachery_cloud() -> None:
    known = {
        "store_file": ["filename", "label", "cache_locally", "local"],
        "store_text": ["text", "label", "cache_locally", "local"],
        "store_json": ["x", "separators", "indent", "label", "cache_locally", "local"],
        "store_npy": ["array", "label", "cache_locally", "local"],
        "store_pkl": ["x", "label", "cache_locally", "local"],
        "store_text_local": ["text", "label"],
        "store_json_local": ["x", "separators", "indent", "label"],
        "store_npy_local": ["array", "label"],
        "store_pkl_local": ["x", "label"],
        "link_file": ["filename", "label"],
        "load_file": ["uri", "verbose", "local_only", "dest"],
        "load_text": ["uri", "local_only"],
        "load_json": ["uri", "local_only"],
        "load_npy": ["uri", "local_only"],
        "load_pkl": ["uri", "local_only"],
        "load_bytes": ["uri", "start", "end", "write_to_stdout"],
        "set_mutable": ["key", "value", "project_id"],
        "get_mutable": ["key", "project_id"],
        "delete_mutable": ["key", "project_id"],
        "set_mutable_local": ["key", "value"],
        "get_mutable_local": ["key", "default_value"],
        "get_client_id": ["generate_if_missing"],
        "encrypt_uri": ["uri", "access_group", "label"],
        "decrypt_uri": ["uri"],
    }
    for name, arguments in known.items():
        assert list(inspect.signature(getattr(kcl, name)).parameters) == arguments, name


def test_a_script_needs_another_import_and_nothing_else() -> None:
    script = """
import IMPORT as kcl
import numpy as np
uri = kcl.store_text_local("example text", label="example")
assert uri == "sha1://d9e989f651cdd269d7f9bb8a215d024d8d283688?label=example"
array = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16)
uri = kcl.store_npy_local(array, label="example.npy")
assert uri == "sha1://bb55205a2482c6db2ace544fc7d8397551110701?label=example.npy"
assert (kcl.load_npy(uri) == array).all()
assert (kcl.load_pkl(kcl.store_pkl_local({"example": array}, label="example.pkl"))["example"] == array).all()
kcl.set_mutable_local("@test/key1", uri)
assert kcl.get_mutable_local("@test/key1") == uri
"""
    code = script.replace("IMPORT", "kacas.kachery")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
