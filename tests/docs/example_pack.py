"""The pack of the example in docs/formats.md: fixed ids, every field on a line of its own.

`python tests/docs/example_pack.py` prints section 13 of the page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind, chunk_digest
from kacas.model.entry import Action, Entry, Kind
from kacas.model.manifest import Child, build
from kacas.model.npy_header import encode_header
from kacas.model.pack_format import (
    FOOTER_SIZE,
    PAYLOAD_HEADER_SIZE,
    Footer,
    PackHeader,
    PayloadHeader,
    encode_table,
)

STORE_ID = bytes.fromhex("00112233445566778899aabbccddeeff")
PACK_ID = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
TEXT = b"example text"
ARRAY = np.zeros(75_000)
TIME_NS = 1_795_000_000_000_000_000

# As zstd 1.5.7 writes them at level 1; another version may write other frames of the same bytes.
ZEROS = {
    262_144: bytes.fromhex("28b52ffda0000004005400001000000100fbff39c00203001000"),
    75_712: bytes.fromhex("28b52ffda0c02701005500001000000100bb2739c002"),
}

Part = tuple[str, bytes, tuple[tuple[int, str], ...]]  # heading, bytes, (size, name) of its fields

NUMBERS = ("kind", "codec", "level", "layout", "version", "action", "origin", "proof", "purpose", "time")
HEADER = (
    (8, "magic"), (2, "version"), (1, "purpose"), (5, "zero"), (16, "pack id"), (16, "store id"),
    (16, "zero"),
)  # fmt: skip
PAYLOAD = (
    (4, "magic"), (1, "kind"), (1, "codec"), (2, "parameters size"), (4, "payload size"), (4, "raw size"),
    (32, "digest"), (16, "check"),
)  # fmt: skip
RECORD = (
    (32, "digest"), (8, "offset"), (4, "payload size"), (4, "raw size"), (2, "parameters size"), (1, "kind"),
    (1, "codec"), (4, "zero"),
)  # fmt: skip
FOOTER = (
    (8, "magic"), (2, "version"), (6, "zero"), (16, "pack id"), (8, "table offset"), (8, "table size"),
    (8, "number of chunk records"), (8, "number of entries"), (8, "file size"), (32, "table digest"),
    (8, "zero"), (16, "check"),
)  # fmt: skip
MANIFEST = (
    (4, "magic"), (1, "version"), (1, "layout"), (1, "level"), (1, "zero"), (8, "content size"),
    (4, "head size"), (4, "description size"), (4, "number of children"), (128, "head"), (14, "description"),
    *((32, "child digest"), (8, "child size")) * 3,
)  # fmt: skip


def entry_fields(entry: Entry) -> tuple[tuple[int, str], ...]:
    return (
        (4, "total size"), (16, "entry id"), (20, "SHA-1"), (32, "root"), (8, "size"), (8, "time"),
        (1, "kind"), (1, "action"), (1, "origin"), (1, "proof"), (2, "owner size"), (2, "label size"),
        (4, "number of cancelled ids"), (len(entry.owner), "owner"), (len(entry.label), "label"),
        *((16, "cancelled id"),) * len(entry.cancels), (8, "check"),
    )  # fmt: skip


def parts() -> Iterator[Part]:
    """The pack in order."""
    header = PackHeader(PACK_ID, STORE_ID).encode()
    yield "Header", header, HEADER

    head = encode_header(ARRAY.dtype, ARRAY.shape, False)
    rows = [262_144, 262_144, 75_712]
    children = [Child(chunk_digest(bytes(size)), size) for size in rows]
    manifest, root, _ = build(children, head, {"kind": "npy"})
    raw = manifest.encode()
    payloads = [
        ("The text, a raw chunk", Codec.RAW, PayloadKind.CHUNK, chunk_digest(TEXT), len(TEXT), TEXT),
        *(
            (f"{size:,} zeros, zstd", Codec.ZSTD, PayloadKind.CHUNK, chunk_digest(bytes(size)), size, frame)
            for size, frame in ZEROS.items()
        ),
        ("The manifest of the array, raw", Codec.RAW, PayloadKind.MANIFEST, root, len(raw), raw),
    ]  # fmt: skip
    at = len(header)
    placed = []
    for heading, codec, kind, digest, raw_size, payload in payloads:
        payload_header = PayloadHeader(kind, codec, len(payload), raw_size, digest)
        placed.append((at, payload_header))
        at += PAYLOAD_HEADER_SIZE + len(payload)
        content = MANIFEST if kind == PayloadKind.MANIFEST else ((len(payload), "encoded bytes"),)
        yield heading, payload_header.encode(payload) + payload, PAYLOAD + content

    entries = example_entries(root, head)
    table = encode_table([header.record(at) for at, header in placed], [entry.encode() for entry in entries])
    records_size = len(placed) * 56
    yield "The chunk records, sorted by digest", table[:records_size], RECORD * len(placed)
    for entry, name in zip(entries, ("keep the text", "keep the array", "forget what keeps the text"), strict=True):
        yield f"Entry: {name}", entry.encode(), entry_fields(entry)

    size = at + len(table) + FOOTER_SIZE
    footer = Footer(PACK_ID, at, len(table), len(placed), len(entries), size, chunk_digest(table))
    yield "Footer", footer.encode(header), FOOTER


def example_entries(root: bytes, head: bytes) -> list[Entry]:
    text_sha1 = hashlib.sha1(TEXT, usedforsecurity=False).digest()
    array_sha1 = hashlib.sha1(head + ARRAY.tobytes(), usedforsecurity=False).digest()
    size = len(head) + ARRAY.nbytes
    one, two, three = (bytes([number]) * 16 for number in (0xE1, 0xE2, 0xE3))
    return [
        Entry(one, text_sha1, chunk_digest(TEXT), len(TEXT), TIME_NS, Kind.TEXT, b"ada", b"a.txt"),
        Entry(two, array_sha1, root, size, TIME_NS + 1, Kind.NPY, b"ada", b"zeros.npy"),
        Entry(three, text_sha1, bytes(32), 0, TIME_NS + 2, Kind.TEXT, b"ada", b"", Action.FORGET, cancels=(one,)),
    ]


def pack() -> bytes:
    """The whole file."""
    return b"".join(data for _, data, _ in parts())


def section() -> str:
    """Section 13 of the page, from the first part on."""
    lines = []
    at = 0
    for heading, data, fields in parts():
        lines += ["", f"{heading}; offset {at}, {len(data)} bytes:", "", "```hex"]
        inside = 0
        for size, name in fields:
            field = data[inside : inside + size]
            for first in range(0, size, 16):
                comment = _comment(name, field) if first == 0 else ""
                lines.append(f"{field[first : first + 16].hex():<34}{comment}".rstrip())
            inside += size
        assert inside == len(data), heading
        lines.append("```")
        at += len(data)
    return "\n".join(lines) + "\n"


def _comment(name: str, field: bytes) -> str:
    if name in ("magic", "owner", "label", "description"):
        return f"# {name} {field.decode()}"
    if name in NUMBERS or "size" in name or "number" in name or "offset" in name:
        return f"# {name} {int.from_bytes(field, 'little'):,}"
    return f"# {name}"


if __name__ == "__main__":
    print(section(), end="")
