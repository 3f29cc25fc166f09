"""Restore every file of a kacas store without kacas:  python independent_reader.py STORE DEST [--list]

Written from formats.md alone. Each distinct SHA-1 that has a keep entry becomes DEST/<sha1>. Damage is named on
stderr and the rest is restored; the exit code is 1 if there was any, else 0. --list (then without DEST) restores
nothing and prints SHA-1, size, kept or forgotten, and labels. Needs Python >= 3.11, blake3 and zstandard.
"""

import hashlib
import os
import re
import struct
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import zstandard
from blake3 import blake3

CHUNK, NODE, MANIFEST = 0, 1, 2
CONTEXTS = {NODE: "kacas 2026-11 merkle node v1", MANIFEST: "kacas 2026-11 manifest v1"}
MAX_CHUNK, MAX_PARAMETERS, MAX_TABLE, MAX_CHILDREN, MAX_LEVEL = 1 << 24, 1024, 1 << 30, 256, 8


class DamageError(Exception):
    """Bytes are not what the format says."""


class RefusedError(Exception):
    """A file that this reader must not use: of a newer version, or of another store."""


def need(condition, message):
    if not condition:
        raise DamageError(message)


class Store:
    def __init__(self, path):
        self.settings = path / "kacas.toml"
        self.packs = path / "packs"
        self.places = defaultdict(list)  # digest -> [(pack file, offset of the payload header)]
        self.keeps = defaultdict(dict)  # SHA-1 -> {entry id: (root, size, label)}
        self.cancelled = defaultdict(set)  # SHA-1 -> entry ids
        self.problems = {}  # an ordered set of messages
        self.decoder = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK)

    def read(self):
        try:
            settings = tomllib.loads(self.settings.read_text("utf-8"))["store"]
            if settings["format"] > 1:
                sys.exit(f"{self.settings}: format {settings['format']} needs a newer reader")
            store_id = bytes.fromhex(settings["id"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            self.problem(f"kacas.toml: {exc!r}; going on without")
            store_id = None
        names = sorted(name for name in os.listdir(self.packs) if re.fullmatch(r"[0-9a-f]{32}\.pack", name))
        for name in names:
            try:
                self.read_pack(self.packs / name, store_id)
            except (RefusedError, OSError) as exc:
                self.problem(f"pack {name}: {exc}; not used")

    def problem(self, message):
        if message not in self.problems:
            self.problems[message] = None
            print(message, file=sys.stderr)

    def read_pack(self, path, store_id):
        with open(path, "rb") as pack:
            try:
                table_at, entries_at, entry_count = self.read_table(pack, path, store_id)
            except DamageError as exc:
                self.problem(f"pack {path.name}: {exc}; rescuing what can be found in it")
                count, at = 0, 64
                while (front := os.pread(pack.fileno(), 64, at))[:4] == b"KPAY" and len(front) == 64:
                    parameters_size, payload_size = struct.unpack_from("<HI", front, 6)
                    self.places[front[16:48]].append((path, at))
                    count, at = count + 1, at + 64 + parameters_size + payload_size
                table_at, entries_at, entry_count = at, at + 56 * count, None
            size = max(0, os.path.getsize(path) - 128 - entries_at)
            entries, at = os.pread(pack.fileno(), min(size, MAX_TABLE), entries_at), 0
        try:
            while at < len(entries):
                at = self.read_entry(entries, at)
                entry_count = entry_count and entry_count - 1
            need(not entry_count, "entries are missing")
        except DamageError as exc:
            self.problem(f"pack {path.name}: {exc}")

    def read_table(self, pack, path, store_id):
        size = os.path.getsize(path)
        need(size >= 192, f"it has only {size} bytes")
        header, footer = pack.read(64), os.pread(pack.fileno(), 128, size - 128)
        need(header[:8] == b"KACASPCK", "it does not begin as a pack")
        version = int.from_bytes(header[8:10], "little")
        if version > 1:
            raise RefusedError(f"version {version} needs a newer reader")
        need(footer[:8] == b"KACASFTR", "it does not end as a pack")
        need(blake3(header + footer[:112]).digest(16) == footer[112:], "the check of header and footer fails")
        table_at, table_size, chunk_count, entry_count, said = struct.unpack_from("<5Q", footer, 32)
        need(said == size == table_at + table_size + 128 and table_at >= 64, "its sizes contradict each other")
        need(table_size <= MAX_TABLE and chunk_count * 56 <= table_size, "its table is too large")
        if store_id is not None and header[32:48] != store_id:
            raise RefusedError(f"it belongs to the store {header[32:48].hex()}")
        if not header[16:32] == footer[16:32] == bytes.fromhex(path.stem):
            raise RefusedError(f"it is really {header[16:32].hex()}.pack")
        table = os.pread(pack.fileno(), table_size, table_at)
        need(blake3(table).digest() == footer[72:104], "its table is damaged")
        for at in range(0, chunk_count * 56, 56):
            self.places[table[at : at + 32]].append((path, int.from_bytes(table[at + 32 : at + 40], "little")))
        return table_at, table_at + chunk_count * 56, entry_count

    def read_entry(self, data, at):
        need(len(data) - at >= 108, "an entry is cut short")
        total, entry_id, sha1, root, size = struct.unpack_from("<I16s20s32sQ", data, at)
        action, owner_size, label_size, cancel_count = struct.unpack_from("<xBxxHHI", data, at + 88)
        label_at = at + 100 + owner_size
        cancels_at = label_at + label_size
        stop = cancels_at + 16 * cancel_count + 8
        need(stop == at + total <= len(data), "the sizes of an entry contradict each other")
        need(blake3(data[at : stop - 8]).digest(8) == data[stop - 8 : stop], "the check of an entry fails")
        self.cancelled[sha1].update(data[i : i + 16] for i in range(cancels_at, stop - 8, 16))
        if action == 0:
            self.keeps[sha1][entry_id] = root, size, data[label_at:cancels_at].decode("utf-8", "replace")
        return stop

    def payload(self, digest, kinds, size=None):
        """(kind, decoded bytes) from the first place whose copy is good."""
        for path, offset in self.places.get(digest, ()):
            try:
                with open(path, "rb") as pack:
                    pack.seek(offset)
                    return self.decode(pack, digest, kinds, size)
            except (DamageError, OSError, zstandard.ZstdError) as exc:
                self.problem(f"pack {path.name}: payload {digest.hex()} at {offset}: {exc}")
        raise DamageError(f"there is no good copy of payload {digest.hex()}")

    def decode(self, pack, digest, kinds, size):
        header = pack.read(64)
        need(len(header) == 64 and header[:4] == b"KPAY", "no payload begins there")
        kind, codec, parameters_size, payload_size, raw_size = struct.unpack_from("<BBHII", header, 4)
        need(header[16:48] == digest and kind in kinds and size in (None, raw_size), "another payload is there")
        need(max(raw_size, payload_size) <= MAX_CHUNK and parameters_size <= MAX_PARAMETERS, "it is too large")
        need(codec in (0, 1), f"codec {codec} needs a newer reader")
        parameters, payload = pack.read(parameters_size), pack.read(payload_size)
        need(len(payload) == payload_size, "it is cut short")
        checked = header[:48] + parameters + (payload if codec else b"")
        need(blake3(checked).digest(16) == header[48:], "its check fails")
        raw = payload
        if codec == 1:
            need(zstandard.get_frame_parameters(payload).content_size == raw_size, "the frame has another size")
            raw = self.decoder.decompress(payload, max_output_size=raw_size)
        found = blake3(raw, derive_key_context=CONTEXTS[kind]) if kind in CONTEXTS else blake3(raw)
        need(len(raw) == raw_size and found.digest() == digest, "its digest does not match")
        return kind, raw

    def content(self, root):
        """The bytes under a root, piece by piece."""
        kind, raw = self.payload(root, (CHUNK, MANIFEST))
        if kind == CHUNK:
            yield raw
            return
        need(len(raw) >= 28 and raw[:4] == b"KMAN", "the root is no manifest")
        version, layout, level, zero, size, head_size, text_size, count = struct.unpack_from("<4BQ3I", raw, 4)
        need(version == 1 and layout == 0, "the manifest needs a newer reader")
        need(zero == 0 and level <= MAX_LEVEL, "the manifest is out of bounds")
        yield raw[28 : 28 + head_size]
        yield from self.children(raw[28 + head_size + text_size :], count, level, size - head_size)

    def children(self, data, count, level, size):
        need(count <= MAX_CHILDREN and len(data) == 40 * count, "children are missing")
        children = list(struct.iter_unpack("<32sQ", data))
        need(sum(child_size for _, child_size in children) == size, "the sizes of children do not add up")
        for digest, child_size in children:
            if level == 0:
                yield self.payload(digest, (CHUNK,), child_size)[1]
                continue
            raw = self.payload(digest, (NODE,))[1]
            need(len(raw) >= 20 and raw[:4] == b"KNOD", "a child is no node")
            version, own_level, zero, own_size, own_count = struct.unpack_from("<BBHQI", raw, 4)
            need(version == 1, "a node needs a newer reader")
            need((own_level, zero, own_size) == (level, 0, child_size), "a node is not what its parent says")
            yield from self.children(raw[20:], own_count, level - 1, child_size)

    def restore(self, sha1, target):
        """Write the file of this SHA-1; True if one of its layouts gave the right bytes."""
        part = target.with_name(f".{target.name}.part")
        for root, size in {(root, size) for root, size, _ in self.keeps[sha1].values()}:
            try:
                hasher, written = hashlib.sha1(usedforsecurity=False), 0
                with open(part, "wb") as file:
                    for piece in self.content(root):
                        hasher.update(piece)
                        written += file.write(piece)
                need(written == size and hasher.digest() == sha1, "its bytes do not have the size and SHA-1")
                os.replace(part, target)
                return True
            except DamageError as exc:
                part.unlink(missing_ok=True)
                self.problem(f"sha1://{sha1.hex()} through root {root.hex()}: {exc}")
        return False


def main(arguments):
    listing = "--list" in arguments
    paths = [Path(argument) for argument in arguments if argument != "--list"]
    if len(paths) != 2 and not (listing and len(paths) == 1):
        sys.exit(__doc__)
    store = Store(paths[0])
    store.read()
    lost = 0
    for sha1, keeps in sorted(store.keeps.items()):
        if listing:
            state = "kept" if keeps.keys() - store.cancelled[sha1] else "forgotten"
            labels = sorted({label for _, _, label in keeps.values() if label})
            print(sha1.hex(), next(iter(keeps.values()))[1], state, *labels)
            continue
        paths[1].mkdir(parents=True, exist_ok=True)
        lost += not store.restore(sha1, paths[1] / sha1.hex())
    if not listing:
        print(f"{len(store.keeps) - lost} of {len(store.keeps)} files restored to {paths[1]}")
    return 1 if store.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
