"""Manifests and nodes: the fan-out rule is exact, decoding is strict, the root covers everything."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.errors import NewerFormatError
from kacas.model.codec import MAX_CHUNK_SIZE
from kacas.model.digest import MANIFEST_CONTEXT, NODE_CONTEXT, PayloadKind, payload_digest
from kacas.model.manifest import (
    FAN_OUT,
    MAX_CONTENT_SIZE,
    MAX_HEAD_SIZE,
    MAX_LEVEL,
    Child,
    Manifest,
    ManifestError,
    Node,
    build,
    decode_manifest,
    decode_node,
    encode_description,
)


def chunks(count: int, seed: int = 0) -> list[Child]:
    return [Child(hashlib.sha256(b"%d %d" % (seed, i)).digest(), 1 + i % 1000) for i in range(count)]


def manifest_digest(manifest: Manifest) -> bytes:
    return payload_digest(PayloadKind.MANIFEST, manifest.encode())


def root_by_the_book(children: list[Child], head: bytes, description: dict[str, Any]) -> tuple[bytes, int, int]:
    """The rule as the documentation says it, written down a second time: (root, level, number of nodes)."""
    pairs, level, nodes = [(c.digest, c.size) for c in children], 0, 0
    size = len(head) + sum(size for _, size in pairs)
    while len(pairs) > 256:
        level += 1
        groups = [pairs[i : i + 256] for i in range(0, len(pairs), 256)]
        pairs = []
        for group in groups:
            total = sum(size for _, size in group)
            raw = b"KNOD" + struct.pack("<BBHQI", 1, level, 0, total, len(group))
            raw += b"".join(digest + size.to_bytes(8, "little") for digest, size in group)
            pairs.append((blake3(raw, derive_key_context=NODE_CONTEXT).digest(), total))
            nodes += 1
    text = json.dumps(description, sort_keys=True, separators=(",", ":")).encode() if description else b""
    raw = b"KMAN" + struct.pack("<BBBBQIII", 1, 0, level, 0, size, len(head), len(text), len(pairs)) + head + text
    raw += b"".join(digest + size.to_bytes(8, "little") for digest, size in pairs)
    return blake3(raw, derive_key_context=MANIFEST_CONTEXT).digest(), level, nodes


@pytest.mark.parametrize(
    "count", [0, 1, 2, 255, 256, 257, 511, 512, 513, 10_000, 65_535, 65_536, 65_537, 65_792, 65_793, 70_000]
)
def test_the_fan_out_rule_is_the_documented_one(count: int) -> None:
    children = chunks(count)
    manifest, root, nodes = build(children, b"head", {"kind": "npy"})
    assert (root, manifest.level, len(nodes)) == root_by_the_book(children, b"head", {"kind": "npy"})
    assert len(manifest.children) <= FAN_OUT
    assert all(len(node.children) <= FAN_OUT for _, node in nodes)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3000), st.binary(max_size=50), st.integers(0, 5))
def test_the_fan_out_rule_holds_for_any_number_of_chunks(count: int, head: bytes, seed: int) -> None:
    children = chunks(count, seed)
    assert build(iter(children), head, {})[1] == root_by_the_book(children, head, {})[0]


descriptions = st.dictionaries(
    st.text(max_size=5),
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.booleans() | st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    max_size=4,
)
some_chunks = st.lists(
    st.builds(Child, st.binary(min_size=32, max_size=32), st.integers(1, MAX_CHUNK_SIZE)), max_size=9
)


@settings(deadline=None)
@given(some_chunks, st.binary(max_size=300), descriptions)
def test_a_manifest_comes_back_as_it_was(children: list[Child], head: bytes, description: dict[str, Any]) -> None:
    manifest, root, nodes = build(children, head, description)
    assert nodes == []
    data = manifest.encode()
    assert decode_manifest(data) == manifest
    assert decode_manifest(memoryview(data)).encode() == data
    assert manifest_digest(manifest) == root
    assert (manifest.head, manifest.description, list(manifest.children)) == (head, description, children)
    assert manifest.size == len(head) + sum(child.size for child in children)


@pytest.mark.parametrize("count", [257, 600, 66_000])
def test_walking_down_from_the_root_finds_every_chunk_in_order(count: int) -> None:
    children = chunks(count)
    manifest, _, nodes = build(children, b"", {})
    stored = {digest: node.encode() for digest, node in nodes}
    row, level = list(decode_manifest(manifest.encode()).children), manifest.level
    while level:
        below: list[Child] = []
        for child in row:
            node = decode_node(stored[child.digest], level=level, size=child.size)
            assert payload_digest(PayloadKind.NODE, stored[child.digest]) == child.digest
            below += node.children
        row, level = below, level - 1
    assert row == children


MANIFEST, _, _ = build(chunks(5), b"the head", {"kind": "npy"})
NODE = Node(1, 15, tuple(chunks(5)))


@pytest.mark.parametrize(
    "other",
    [
        replace(MANIFEST, size=MANIFEST.size + 1),
        replace(MANIFEST, level=1),
        replace(MANIFEST, head=b"the Head"),
        replace(MANIFEST, head=b"the hea"),
        replace(MANIFEST, description={"kind": "file"}),
        replace(MANIFEST, description={}),
        replace(MANIFEST, children=MANIFEST.children[:-1]),
        replace(MANIFEST, children=MANIFEST.children[::-1]),
        replace(MANIFEST, children=(*MANIFEST.children[:-1], Child(b"x" * 32, MANIFEST.children[-1].size))),
        replace(MANIFEST, children=(*MANIFEST.children[:-1], MANIFEST.children[-1]._replace(size=9))),
    ],
    ids=[
        "size",
        "level",
        "head",
        "head size",
        "description",
        "none",
        "fewer",
        "order",
        "digest",
        "child size",
    ],
)
def test_the_root_covers_everything_that_is_believed_from_it(other: Manifest) -> None:
    assert manifest_digest(other) != manifest_digest(MANIFEST)


@settings(deadline=None)
@given(some_chunks.filter(bool), st.binary(max_size=20), descriptions, st.data())
def test_another_child_head_or_description_is_another_root(
    children: list[Child], head: bytes, description: dict[str, Any], data: st.DataObject
) -> None:
    _, root, _ = build(children, head, description)
    at = data.draw(st.integers(0, len(children) - 1))
    digest = bytearray(children[at].digest)
    digest[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
    changed = [*children[:at], Child(bytes(digest), children[at].size), *children[at + 1 :]]
    assert build(changed, head, description)[1] != root
    assert build(children[:at] + children[at + 1 :], head, description)[1] != root
    assert build(children, head + b"\0", description)[1] != root
    assert build(children, head, {**description, "new key": 1})[1] != root


FIELDS = struct.Struct("<4sBBBBQIII")  # magic, version, layout, level, 0, size, head, description, children
NODE_FIELDS = struct.Struct("<4sBBHQI")  # magic, version, level, 0, size, children


def with_field(data: bytes, fields: struct.Struct, index: int, value: object) -> bytes:
    values = list(fields.unpack_from(data))
    values[index] = value
    return fields.pack(*values) + data[fields.size :]


@pytest.mark.parametrize(
    "index, value",
    [
        (0, b"KMAM"), (0, b"KNOD"), (1, 0), (3, MAX_LEVEL + 1), (3, 255), (4, 1),
        (5, 0), (5, MANIFEST.size + 1), (5, MANIFEST.size - 1), (5, 2**64 - 1),
        (6, 7), (6, 9), (6, 0), (6, MAX_HEAD_SIZE + 1), (6, 2**32 - 1),
        (7, 0), (7, 13), (7, 15), (7, 2**32 - 1), (8, 4), (8, 6), (8, 0), (8, 2**32 - 1),
    ],
)  # fmt: skip
def test_a_manifest_with_a_field_off_is_refused(index: int, value: object) -> None:
    with pytest.raises(ManifestError):
        decode_manifest(with_field(MANIFEST.encode(), FIELDS, index, value))


@pytest.mark.parametrize(
    "index, value",
    [(0, b"KMAN"), (1, 0), (2, 0), (2, 2), (3, 1), (4, 14), (4, 16), (5, 4), (5, 6), (5, 2**32 - 1)],
)
def test_a_node_with_a_field_off_is_refused(index: int, value: object) -> None:
    assert decode_node(NODE.encode(), level=1, size=15) == NODE
    with pytest.raises(ManifestError):
        decode_node(with_field(NODE.encode(), NODE_FIELDS, index, value), level=1, size=15)


@pytest.mark.parametrize("level, size", [(2, 15), (0, 15), (1, 14), (1, 16)])
def test_a_node_that_is_not_what_its_parent_says_is_refused(level: int, size: int) -> None:
    with pytest.raises(ManifestError, match="its parent says"):
        decode_node(NODE.encode(), level=level, size=size)


@pytest.mark.parametrize("index, value, needed", [(1, 2, 2), (1, 255, 255), (2, 2, 2), (2, 255, 2)])
def test_a_newer_manifest_says_that_kacas_must_be_upgraded(index: int, value: int, needed: int) -> None:
    with pytest.raises(NewerFormatError, match="upgrade") as caught:
        decode_manifest(with_field(MANIFEST.encode(), FIELDS, index, value))
    assert caught.value.needed == needed


def test_a_newer_node_says_that_kacas_must_be_upgraded() -> None:
    with pytest.raises(NewerFormatError, match="upgrade") as caught:
        decode_node(with_field(NODE.encode(), NODE_FIELDS, 1, 3), level=1, size=15)
    assert caught.value.needed == 3


@pytest.mark.parametrize("sizes", [(0, 15), (16, 2**64 - 1), (MAX_CHUNK_SIZE + 1,), (MAX_CONTENT_SIZE + 1,)], ids=str)
def test_chunks_of_impossible_sizes_are_refused(sizes: tuple[int, ...]) -> None:
    children = tuple(Child(b"c" * 32, size) for size in sizes)
    total = sum(sizes)
    for manifest in (Manifest(total % 2**64, 0, b"", {}, children), Manifest(15, 0, b"", {}, children)):
        with pytest.raises(ManifestError):
            decode_manifest(manifest.encode())
    with pytest.raises(ManifestError):
        decode_node(Node(1, total % 2**64, children).encode(), level=1, size=total % 2**64)


def test_more_children_than_the_fan_out_are_refused() -> None:
    children = tuple(chunks(FAN_OUT + 1))
    size = sum(child.size for child in children)
    with pytest.raises(ManifestError):
        decode_manifest(Manifest(size, 0, b"", {}, children).encode())
    with pytest.raises(ManifestError):
        decode_node(Node(1, size, children).encode(), level=1, size=size)


@pytest.mark.parametrize("text", [b"x", b"[]", b"3", b'"kind"', b"null", b"{", b'{"a":1}x', b"\xff", b"[" * 60_000])
def test_a_description_that_is_not_a_json_object_is_refused(text: bytes) -> None:
    data = FIELDS.pack(b"KMAN", 1, 0, 0, 0, 0, 0, len(text), 0) + text
    with pytest.raises(ManifestError, match="description"):
        decode_manifest(data)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_bytes_are_decoded_or_refused_with_a_typed_error(data: st.DataObject) -> None:
    start = bytearray(data.draw(st.sampled_from([MANIFEST.encode(), NODE.encode(), b""])) or data.draw(st.binary()))
    for _ in range(data.draw(st.integers(0, 6)) if start else 0):
        start[data.draw(st.integers(0, len(start) - 1))] = data.draw(st.integers(0, 255))
    raw = bytes(start[: data.draw(st.integers(0, len(start)))]) + data.draw(st.binary(max_size=50))
    for decode in (decode_manifest, lambda raw: decode_node(raw, level=1, size=15)):
        try:
            found = decode(raw)
        except (ManifestError, NewerFormatError):
            continue
        assert found.encode() == raw


def test_a_description_is_canonical_ascii() -> None:
    assert encode_description({"b": "é", "a": [1, 2.5]}) == b'{"a":[1,2.5],"b":"\\u00e9"}'
    assert encode_description({}) == b""
    with pytest.raises(ValueError, match="JSON"):
        encode_description({"a": float("nan")})
