"""Restore every file of a remote that was copied to a directory, without kacas:

    python independent_bucket_reader.py BUCKET DEST [--list]

Written from formats.md alone; what a bucket shares with a store is read by independent_reader.py beside it. Each SHA-1 that
has a recipe, an entry in a pack's table or a plain object becomes DEST/<sha1>. What was removed, and not collected, too.
Damage is named on stderr and the rest restored: exit code 1, else 0.
"""

import os
import sys
from pathlib import Path
from struct import iter_unpack, unpack_from

from blake3 import blake3

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from independent_reader import CHUNK, CONTEXTS, FAULTS, MANIFEST, MAX_CHUNK, NODE, Store, need

PLAIN = 0xFFFFFFFF


def checked(data, what):
    need(len(data) >= 16 and blake3(data[:-16]).digest(16) == data[-16:], f"{what} is damaged")
    return data[:-16]


class Bucket(Store):
    def __init__(self, path):
        super().__init__(path)
        self.path = path
        self.inline = {}  # digest -> raw bytes of a manifest or node, from recipes
        self.plain = {}  # digest -> (plain object, offset, size)
        for recipe in sorted(path.glob("recipes/??/??/*")):
            try:
                self.read_recipe(recipe.read_bytes(), recipe.name)
            except FAULTS as exc:
                self.say(f"recipe {recipe.name}: {exc}")
        for plain in sorted(path.glob("sha1/??/??/??/*")):
            self.keeps[bytes.fromhex(plain.name)].add((str(plain), plain.stat().st_size, ""))

    def say(self, message, damaged=True):
        super().say(message, True)  # a plain object that is not as it was is damage, unlike a linked file

    def read_recipe(self, data, name):
        magic, version, _, signatures, label_size, packs, sha1, root, size, _, top_size, pages = unpack_from(
            "<8sHBBHxxI20s32sQqIQ", data
        )
        need(magic == b"KRECIPE\0" and version == 1, "it is no recipe that this reader knows")
        head_size = 100 + label_size + 96 * signatures + 16 * packs + 16
        front = head_size + top_size
        checked(data[:head_size], "its head")
        need(len(data) == front + pages and sha1.hex() == name[:40], "it is cut short, or has another's name")
        plain = self.path / "sha1" / name[:2] / name[2:4] / name[4:6] / name[:40]
        raw = self.read_page(data, head_size, front, front, plain, [root])
        if raw:
            self.inline[root] = MANIFEST, raw
        self.keeps[sha1].add((root, size, data[100 : 100 + label_size].decode("utf-8", "ignore")))

    def read_page(self, data, start, stop, front, plain, only=None):
        """Read a page and all below it; returns the bytes of its manifest or node. only: the chunk, if it has neither."""
        page = checked(data[start:stop], "a page")
        magic, level, packs, records, raw_size = unpack_from("<4sBxHHxxI", page)
        need(magic == b"KPAG", "what should be a page is none")
        raw, at = page[16 : 16 + raw_size], 16 + raw_size
        ids, places = page[at : at + 16 * packs], page[at + 16 * packs :]
        need(len(places) == 16 * records, "a page has other records than it says")
        digests = only if not raw else [raw[-40 * (records - n) :][:32] for n in range(records)]
        for digest, (offset, size, number) in zip(digests, iter_unpack("<QII", places), strict=True):
            if level:
                if digest not in self.inline:
                    need(front <= front + offset < len(data), "a page is nowhere")
                    node = self.read_page(data, front + offset, front + offset + size, front, plain)
                    self.inline[digest] = NODE, node
            elif number == PLAIN:
                self.plain[digest] = plain, offset, size
            else:
                pack = self.path / "packs" / f"{ids[16 * number :][:16].hex()}.pack"
                if (pack, offset) not in self.places[digest]:
                    self.places[digest].append((pack, offset))
        return raw

    def payload(self, digest, kinds):
        kind, raw = self.inline.get(digest, (None, b""))
        if kind is None and digest in self.plain and CHUNK in kinds:
            path, offset, size = self.plain[digest]
            need(size <= MAX_CHUNK, "a chunk is too large")
            if path.exists():
                with open(path, "rb") as file:
                    file.seek(offset)
                    kind, raw = CHUNK, file.read(size)
        if kind in kinds and blake3(raw, derive_key_context=CONTEXTS[kind]).digest() == digest:
            return kind, raw
        return super().payload(digest, kinds)


if __name__ == "__main__":
    bucket = Bucket(Path(sys.argv[1]))
    for identity, layouts in sorted(bucket.keeps.items()):
        if "--list" in sys.argv:
            print(identity.hex(), *{layout[1] for layout in layouts}, *sorted({layout[2] for layout in layouts}))
        else:
            os.makedirs(sys.argv[2], exist_ok=True)
            bucket.restore(identity, Path(sys.argv[2], identity.hex()))
    sys.exit(bucket.damaged)
