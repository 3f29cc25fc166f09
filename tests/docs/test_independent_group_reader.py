"""docs/independent_group_reader.py: verifies records and opens what is sealed, as a command, and refuses what was altered."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kacas
from kacas.model.uri import DirectoryUri, Uri
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.sealed import SealedBlobs
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from kacas_remote.groups import keys_of
from kacas_remote.groups.edits import NewMember
from kacas_remote.groups.verbs import create_group, open_group, remove_members
from kacas_remote.identity import own_or_new
from kacas_remote.push.pushing import push
from kacas_remote.remote import Remote
from kacas_remote.sealing.epoch_keys import EpochKeys
from kacas_remote.sealing.sealed_name import sealed_name
from kacas_remote.sealing.sealed_uri import sealed_uri
from kacas_remote.sealing.segments import Sealer, content_key, sealed_size
from kacas_remote.signing import new_private_key
from tests.docs.test_independent_blake3 import READER, reader
from tests.docs.test_known_answers import BY_READER, EPOCHS, KNOWN, MEMBER, TEXTS
from tests.remote.sealing.test_sealed_name import keys as blob_keys
from tests.remote.sealing.test_sealed_uri import epochs, uris


def run(*arguments: str | Path, key: bytes = MEMBER) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KACAS_PRIVATE_KEY": key.hex()}
    command = [sys.executable, "-I", READER, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "lab.group"
    path.write_bytes(b"".join(TEXTS))
    return path


def test_it_says_who_is_a_member(record: Path) -> None:
    done = run(record)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"{KNOWN['group']['id']} lab, version 3, epoch 2"
    assert {line.partition(" ")[2] for line in done.stdout.splitlines()[1:]} == {"ada, admin", "bob, admin"}


def test_it_decrypts_uris(record: Path) -> None:
    done = run(record, "uri", *(one["encrypted"] for one in KNOWN["uris"]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [one["plain"] for one in KNOWN["uris"]]


def test_it_opens_a_private_remote_and_names_what_it_cannot_open(record: Path, tmp_path: Path) -> None:
    wanted = {}
    for name in KNOWN["names"]:
        key = name["key"]
        objects = [one for one in KNOWN["objects"] if one["key"] == key and "sealed" in one]
        path = tmp_path / "bucket" / name["sealed"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes.fromhex(objects[0]["sealed"]) if objects else b"not sealed at all, but long enough")
        if objects:
            wanted[key] = bytes.fromhex(objects[0]["content"])
    done = run(record, "bucket", tmp_path / "bucket", tmp_path / "opened")
    found = {
        path.relative_to(tmp_path / "opened").as_posix(): path.read_bytes()
        for path in (tmp_path / "opened").rglob("*")
        if path.is_file()
    }
    assert found == wanted
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == len(KNOWN["names"]) - len(wanted)


def test_the_versions_of_a_bucket_or_a_store_are_read_from_their_directory(tmp_path: Path) -> None:
    for number, text in enumerate(TEXTS, 1):
        (tmp_path / f"{number:08}").write_bytes(text)
    assert reader.texts_of(tmp_path) == TEXTS
    (tmp_path / "00000002").unlink()
    with pytest.raises(ValueError, match="missing"):
        reader.texts_of(tmp_path)


@pytest.mark.parametrize("place", ["file", "store", "bucket"])
def test_what_kacas_pushed_for_a_group_is_restored_without_kacas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Through two epochs: the record, the private remote, the plain one that it becomes, and the files in there."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "KACAS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KACAS_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "home").mkdir()
    (tmp_path / "records").mkdir()
    (tmp_path / "bucket").mkdir()
    key = own_or_new().key
    store = kacas.Store.open(tmp_path / "home" / ".kacas")
    change_remotes(lambda there: [*there, RemoteConfiguration("records", f"file://{tmp_path / 'records'}")])
    at = {"file": f"file:{tmp_path / 'record'}", "store": "store", "bucket": "records"}[place]
    group = create_group("lab", at=at, others=[NewMember(bytes(new_private_key().verify_key), "ben")])
    record = {
        "file": tmp_path / "record",
        "store": store.path / "groups" / group.joined.group_id.hex(),
        "bucket": tmp_path / "records" / "groups" / group.joined.group_id.hex(),
    }[place]
    blobs = SealedBlobs(DirectoryBlobs(tmp_path / "bucket"), keys_of("lab"), miss_s=0, list_s=0)
    remote = Remote("lab", blobs, RemoteConfiguration("lab", f"file://{tmp_path / 'bucket'}", private="lab"))
    contents = [b"of the first epoch", np.random.default_rng(1).bytes(300_000), b"of the second epoch"]
    uris = [store.store_bytes(content) for content in contents]
    push(store, remote, uris[:2])
    remove_members(open_group("lab"), ["ben"])
    assert keys_of("lab").refresh()
    push(store, remote, uris[2:])
    sealed = [kacas.encrypt_uri(uri, access_group="lab") for uri in uris]
    done = run(record, "bucket", tmp_path / "bucket", tmp_path / "opened", key=bytes(key))
    assert (done.returncode, done.stderr) == (0, "")
    command = [
        sys.executable,
        "-I",
        READER.with_name("independent_bucket_reader.py"),
        tmp_path / "opened",
        tmp_path / "files",
    ]
    subprocess.run(command, check=True)
    assert {path.read_bytes() for path in (tmp_path / "files").iterdir()} == set(contents)
    assert run(record, "uri", *sealed, key=bytes(key)).stdout.splitlines() == uris


def seen_by_the_reader(keys: EpochKeys) -> Any:
    return reader.Epoch(keys.group_id, keys.epoch, keys.secret)


@given(uri=uris, keys=epochs, hidden=st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_uri_kacas_encrypts_the_reader_decrypts(
    uri: Uri | DirectoryUri, keys: EpochKeys, hidden: bool
) -> None:
    sealed = sealed_uri(uri, keys, hide_label=hidden)
    assert reader.open_uri([seen_by_the_reader(keys)], sealed) == uri.plain


@given(key=blob_keys, keys=epochs)
@settings(max_examples=40, deadline=None)
def test_whatever_name_kacas_seals_the_reader_opens(key: str, keys: EpochKeys) -> None:
    assert seen_by_the_reader(keys).blob_key(sealed_name(keys, key)) == key


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000])
def test_whatever_object_kacas_seals_the_reader_opens(size: int) -> None:
    keys, data = EpochKeys(bytes(16), 7, b"s" * 32), np.random.default_rng(size).bytes(size)
    sealed = bytearray(sealed_size(size))
    Sealer(content_key(keys, "packs/x"), bytes(range(16))).seal(data, memoryview(sealed))
    assert b"".join(seen_by_the_reader(keys).content(bytes(sealed), "packs/x")) == data


def test_who_is_no_member_opens_nothing(record: Path) -> None:
    done = run(record, "uri", KNOWN["uris"][0]["encrypted"], key=bytes(32))
    assert done.returncode == 1
    assert done.stderr == "this key is no member's\n"
    assert done.stdout == ""


def test_every_byte_of_a_record_that_is_altered_is_refused() -> None:
    for number, text in enumerate(TEXTS[:2]):
        for at in range(len(text)):
            altered = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
            with pytest.raises(ValueError):
                reader.verified([*TEXTS[:number], altered, *TEXTS[number + 1 :]])


@pytest.mark.parametrize(
    "texts", [[], TEXTS[1:], [TEXTS[0], TEXTS[2]], [TEXTS[0], TEXTS[0]], TEXTS[::-1]], ids=range(5)
)
def test_a_chain_with_a_gap_or_in_another_order_is_refused(texts: list[bytes]) -> None:
    with pytest.raises(ValueError):
        reader.verified(texts)


@pytest.mark.parametrize("answer", KNOWN["uris"], ids=range(len(KNOWN["uris"])))
def test_every_character_of_a_uri_that_is_altered_is_refused(answer: dict[str, Any]) -> None:
    text = answer["encrypted"]
    for at in range(len(text)):
        with pytest.raises(ValueError):
            reader.open_uri(EPOCHS, text[:at] + ("1" if text[at] == "0" else "0") + text[at + 1 :])


def test_every_byte_of_an_object_that_is_altered_is_refused() -> None:
    for answer in (one for one in KNOWN["objects"] if "sealed" in one):
        epoch, sealed = BY_READER[answer["epoch"]], bytes.fromhex(answer["sealed"])
        for at in range(len(sealed)):
            altered = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
            with pytest.raises(ValueError):
                list(epoch.content(altered, answer["key"]))
        with pytest.raises(ValueError):
            list(epoch.content(sealed, answer["key"] + "0"))
        for size in range(len(sealed)):
            with pytest.raises(ValueError):
                list(epoch.content(sealed[:size], answer["key"]))


def test_it_needs_nothing_but_pynacl() -> None:
    tree = ast.parse(READER.read_text("utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert {name for name in imported if name and name.partition(".")[0] not in sys.stdlib_module_names} == {
        "nacl.bindings", "nacl.exceptions", "nacl.public", "nacl.signing"
    }  # fmt: skip
