"""Mutables and feeds, read by what docs/formats.md says, without kacas."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from blake3 import blake3

import kacas

HEADER = struct.Struct("<8sHBBIQq16s16s32s")


def read_sequence(store: Path, name: str) -> list[tuple[tuple[int, ...], bytes]]:
    """(kind and number, body) of each record, all that must hold checked."""
    found = []
    previous = bytes(32)
    numbers = sorted(int(path.name) for path in (store / name).iterdir() if path.name.isdigit())
    for number in numbers:
        data = (store / name / str(number)).read_bytes()
        magic, version, kind, zero, size, said, _, _, subject, before = HEADER.unpack_from(data)
        assert (magic, version, zero, said) == (b"KACASREC", 1, 0, number)
        assert len(data) == 96 + size + 16
        assert data[-16:] == blake3(data[:-16]).digest(16)
        assert subject == blake3(name.encode()).digest(16)
        assert before == previous
        previous = blake3(data).digest()
        found.append(((kind, number), data[96:-16]))
    return found


def test_a_mutable_is_what_the_page_says(store: kacas.Store) -> None:
    key = "@lab/@läufe/state"
    store.set_mutable(key, "é")
    store.delete_mutable(key)
    store.set_mutable(key, "done")
    values = []
    for (kind, _), body in read_sequence(store.path, f"refs/{key}"):
        action, zero, owner_size = struct.unpack_from("<BBH", body)
        assert (kind, zero) == (1, 0)
        assert body[4 : 4 + owner_size].decode()
        values.append((action, body[4 + owner_size :].decode()))
    assert values == [(0, "é"), (1, ""), (0, "done")]


def test_a_feed_is_what_the_page_says(store: kacas.Store) -> None:
    uri = store.create_feed()
    sent = [[{"n": 0}], [{"n": 1}, {"text": "é" * 300}], [{}]]
    for messages in sent:
        store.load_feed(uri).append_messages(messages)
    read: list[list[dict[str, object]]] = []
    for (kind, _), body in read_sequence(store.path, "feeds/" + uri.removeprefix("kachery-feed://")):
        first, count, owner_size, zero = struct.unpack_from("<QIHH", body)
        assert (kind, zero, first) == (2, 0, sum(map(len, read)))
        sizes = struct.unpack_from(f"<{count}I", body, 16 + owner_size)
        at = 16 + owner_size + 4 * count
        read.append([])
        for size in sizes:
            read[-1].append(json.loads(body[at : at + size]))
            at += size
        assert at == len(body)
    assert read == [[], *sent]
