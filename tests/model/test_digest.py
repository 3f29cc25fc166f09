"""Digests: the contexts differ, so that no file can pose as a node."""

from __future__ import annotations

import hashlib

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.model.digest import (
    DIGEST_SIZE,
    MANIFEST_CONTEXT,
    NODE_CONTEXT,
    SHA1_SIZE,
    PayloadKind,
    checksum,
    chunk_digest,
    new_sha1,
    payload_digest,
)
from kacas.model.manifest import FAN_OUT, Child, build


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_the_same_bytes_have_another_digest_as_chunk_node_and_manifest(raw: bytes) -> None:
    digests = {payload_digest(kind, raw) for kind in PayloadKind}
    assert len(digests) == len(PayloadKind) == 3
    assert {len(digest) for digest in digests} == {DIGEST_SIZE}


def test_the_digests_are_plain_blake3_and_blake3_with_the_documented_contexts() -> None:
    raw = b"some content"
    assert chunk_digest(raw) == payload_digest(PayloadKind.CHUNK, raw) == blake3(raw).digest()
    assert NODE_CONTEXT == "kacas 2026-11 merkle node v1"
    assert MANIFEST_CONTEXT == "kacas 2026-11 manifest v1"
    assert payload_digest(PayloadKind.NODE, raw) == blake3(raw, derive_key_context=NODE_CONTEXT).digest()
    assert payload_digest(PayloadKind.MANIFEST, raw) == blake3(raw, derive_key_context=MANIFEST_CONTEXT).digest()


def test_the_digest_of_nothing_is_the_published_one_of_blake3() -> None:
    assert chunk_digest(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_a_file_made_of_a_nodes_bytes_does_not_have_the_nodes_digest() -> None:
    children = [Child(chunk_digest(str(i).encode()), 1) for i in range(FAN_OUT + 1)]
    manifest, root, nodes = build(children, b"", {})
    forged = {chunk_digest(node.encode()) for _, node in nodes} | {chunk_digest(manifest.encode())}
    assert not forged & ({root} | {digest for digest, _ in nodes})
    assert payload_digest(PayloadKind.NODE, manifest.encode()) != root


def test_an_unknown_kind_of_payload_has_no_digest() -> None:
    with pytest.raises(ValueError, match="payload kind 3 is unknown"):
        payload_digest(3, b"")


@settings(deadline=None)
@given(st.lists(st.binary(max_size=100), min_size=1, max_size=5), st.integers(1, 64))
def test_a_checksum_is_of_the_parts_together_and_has_the_size_asked_for(parts: list[bytes], size: int) -> None:
    assert checksum(size, *parts) == blake3(b"".join(parts)).digest(length=size)


def test_sha1_is_sha1() -> None:
    running = new_sha1()
    running.update(b"example ")
    running.update(b"text")
    assert running.digest() == hashlib.sha1(b"example text").digest()
    assert len(running.digest()) == SHA1_SIZE
    assert running.hexdigest() == "d9e989f651cdd269d7f9bb8a215d024d8d283688"
