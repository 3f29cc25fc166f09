"""Restore every file of a kacas store without kacas:  python independent_reader.py STORE DEST [--list]

Written from formats.md alone. Each distinct SHA-1 that has a keep or member entry becomes DEST/<sha1>, a linked file too.
Damage is named on stderr and the rest restored: exit code 1, else 0. --list only prints SHA-1, size, labels, linked paths.
"""

import hashlib
import os
import sys
from collections import defaultdict
from itertools import product
from math import prod
from pathlib import Path
from struct import error, iter_unpack, unpack_from

import numpy as np
import zstandard
from blake3 import blake3
from numcodecs import blosc

CHUNK, NODE, MANIFEST = 0, 1, 2
CONTEXTS = {CHUNK: None, NODE: "kacas 2026-11 merkle node v1", MANIFEST: "kacas 2026-11 manifest v1"}
MAX_CHUNK, MAX_EXTRA, MAX_TABLE, MAX_CHILDREN, MAX_LEVEL = 1 << 24, 1024, 1 << 30, 256, 8
FAULTS = (ValueError, TypeError, RuntimeError, MemoryError, OSError, ImportError, error, zstandard.ZstdError)


def need(condition, message):
    if not condition:
        raise ValueError(message)


class Store:
    def __init__(self, path):
        self.places = defaultdict(list)  # digest -> [(pack file, offset of the payload header)]
        self.keeps = defaultdict(set)  # SHA-1 -> {(root, or path of a linked file; size; label)}
        self.damaged = False
        for pack in sorted(path.glob(f"packs/{'[0-9a-f]' * 32}.pack")):
            try:
                self.read_pack(pack)
            except FAULTS as exc:
                self.say(f"pack {pack.name}: {exc}")

    def say(self, message, damaged=True):
        self.damaged |= damaged
        print(message, file=sys.stderr)

    def read_pack(self, path):
        with open(path, "rb") as pack:
            try:
                places, entries = self.read_table(pack, os.path.getsize(path), path.stem)
            except ValueError as exc:
                self.say(f"pack {path.name}: {exc}; rescuing what it holds")
                places, at = [], 64
                while len(front := os.pread(pack.fileno(), 64, at)) == 64 and front[:4] == b"KPAY":
                    places.append((front[16:48], at))
                    at += 64 + sum(unpack_from("<HI", front, 6))
                entries = memoryview(os.pread(pack.fileno(), MAX_TABLE, at + 56 * len(places)))[:-128]
        for digest, offset in places:
            self.places[digest].append((path, offset))
        while entries:
            entries = self.read_entry(entries)

    def read_table(self, pack, size, name):
        header, footer = pack.read(64), os.pread(pack.fileno(), 128, max(0, size - 128))
        need(header[:8] == b"KACASPCK" and footer[:8] == b"KACASFTR", "it does not begin and end as a pack")
        need(header[8:10] == b"\1\0", "its version needs a newer reader")
        need(blake3(header + footer[:112]).digest(16) == footer[112:], "the check of header and footer fails")
        need(header[16:32].hex() == footer[16:32].hex() == name, "it has the name of another pack")
        table_at, table_size, count, _, said = unpack_from("<5Q", footer, 32)
        need(said == size == table_at + table_size + 128 and table_at >= 64, "its sizes are contradictory")
        need(56 * count <= table_size <= MAX_TABLE, "its table is too large")
        table = os.pread(pack.fileno(), table_size, table_at)
        need(blake3(table).digest() == footer[72:104], "its table is damaged")
        return iter_unpack("<32sQ16x", table[: 56 * count]), memoryview(table)[56 * count :]

    def read_entry(self, data):
        total, sha1, root, size, action, owner_size, label_size, cancels = unpack_from("<I16x20s32sQ9xBxxHHI", data)
        check_at = 100 + owner_size + label_size + 16 * cancels
        need(check_at + 8 == total and blake3(data[:check_at]).digest(8) == data[check_at:total], "an entry is damaged")
        label = os.fsdecode(bytes(data[100 + owner_size :][:label_size]))
        if action in (0, 3, 4):
            self.keeps[sha1].add((label if action == 4 else root, size, label))
        return data[total:]

    def payload(self, digest, kinds):
        for path, offset in self.places.get(digest, ()):
            try:
                with open(path, "rb") as pack:
                    return self.decode(pack, offset, digest, kinds)
            except FAULTS as exc:
                self.say(f"pack {path.name}: payload {digest.hex()} at {offset}: {exc}")
        raise ValueError(f"there is no good copy of payload {digest.hex()}")

    def decode(self, pack, offset, digest, kinds):
        pack.seek(offset)
        header = pack.read(64)
        magic, kind, codec, extra_size, payload_size, raw_size = unpack_from("<4sBBHII", header)
        need(magic == b"KPAY" and header[16:48] == digest and kind in kinds, "another payload is there")
        need(max(raw_size, payload_size) <= MAX_CHUNK and extra_size <= MAX_EXTRA, "it is too large")
        extra, raw = pack.read(extra_size), pack.read(payload_size)
        need(blake3(header[:48] + extra + raw * (codec > 0)).digest(16) == header[48:], "its check fails")
        need(codec <= 4, f"codec {codec} needs a newer reader")
        if codec == 1:
            need(zstandard.get_frame_parameters(raw).content_size == raw_size, "its frame has another size")
            raw = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK).decompress(raw)
        elif codec == 4:
            from pcodec import standalone  # an optional package

            numbers = np.empty(raw_size, np.uint8).view(extra.decode())
            done = standalone.simple_decompress_into(raw, numbers)
            need(done.finished and done.n_processed == len(numbers), "its pcodec file has another size")
            raw = numbers.tobytes()
        elif codec > 1:
            need(unpack_from("<BxxxIxxxxI", raw) == (2, raw_size, len(raw)), "its Blosc frame has another size")
            raw = blosc.decompress(raw)
        if codec == 3:
            raw = self.undo_row_delta(raw, *unpack_from("<BBxxI", extra))
        need(blake3(raw, derive_key_context=CONTEXTS[kind]).digest() == digest, "its digest does not match")
        return kind, raw

    def undo_row_delta(self, raw, difference, item_size, row_size):
        need(difference in (1, 2) and item_size in (1, 2, 4, 8) and row_size, "an unknown row delta")
        columns, items = row_size // item_size, np.frombuffer(raw, f"<u{item_size}").copy()
        if difference == 1:
            items = items >> 1 ^ -(items & 1)
        for at in range(columns, len(items), columns):  # row by row
            row, above = items[at : at + columns], items[at - columns : at]
            row[:] = row + above[: len(row)] if difference == 1 else row ^ above[: len(row)]
        return items.tobytes()

    def content(self, digest, kinds=(CHUNK, MANIFEST), size=None, level=0):
        """The bytes of a file, or under a root or child, in pieces; size, level: of a node, as its parent says."""
        if isinstance(digest, str):
            need(os.path.isfile(digest), "it is not there")
            with open(digest, "rb") as file:
                return (yield from iter(lambda: file.read(MAX_CHUNK), b""))
        kind, raw = self.payload(digest, kinds)
        if kind == CHUNK:
            return (yield raw)
        if kind == MANIFEST:
            magic, layout, level, zero, size, head, text, count = unpack_from("<5sBBBQIII", raw)
            need(magic == b"KMAN\1" and layout <= 1 and not zero and level <= MAX_LEVEL, "an unknown manifest")
            yield raw[28 : 28 + head]
            data, size = raw[28 + head + text :], size - head
            if layout == 1:
                axes, data = data[8 : 8 + 16 * data[0]], data[8 + 16 * data[0] :]
                chunks = self.children(data, count, size, level)
                return (yield from self.join_tiles(list(iter_unpack("<QQ", axes)), size, chunks))
        else:
            magic, *said, zero, own_size, count = unpack_from("<5sBHQI", raw)
            need((magic, *said, zero, own_size) == (b"KNOD\1", level, 0, size), "a node its parent denies")
            data, level = raw[20:], level - 1
        yield from self.children(data, count, size, level)

    def children(self, data, count, size, level):
        need(len(data) == 40 * count and count <= MAX_CHILDREN, "children are missing")
        need(sum(child[1] for child in iter_unpack("<32sQ", data)) == size, "children do not add up")
        for child, child_size in iter_unpack("<32sQ", data):
            yield from self.content(child, (NODE,) if level else (CHUNK,), child_size, level)

    def join_tiles(self, axes, size, chunks):
        """The bytes of an array, one row of tiles at a time, from its tiles in order; axes: length, and that of a tile."""
        need(0 < len(axes) <= 64 and all(0 < step <= length for length, step in axes), "tiles that cannot be")
        need(prod(length for length, _ in axes) == size, "tiles of another array")
        (rows, step), *inner = axes
        for first in range(0, rows, step):
            part = np.empty((min(step, rows - first), *(length for length, _ in inner)), np.uint8)
            corners = [range(0, length, axis[1]) for length, axis in zip(part.shape, axes, strict=True)]
            for corner in product(*corners):
                tile = part[tuple(slice(at, at + axis[1]) for at, axis in zip(corner, axes, strict=True))]
                tile[...] = np.frombuffer(next(chunks), np.uint8).reshape(tile.shape)
            yield part.tobytes()

    def restore(self, sha1, target):
        for packed, root, size in sorted({(isinstance(keep[0], bytes), *keep[:2]) for keep in self.keeps[sha1]}):
            with open(f"{target}.part", "w+b") as file:
                try:
                    file.writelines(self.content(root))
                    need((file.tell(), file.seek(0)) == (size, 0), "its size is another")
                    need(hashlib.file_digest(file, "sha1").digest() == sha1, "its SHA-1 is another")
                    return os.replace(f"{target}.part", target)
                except FAULTS as exc:
                    self.say(f"sha1://{sha1.hex()}{'' if packed else f', linked to {root}'}: {exc}", damaged=packed)
        return os.unlink(f"{target}.part")


if __name__ == "__main__":
    store = Store(Path(sys.argv[1]))
    for identity, layouts in sorted(store.keeps.items()):
        if "--list" in sys.argv:
            labels = {os.fsencode(layout[2]).decode(errors="ignore") for layout in layouts}
            print(identity.hex(), *{layout[1] for layout in layouts}, *sorted(labels))
        else:
            os.makedirs(sys.argv[2], exist_ok=True)
            store.restore(identity, Path(sys.argv[2], identity.hex()))
    sys.exit(store.damaged)
