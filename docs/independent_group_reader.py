"""Open what kacas seals for an access group, without kacas. Needs PyNaCl and nothing else.

    python independent_group_reader.py RECORD                       verify the group's record, and print it
    python independent_group_reader.py RECORD uri URI...            decrypt URIs
    python independent_group_reader.py RECORD bucket BUCKET DEST    open the objects of a private remote

Written from formats.md alone. RECORD: a file with all versions, or the directory groups/<id> of a bucket or store. The member's
private key is read from KACAS_PRIVATE_KEY, 64 hex digits. BUCKET is a directory, a copy of the bucket; DEST becomes that of a plain
remote, from which independent_bucket_reader.py restores files. What cannot be opened is named on stderr: exit code 1, else 0.
"""

import hmac
import json
import os
import struct
import sys
from base64 import b32decode
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_decrypt,
)
from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey


def need(condition, message):
    if not condition:
        raise ValueError(message)


# --- BLAKE3, from its specification; slow, and only names, keys and records are hashed with it

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
LINES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))  # columns, then diagonals
LINES += ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
START, END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = (1 << bit for bit in range(7))
MASK = 0xFFFFFFFF


def compress(chaining, block, counter, flags):
    """One block of at most 64 bytes; returns the 8 words of the next chaining value."""
    words = struct.unpack("<16I", block.ljust(64, b"\0"))
    v = [*chaining, *IV[:4], counter & MASK, counter >> 32, len(block), flags]
    for _ in range(7):
        for number, (a, b, c, d) in enumerate(LINES):
            for word, left, right in ((words[2 * number], 16, 12), (words[2 * number + 1], 8, 7)):
                v[a] = (v[a] + v[b] + word) & MASK
                v[d] ^= v[a]
                v[d] = (v[d] >> left | v[d] << 32 - left) & MASK
                v[c] = (v[c] + v[d]) & MASK
                v[b] ^= v[c]
                v[b] = (v[b] >> right | v[b] << 32 - right) & MASK
        words = [words[at] for at in ORDER]
    return [v[at] ^ v[at + 8] for at in range(8)]


def tree(data, key, first, flags, root):
    """The chaining value of a subtree whose first chunk has the number `first`. root: ROOT if it is the whole, else 0."""
    if len(data) > 1024:
        left = 1024 << (((len(data) - 1) // 1024).bit_length() - 1)
        children = tree(data[:left], key, first, flags, 0) + tree(data[left:], key, first + left // 1024, flags, 0)
        return compress(key, struct.pack("<16I", *children), 0, flags | PARENT | root)
    chaining, last = key, max(0, len(data) - 1) // 64
    for number in range(last + 1):
        mark = START * (number == 0) | (END | root) * (number == last)
        chaining = compress(chaining, data[64 * number : 64 * number + 64], first, flags | mark)
    return chaining


def blake3(data, key=None, context=None):
    """32 bytes: the hash, keyed with a key of 32 bytes, or derived for a context from `data`, which is key material then."""
    words, flags = IV, 0
    if key is not None:
        words, flags = struct.unpack("<8I", key), KEYED
    elif context is not None:
        words, flags = tree(context.encode(), IV, 0, CONTEXT, ROOT), MATERIAL
    return struct.pack("<8I", *tree(data, words, 0, flags, ROOT))


# --- an epoch's keys, and what is sealed with them

SEGMENT, TAG, SALT = 65536, 16, 16
DIRECTORY, WITH_ROOT, HIDDEN_LABEL, WITH_PATH = 1, 2, 4, 8
NAME_DOMAIN, URI_DOMAIN = b"kacas-name-1\0", b"kacas-uri-1\0"


class Epoch:
    def __init__(self, group, number, secret):
        need(len(group) == 16 and len(secret) == 32, "a group's id has 16 bytes, a secret 32")
        self.group, self.number, self.secret = group, number, secret

    def key(self, purpose):
        material = self.secret + self.group + struct.pack("<I", self.number)
        return blake3(material, context=f"kacas 2026-11 access group {purpose} v1")

    def opened(self, sealed, purpose, domain, nonce_of):
        """The message behind a nonce that was made of it, or None if it is not of this epoch."""
        nonce, encrypted = sealed[:12], sealed[12:]
        try:
            message = crypto_aead_chacha20poly1305_ietf_decrypt(encrypted, domain, nonce, self.key(purpose))
        except CryptoError:
            return None
        again = blake3(nonce_of(message), key=self.key(f"{purpose} nonce"))[:12]
        return message if hmac.compare_digest(again, nonce) else None

    # names of a private remote

    def directory(self, path):
        return blake3(path, key=self.key("directory"))[:10].hex()

    def blob_key(self, sealed_key):
        """The key of the blob with this key in the bucket; raises ValueError."""
        names = sealed_key.split("/")
        count = next((at for at, name in enumerate(names) if len(name) != 20), len(names))
        text = "".join(names[count:]).upper()
        opened = self.opened(b32decode(text + "=" * (-len(text) % 8)), "name", NAME_DOMAIN, lambda message: message)
        need(opened is not None, "its name is not of this group")
        parents = opened.split(b"/")[:-1][:3]
        above = [self.directory(b"".join(name + b"/" for name in parents[:depth])) for depth in range(len(parents) + 1)]
        pieces = [text[at : at + 200].lower() for at in range(0, len(text), 200)]
        need("/".join([*above, *pieces]) == sealed_key, "it lies elsewhere than its name says")
        return opened.decode()

    # objects

    def content(self, sealed, key):
        """The bytes of the blob with this key, in pieces."""
        content_key, last = blake3(key.encode(), key=self.key("content")), max(0, len(sealed) - 1) // (SEGMENT + 32)
        for index in range(last + 1):
            part = sealed[index * (SEGMENT + 32) :][: SEGMENT + 32]
            need(len(part) >= SALT + TAG and part[:SALT] == sealed[:SALT], f"segment {index} is of another object")
            need(len(part) > SALT + TAG or not index, f"segment {index} is empty")
            nonce = part[:SALT] + struct.pack("<Q", index | (index == last) << 63)
            try:
                yield crypto_aead_xchacha20poly1305_ietf_decrypt(part[SALT:], b"", nonce, content_key)
            except CryptoError:
                raise ValueError(f"segment {index} was altered, or is of another object") from None

    # URIs

    def uri(self, sealed, label):
        """The bytes of SHA-1 and what else a URI says, or None if it is not of this epoch. label: that which is to be seen."""
        additional = URI_DOMAIN + self.group + struct.pack("<I", self.number) + label
        size = struct.pack("<I", len(additional))
        return self.opened(sealed, "uri", additional, lambda message: size + additional + message)


def open_uri(epochs, text):
    """The URI that an encrypted one stands for. epochs: of its group, all that are known."""
    front, question, query = text.partition("?")
    head, *below = front.removeprefix("sha1-enc://").split("/")
    digits, _, group = head.partition(".ag_")
    need(front.startswith("sha1-enc://") and (not question or query.startswith("label=")), "it is no encrypted URI")
    need(digits == digits.lower() and group == group.lower(), "its hex digits are not lower-case")
    label, sealed = unquote_to_bytes(query[6:]), bytes.fromhex(digits)
    need(
        not question or (label and query[6:] == quote_from_bytes(label, safe="")),
        "its label is not written as kacas does",
    )
    for epoch in sorted(epochs, key=lambda epoch: -epoch.number):
        if epoch.group.hex() == group and (message := epoch.uri(sealed, label)) is not None:
            return plain_uri(message, label, [unquote_to_bytes(name) for name in below if name])
    raise ValueError("it was altered, or is of a group or epoch whose secret is not known here")


def plain_uri(message, label, below):
    sha1, rest, flags, root, path = message[:20], message[20:], 0, b"", []
    need(len(sha1) == 20 and len(rest) % 32 == 0, "its size is none that a URI has")
    if rest:
        flags, rest = rest[0], rest[1:]
        need(0 < flags < 16, "flags that this reader does not know")
        if flags & WITH_ROOT:
            root, rest = rest[:32], rest[32:]
        if flags & WITH_PATH:
            names, rest = sized(rest)
            path = names.split(b"/")
        if flags & HIDDEN_LABEL:
            need(not label, "two labels")
            label, rest = sized(rest)
        need(not rest.strip(b"\0") and len(rest) < 32, "it is not padded as it should be")
    need(flags & DIRECTORY or (not path and not below), "a file has no parts")
    need(not (flags & DIRECTORY and root), "the URI of a directory carries no root")
    path = "".join("/" + quote_from_bytes(name, safe="!$&'()*+,;=:@") for name in path + below)
    said = ["label=" + quote_from_bytes(label, safe="")] * bool(label) + ["root=" + root.hex()] * bool(root)
    scheme = "sha1dir" if flags & DIRECTORY else "sha1"
    return f"{scheme}://{sha1.hex()}{path}{'?' if said else ''}{'&'.join(said)}"


def sized(data):
    """(bytes behind their size, a u16; the rest)"""
    need(len(data) >= 2 and len(data) - 2 >= int.from_bytes(data[:2], "little") > 0, "it is cut short")
    end = 2 + int.from_bytes(data[:2], "little")
    return data[2:end], data[end:]


# --- a group's record

SCHEME, ID_CONTEXT = "kacas-group-1", "kacas 2026-11 access group id v1"
RECORD_DOMAIN, RING_DOMAIN = b"kacas 2026-11 group record v1\0", b"kacas-ring-1\0"
STORE_HEADER, STORE_CHECK = 96, 16


def texts_of(path):
    """The texts of all versions in a file, or in a directory of a bucket or store, the first one first."""
    if not path.is_dir():
        lines = path.read_bytes().splitlines(keepends=True)
        return [b"".join(lines[at : at + 2]) for at in range(0, len(lines), 2)]
    numbered = sorted((int(one.name), one.read_bytes()) for one in path.iterdir() if one.name.isdigit())
    need([number for number, _ in numbered] == list(range(1, len(numbered) + 1)), "versions are missing")
    return [text_in_store(data) if data.startswith(b"KACASREC") else data for _, data in numbered]


def text_in_store(data):
    need(blake3(data[:-STORE_CHECK])[:STORE_CHECK] == data[-STORE_CHECK:], "the check of a record in a store fails")
    return data[STORE_HEADER:-STORE_CHECK]


def verified(texts):
    """The versions as objects, of a chain that its admins signed; raises ValueError, which names the version."""
    versions = []
    for number, text in enumerate(texts, 1):
        try:
            version = json.loads(text.split(b"\n")[0])
            check_text(version, text)
            if versions:
                check_next(versions[-1], version)
                need(version["previous"] == blake3(texts[number - 2]).hex(), "it does not follow the one before")
            else:
                check_first(version)
            need(version["version"] == number, "it has another number")
        except (ValueError, KeyError, TypeError) as exc:
            raise ValueError(f"version {number}: {exc}") from None
        versions.append(version)
    need(versions, "there is no version of a record")
    return versions


def check_text(version, text):
    line, signature, nothing = text.split(b"\n")
    need(version["format"] == 1 and version["scheme"] == SCHEME, "it needs a newer reader")
    canonical = json.dumps(version, sort_keys=True, separators=(",", ":")).encode()
    need(line == canonical and not nothing and signature == signature.lower(), "it is not in the canonical form")
    try:
        VerifyKey(bytes.fromhex(version["signer"])).verify(RECORD_DOMAIN + line, bytes.fromhex(signature.decode()))
    except CryptoError:
        raise ValueError("its signature is wrong") from None
    keys = [one["key"] for one in version["members"]]
    need(keys == sorted(set(keys)) and version["signer"] in keys, "its members are out of order, or its signer is none")
    need(any(one["admin"] for one in version["members"]), "it has no admin")
    need(all(len(one["box"]) == 200 for one in version["members"]), "a box has another size")
    need(
        1 <= version["epoch"] <= 4096 and len(version["ring"]) == 16 + 64 * version["epoch"],
        "the ring has another size",
    )


def check_first(version):
    founded = blake3(bytes.fromhex(version["signer"] + version["salt"]), context=ID_CONTEXT)[:16]
    need(version["group"] == f"ag_{founded.hex()}", "the group's id is not of its founder")
    need(version["epoch"] == 1 and version["previous"] == "00" * 32, "it is no beginning")
    need(version["signer"] in admins_of(version), "its founder is no admin")


def check_next(before, version):
    need(all(version[it] == before[it] for it in ("group", "salt", "name")), "it is of another group")
    need(version["signer"] in admins_of(before), "its signer was no admin")
    same = [version[it] == before[it] for it in ("epoch", "commitment", "ring")]
    boxes = {one["key"]: one["box"] for one in version["members"]}
    kept = all(boxes.get(one["key"]) == one["box"] for one in before["members"])
    began = version["epoch"] == before["epoch"] + 1 and not same[1]
    need(began or (all(same) and kept), "it changes secrets or removes somebody, and no epoch begins")


def admins_of(version):
    return [one["key"] for one in version["members"] if one["admin"]]


def epochs_of(versions, private_key):
    """The epochs whose secrets a member has, the newest first; raises ValueError."""
    newest, own = versions[-1], SigningKey(private_key)
    group, number = bytes.fromhex(newest["group"].removeprefix("ag_")), newest["epoch"]
    boxes = [one["box"] for one in newest["members"] if one["key"] == bytes(own.verify_key).hex()]
    need(boxes, "this key is no member's")
    try:
        wrapped = SealedBox(own.to_curve25519_private_key()).decrypt(bytes.fromhex(boxes[0]))
        need(wrapped[:20] == group + struct.pack("<I", number), "the box is of another group or epoch")
        last, ring = Epoch(group, number, wrapped[20:]), bytes.fromhex(newest["ring"])
        before = crypto_aead_xchacha20poly1305_ietf_decrypt(ring[24:], RING_DOMAIN, ring[:24], last.key("ring"))
    except CryptoError:
        raise ValueError("the box or the ring was altered") from None
    need(len(before) == 32 * (number - 1), "the ring has another number of secrets")
    older = [Epoch(group, at + 1, before[32 * at : 32 * at + 32]) for at in range(number - 1)]
    commitments = {version["epoch"]: version["commitment"] for version in versions}
    for epoch in [last, *older]:
        need(epoch.key("commitment").hex() == commitments[epoch.number], f"epoch {epoch.number} has another secret")
    return [last, *reversed(older)]


def open_bucket(epochs, bucket, target):
    """Open all objects of a private remote into a directory; what cannot be opened is named. Returns whether there was any."""
    failed = False
    for epoch in reversed(epochs):  # what a newer epoch has comes later, and in its place
        for path in sorted((bucket / epoch.directory(b"")).rglob("*")):
            if path.is_dir():
                continue
            try:
                key = epoch.blob_key(path.relative_to(bucket).as_posix())
                need(not {"", ".", ".."} & set(key.split("/")), "its name leads elsewhere")
                (target / key).parent.mkdir(parents=True, exist_ok=True)
                data = b"".join(epoch.content(path.read_bytes(), key))
                (target / key).write_bytes(data)
            except (ValueError, OSError) as exc:
                failed = True
                print(f"{path}: {exc}", file=sys.stderr)
    return failed


def main(record, action="show", *arguments):
    versions = verified(texts_of(Path(record)))
    newest = versions[-1]
    if action == "show":
        print(f"{newest['group']} {newest['name']}, version {newest['version']}, epoch {newest['epoch']}")
        for one in newest["members"]:
            print(f"ed25519:{one['key']} {one['name']}{', admin' if one['admin'] else ''}")
        return False
    epochs = epochs_of(versions, bytes.fromhex(os.environ["KACAS_PRIVATE_KEY"]))
    if action == "bucket":
        bucket, target = map(Path, arguments)
        return open_bucket(epochs, bucket, target)
    need(action == "uri", "say uri or bucket")
    for text in arguments:
        print(open_uri(epochs, text))
    return False


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except ValueError as exc:
        sys.exit(f"{exc}")
