"""What a bucket says of a content, read by the formats alone, and compared with all digests and the SHA-1."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from kacas.model.codec import Decoder
from kacas.model.digest import PayloadKind, new_sha1, payload_digest
from kacas.model.entry import Entry
from kacas.model.manifest import Child, decode_manifest, decode_node
from kacas.model.pack_format import PAYLOAD_HEADER_SIZE, decode_payload_header
from kacas.model.uri import parse_uri
from kacas_remote.condemned import condemned_packs
from kacas_remote.layout import pack_key, plain_key, recipe_key
from kacas_remote.recipe import ChunkPlace, Page, Recipe, decode_recipe
from kacas_remote.remote import Remote
from kacas_remote.tables import Tables

_MOST = 1 << 30


def proved(remote: Remote, uri: str) -> bytes:
    """The content's bytes, by its recipe, else by the tables of packs. Of a sequence."""
    sha1 = parse_uri(uri).sha1
    if remote.blobs.head(recipe_key(sha1)) is not None:
        data = b"".join(_by_recipe(remote, decode_recipe(remote.blobs.get(recipe_key(sha1), _MOST)), sha1))
    else:
        data = _by_tables(remote, sha1)
    found = new_sha1()
    found.update(data)
    assert found.digest() == sha1
    return data


def _by_recipe(remote: Remote, recipe: Recipe, sha1: bytes) -> list[bytes]:
    assert recipe.head.sha1 == sha1
    whole = remote.blobs.get(recipe_key(sha1), _MOST)
    parts = [recipe.top.manifest.head] if recipe.top.manifest else []

    def walk(page: Page) -> None:
        if page.level == 0:
            for child, place in page.chunks():
                parts.append(_chunk(remote, sha1, child, place))
        else:
            for child, at in page.nodes():
                walk(recipe.decode_page(whole[at.start : at.stop], child, page.level))

    walk(recipe.top)
    return parts


def _chunk(remote: Remote, sha1: bytes, child: Child, place: ChunkPlace) -> bytes:
    if place.pack_id is None:
        raw = bytes(remote.blobs.get_ranges(plain_key(sha1), [(place.offset, place.stop)])[0])
        assert payload_digest(PayloadKind.CHUNK, raw) == child.digest
        return raw
    return _payload(remote, place.pack_id, place.offset, place.stop, child.digest, PayloadKind.CHUNK)


def _payload(remote: Remote, pack_id: bytes, start: int, stop: int, digest: bytes, kind: PayloadKind) -> bytes:
    data = remote.blobs.get_ranges(pack_key(pack_id), [(start, stop)])[0]
    header = decode_payload_header(data)
    assert (header.digest, header.kind, header.total_size) == (digest, kind, len(data))
    raw = bytearray(header.raw_size)
    payload = data[PAYLOAD_HEADER_SIZE + len(header.parameters) :]
    Decoder().decode_into(header.codec, header.parameters, payload, memoryview(raw))
    assert payload_digest(kind, raw) == digest
    return bytes(raw)


def _by_tables(remote: Remote, sha1: bytes) -> bytes:
    with TemporaryDirectory() as cache:
        tables = Tables(remote, Path(cache))
        tables.refresh()
        condemned = condemned_packs(remote.blobs)

        def read(digest: bytes, kind: PayloadKind) -> bytes:
            place = next(one for one in tables.locate([digest])[digest] if one.pack_id not in condemned)
            return _payload(remote, place.pack_id, place.offset, place.stop, digest, kind)

        entry: Entry = tables.entries([sha1])[sha1][0]
        (first, *_) = tables.locate([entry.root])[entry.root]
        if first.kind == PayloadKind.CHUNK:
            return read(entry.root, PayloadKind.CHUNK)
        manifest = decode_manifest(read(entry.root, PayloadKind.MANIFEST))
        parts = [manifest.head]

        def walk(children: tuple[Child, ...], level: int) -> None:
            for child in children:
                if level == 0:
                    parts.append(read(child.digest, PayloadKind.CHUNK))
                else:
                    raw = read(child.digest, PayloadKind.NODE)
                    walk(decode_node(raw, level=level, size=child.size).children, level - 1)

        walk(manifest.children, manifest.level)
        return b"".join(parts)
