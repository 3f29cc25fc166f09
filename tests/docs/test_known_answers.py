"""docs/formats.md: the known answers of access groups, opened by docs/independent_group_reader.py and made again by kacas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from nacl.signing import SigningKey

from kacas.model.uri import parse_any_uri
from kacas_remote.groups.chain import open_epochs, read_chain
from kacas_remote.groups.record import decode_version, group_id_of, parse_group, signed
from kacas_remote.sealing.epoch_keys import EpochKeys
from kacas_remote.sealing.sealed_name import opened_name, sealed_name
from kacas_remote.sealing.sealed_uri import opened_uri, parse_sealed_uri, sealed_uri
from kacas_remote.sealing.segments import Opener, Sealer, content_key, sealed_size
from kacas_remote.signing import PrivateKey
from tests.docs.test_independent_blake3 import reader

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text("utf-8")


def answers() -> dict[str, Any]:
    section = PAGE.partition("Known answers of access groups\n")[2]
    block = re.search(r"^```json\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert block
    found: dict[str, Any] = json.loads(block[1])
    return found


KNOWN = answers()
GROUP_ID = bytes.fromhex(KNOWN["group"]["id"].removeprefix("ag_"))
SECRETS = {one["epoch"]: bytes.fromhex(one["secret"]) for one in KNOWN["epochs"]}
KEYS = {epoch: EpochKeys(GROUP_ID, epoch, secret) for epoch, secret in SECRETS.items()}
EPOCHS = [reader.Epoch(GROUP_ID, epoch, secret) for epoch, secret in SECRETS.items()]
TEXTS = [text.encode() for text in KNOWN["record"]["versions"]]
MEMBER = bytes.fromhex(KNOWN["record"]["member_private_key"])
BY_READER = {epoch.number: epoch for epoch in EPOCHS}


def content_of(answer: dict[str, Any]) -> bytes:
    return bytes(answer["zeros"]) if "zeros" in answer else bytes.fromhex(answer["content"])


@pytest.mark.parametrize("answer", KNOWN["epochs"], ids=lambda one: f"epoch {one['epoch']}")
def test_both_derive_the_keys_of_an_epoch(answer: dict[str, Any]) -> None:
    for purpose, key in answer["keys"].items():
        assert BY_READER[answer["epoch"]].key(purpose).hex() == key
        assert getattr(KEYS[answer["epoch"]], purpose.replace(" ", "_")).hex() == key
    assert len(answer["keys"]) == 8


def test_both_make_the_id_of_the_group_of_its_founder() -> None:
    group = KNOWN["group"]
    founder, salt = bytes.fromhex(group["founder_public_key"]), bytes.fromhex(group["salt"])
    assert bytes(SigningKey(bytes.fromhex(group["founder_private_key"])).verify_key) == founder
    assert group_id_of(founder, salt) == parse_group(group["id"]) == GROUP_ID
    assert reader.blake3(founder + salt, context=reader.ID_CONTEXT)[:16] == GROUP_ID


@pytest.mark.parametrize("answer", KNOWN["uris"], ids=range(len(KNOWN["uris"])))
def test_the_reader_opens_the_uris(answer: dict[str, Any]) -> None:
    assert reader.open_uri(EPOCHS, answer["encrypted"]) == answer["plain"]
    others = [epoch for epoch in EPOCHS if epoch.number != answer["epoch"]]
    with pytest.raises(ValueError, match="not known here"):
        reader.open_uri(others, answer["encrypted"])


@pytest.mark.parametrize("answer", KNOWN["uris"], ids=range(len(KNOWN["uris"])))
def test_kacas_encrypts_the_uris_the_same_and_opens_them(answer: dict[str, Any]) -> None:
    uri = parse_any_uri(answer["plain"])
    assert sealed_uri(uri, KEYS[answer["epoch"]], hide_label=answer["hide_label"]) == answer["encrypted"]
    opened = opened_uri(parse_sealed_uri(answer["encrypted"]), [KEYS[2], KEYS[1]])
    assert opened is not None
    assert (opened, opened.plain, opened.given) == (uri, answer["plain"], answer["encrypted"])


@pytest.mark.parametrize("answer", KNOWN["names"], ids=range(len(KNOWN["names"])))
def test_the_reader_opens_the_names(answer: dict[str, Any]) -> None:
    assert BY_READER[answer["epoch"]].blob_key(answer["sealed"]) == answer["key"]


@pytest.mark.parametrize("answer", KNOWN["names"], ids=range(len(KNOWN["names"])))
def test_kacas_seals_the_names_the_same_and_opens_them(answer: dict[str, Any]) -> None:
    keys = KEYS[answer["epoch"]]
    assert sealed_name(keys, answer["key"]) == answer["sealed"]
    assert opened_name(keys, answer["sealed"]) == answer["key"]


def test_the_reader_opens_the_objects() -> None:
    for answer in KNOWN["objects"]:
        if "sealed" in answer:
            opened = BY_READER[answer["epoch"]].content(bytes.fromhex(answer["sealed"]), answer["key"])
            assert b"".join(opened) == content_of(answer)


@pytest.mark.parametrize("answer", KNOWN["objects"], ids=range(len(KNOWN["objects"])))
def test_kacas_seals_the_objects_the_same_and_opens_them(answer: dict[str, Any]) -> None:
    key, content = content_key(KEYS[answer["epoch"]], answer["key"]), content_of(answer)
    sealed = bytearray(sealed_size(len(content)))
    assert Sealer(key, bytes.fromhex(answer["salt"])).seal(content, memoryview(sealed)) == len(sealed)
    if "sealed" in answer:
        assert sealed.hex() == answer["sealed"]
    else:
        assert (len(sealed), blake3(sealed).hexdigest()) == (answer["sealed_size"], answer["sealed_blake3"])
    assert Opener(key).open(memoryview(sealed), 0, at_end=True) == content
    assert b"".join(BY_READER[answer["epoch"]].content(bytes(sealed), answer["key"])) == content


def test_both_verify_and_open_the_record() -> None:
    versions = reader.verified(TEXTS)
    opened = reader.epochs_of(versions, MEMBER)
    assert [(epoch.number, epoch.secret) for epoch in opened] == sorted(SECRETS.items(), reverse=True)
    chain = read_chain(GROUP_ID, TEXTS)
    assert chain is not None
    assert [(keys.epoch, keys.secret) for keys in open_epochs(chain, SigningKey(MEMBER))] == sorted(
        SECRETS.items(), reverse=True
    )
    assert chain.newest.digest.hex() == KNOWN["record"]["digest"] == reader.blake3(TEXTS[-1]).hex()


def test_kacas_signs_the_record_the_same() -> None:
    founder = PrivateKey(bytes.fromhex(KNOWN["group"]["founder_private_key"]))
    for text in TEXTS:
        version = decode_version(text)
        assert signed(version, founder).text == version.text == text
        assert blake3(text).digest() == version.digest
