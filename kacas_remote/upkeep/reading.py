"""Reading a bucket strictly: tables, payloads, recipes. What is not what it should be is named; nothing is guessed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kacas.errors import NewerFormatError
from kacas.model.codec import DecodeError, Decoder
from kacas.model.digest import chunk_digest, payload_digest
from kacas.model.manifest import Child
from kacas.model.pack_format import (
    FOOTER_SIZE,
    HEADER_SIZE,
    NewerPackError,
    PackFormatError,
    Table,
    check_payload,
    decode_footer,
    decode_header,
    decode_payload_header,
    decode_table,
)
from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.errors import DamagedRemoteError, NotThereError
from kacas_remote.layout import pack_id_of, pack_key
from kacas_remote.recipe import (
    FIRST_READ_SIZE,
    DamagedRecipeError,
    Page,
    PagePlace,
    Recipe,
    RecipeError,
    decode_recipe,
    front_size,
)

_PAGES_AT_ONCE = 64


class At(NamedTuple):
    """A payload in a pack, as a table says: start:stop with its header."""

    digest: bytes
    kind: int
    start: int
    stop: int


def damage(blobs: BlobStore, key: str, why: object, do: str) -> DamagedRemoteError:
    """What is wrong with a blob, and what to do."""
    return DamagedRemoteError(f"{blobs.name}: {key}: {why}; {do}")


def not_there(blobs: BlobStore, key: str, why: object, do: str) -> NotThereError:
    """As `damage`, of what nothing has that was read."""
    return NotThereError(str(damage(blobs, key, why, do)))


PUSH_AGAIN = "restore it from a copy, or delete it, remove (kacas remote rm) and push again what it held"


def read_table(blobs: BlobStore, remote_id: bytes, info: BlobInfo) -> Table:
    """The whole table of a pack, proved. Raises DamagedRemoteError, NewerFormatError, BlobNotFoundError."""
    if info.size < HEADER_SIZE + FOOTER_SIZE:
        raise damage(blobs, info.key, f"it has only {info.size} bytes", PUSH_AGAIN)
    front, foot = blobs.get_ranges(info.key, [(0, HEADER_SIZE), (info.size - FOOTER_SIZE, info.size)])
    try:
        header = decode_header(front)
        footer = decode_footer(foot, front, info.size)
        if header.store_id != remote_id:
            raise PackFormatError(f"it belongs to {header.store_id.hex()}, not to this remote")
        if not header.pack_id == footer.pack_id == pack_id_of(info.key):
            raise PackFormatError(f"it is really {header.pack_id.hex()}.pack")
        (data,) = blobs.get_ranges(info.key, [(footer.table_offset, footer.table_offset + footer.table_size)])
        if chunk_digest(data) != footer.table_digest:
            raise PackFormatError("its table is damaged")
        return decode_table(data, footer)
    except NewerPackError as exc:
        raise NewerFormatError(f"{blobs.name}: {info.key}: {exc}; upgrade kacas", needed=exc.version) from exc
    except PackFormatError as exc:
        raise damage(blobs, info.key, exc, PUSH_AGAIN) from exc


def checked(data: memoryview, digest: bytes, kind: int, decoder: Decoder, *, decode: bool = True) -> bytes:
    """The raw bytes of a payload, proved by its digest; without `decode` those of header and payload, proved by the checksum.

    Raises PackFormatError, DecodeError.
    """
    header = decode_payload_header(data)
    if (header.digest, header.kind, header.total_size) != (digest, kind, len(data)):
        raise PackFormatError("it is another payload than its table says")
    payload = data[len(data) - header.payload_size :]
    check_payload(header, data, payload)
    if not decode and header.codec:
        return bytes(data)
    raw = decoder.decode(header.codec, header.parameters, payload, header.raw_size)
    if payload_digest(kind, raw) != digest:
        raise PackFormatError("its bytes do not have its digest")
    return raw if decode else bytes(data)


def read_payloads(
    blobs: BlobStore, pack_id: bytes, wanted: Sequence[At], decoder: Decoder, *, decode: bool = True
) -> list[bytes]:
    """Each one's bytes, as `checked` has them. Raises DamagedRemoteError, BlobNotFoundError."""
    key = pack_key(pack_id)
    found = blobs.get_ranges(key, [(at.start, at.stop) for at in wanted])
    raws = []
    for at, data in zip(wanted, found, strict=True):
        try:
            raws.append(checked(data, at.digest, at.kind, decoder, decode=decode))
        except (PackFormatError, DecodeError) as exc:
            raise damage(blobs, key, f"payload {at.digest.hex()[:16]}… at {at.start}: {exc}", PUSH_AGAIN) from exc
    return raws


def read_recipe(blobs: BlobStore, key: str) -> Recipe:
    """Head and top page. Raises DamagedRemoteError, NewerFormatError, BlobNotFoundError."""
    (front,) = blobs.get_ranges(key, [(0, FIRST_READ_SIZE)])
    try:
        size = front_size(front)
        if size > len(front):
            (front,) = blobs.get_ranges(key, [(0, size)])
        return decode_recipe(front)
    except RecipeError as exc:
        raise damage(blobs, key, exc, "delete it and push its content again") from exc


def read_pages(blobs: BlobStore, key: str, recipe: Recipe) -> Iterator[tuple[bytes, Page]]:
    """Every page with its node's digest, parents first, in the order of the content; one that comes again only once."""
    seen: set[bytes] = set()

    def below(page: Page) -> Iterator[tuple[bytes, Page]]:
        if page.level == 0:
            return
        nodes = [(child, place) for child, place in page.nodes() if child.digest not in seen]
        for at in range(0, len(nodes), _PAGES_AT_ONCE):
            part = nodes[at : at + _PAGES_AT_ONCE]
            ranges = [(place.start, place.stop) for _, place in part]
            for (child, place), data in zip(part, blobs.get_ranges(key, ranges), strict=True):
                if child.digest not in seen:
                    seen.add(child.digest)
                    under = _page(blobs, key, recipe, child, place, page.level, data)
                    yield child.digest, under
                    yield from below(under)

    yield recipe.head.root, recipe.top
    yield from below(recipe.top)


def _page(
    blobs: BlobStore, key: str, recipe: Recipe, child: Child, place: PagePlace, level: int, data: memoryview
) -> Page:
    try:
        if len(data) != place.stop - place.start:
            raise DamagedRecipeError("it is cut short")
        return recipe.decode_page(data, child, level)
    except RecipeError as exc:
        raise damage(blobs, key, exc, "delete it and push its content again") from exc
