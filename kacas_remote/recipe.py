"""Recipes: where in a bucket the parts of one content are, as a paged tree. Pure: exact bytes, strict parsing.

head | top page | pages of nodes, children before parents

The head says which root the SHA-1 has; the top page holds the manifest, every other page one Merkle node, each with the
place of every child: of a chunk, where its payload is in a pack, or its bytes in the plain object; of a node, where its
page is. What is believed is proved by digests: nodes by their parents, chunks by their nodes, the SHA-1 by the whole.
Sums of head and pages tell damage (DamagedRecipeError) from what somebody wrote so (LyingRecipeError).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kacas.errors import NewerFormatError
from kacas.model.codec import MAX_CHUNK_SIZE, MAX_PAYLOAD_SIZE
from kacas.model.digest import ID_SIZE, PayloadKind, checksum, payload_digest
from kacas.model.location import Location
from kacas.model.manifest import MAX_HEAD_SIZE, Child, Manifest, ManifestError, decode_manifest, decode_node
from kacas.model.pack_format import HEADER_SIZE, MAX_PARAMETERS_SIZE, PAYLOAD_HEADER_SIZE
from kacas.model.tiling import FAN_OUT, MAX_CONTENT_SIZE
from kacas.model.uri import MAX_LABEL_SIZE, label_text
from kacas_remote.signing import Signature

if TYPE_CHECKING:
    from kacas.model.digest import Buffer

RECIPE_VERSION = 1
FIRST_READ_SIZE = 64 * 1024  # bytes that are asked for first: nearly every front fits
MAX_SIGNATURES = 64
MAX_MEMBER_PACKS = 1 << 16
MAX_STORED_SIZE = PAYLOAD_HEADER_SIZE + MAX_PARAMETERS_SIZE + MAX_PAYLOAD_SIZE

# magic, version, kind, signatures, label, flags, member packs, sha1, root, size, time, top page, other pages
_HEAD = struct.Struct("<8sHBBHBxI20s32sQqIQ")
_SIGNATURE = struct.Struct("<32s64s")
_PAGE = struct.Struct("<4sBxHHxxI")  # magic, level, packs, records, raw size
_RECORD = struct.Struct("<QII")  # offset, size, number of the pack; of a node 0
_HEAD_MAGIC, _PAGE_MAGIC = b"KRECIPE\0", b"KPAG"
_MEMBER = 1  # a flag
_PLAIN = 0xFFFFFFFF  # in place of a pack's number
_CHECK_SIZE = 16
_MAX_OFFSET = 1 << 62
# A manifest: its head, its description, its tiling, its children; generously.
MAX_RAW_SIZE = MAX_HEAD_SIZE + 64 * 1024 + 4096 + FAN_OUT * 40
MAX_PAGE_SIZE = _PAGE.size + MAX_RAW_SIZE + FAN_OUT * (ID_SIZE + _RECORD.size) + _CHECK_SIZE
MAX_HEAD_OF_RECIPE = (
    _HEAD.size + MAX_LABEL_SIZE + MAX_SIGNATURES * _SIGNATURE.size + MAX_MEMBER_PACKS * ID_SIZE + _CHECK_SIZE
)
MAX_FRONT_SIZE = MAX_HEAD_OF_RECIPE + MAX_PAGE_SIZE


class RecipeError(ValueError):
    """Bytes that are not a recipe or a part of one."""


class DamagedRecipeError(RecipeError):
    """They are not what was written: a sum does not match, or some are missing."""


class LyingRecipeError(RecipeError):
    """They are what was written, and contradict themselves, or what they belong to."""


class ChunkPlace(NamedTuple):
    """Where a chunk is. pack_id: None for the plain object. offset, size: bytes, in a pack those of header, parameters and
    payload."""

    pack_id: bytes | None
    offset: int
    size: int

    @property
    def stop(self) -> int:
        return self.offset + self.size

    @classmethod
    def of(cls, location: Location) -> ChunkPlace:
        return cls(location.pack_id, location.offset, location.stop - location.offset)


class PagePlace(NamedTuple):
    """Where a page is in the object of the recipe, bytes start:stop."""

    start: int
    stop: int


@dataclass(frozen=True)
class Head:
    """What a recipe claims. time_ns: since the epoch, by its publisher's clock. label: UTF-8 bytes.

    member_packs: of a directory, ids of the packs whose tables name the members. is_member: it was made for a directory only:
    nobody asked for the content itself.
    """

    sha1: bytes
    root: bytes
    size: int
    kind: int
    label: bytes = b""
    time_ns: int = 0
    signatures: tuple[Signature, ...] = ()
    member_packs: tuple[bytes, ...] = ()
    is_member: bool = False

    @property
    def label_text(self) -> str:
        return label_text(self.label)


@dataclass(frozen=True)
class Page:
    """level: of its children, 0 if they are chunks. places: one for each child; ChunkPlace at level 0, else PagePlace.

    raw: the bytes of the manifest or node; none if the content is one chunk.
    """

    level: int
    raw: bytes
    children: tuple[Child, ...]
    places: tuple[ChunkPlace, ...] | tuple[PagePlace, ...]
    manifest: Manifest | None = None

    def chunks(self) -> Iterator[tuple[Child, ChunkPlace]]:
        """At level 0: the chunks and where they are."""
        for child, place in zip(self.children, self.places, strict=True):
            assert isinstance(place, ChunkPlace)
            yield child, place

    def nodes(self) -> Iterator[tuple[Child, PagePlace]]:
        """Above level 0: the nodes and where their pages are."""
        for child, place in zip(self.children, self.places, strict=True):
            assert isinstance(place, PagePlace)
            yield child, place


@dataclass(frozen=True)
class Recipe:
    """A recipe whose head and top page are read. front_size: of both, bytes; size: of the whole object."""

    head: Head
    top: Page
    front_size: int
    size: int

    def decode_page(self, data: Buffer, child: Child, level: int) -> Page:
        """The page of a node. data: what is at its place; child, level: of the node, as the page above says.

        Raises DamagedRecipeError, LyingRecipeError or NewerFormatError.
        """
        raw, records, packs = _split_page(data, level - 1)
        if payload_digest(PayloadKind.NODE, raw) != child.digest:
            raise LyingRecipeError("a page holds another node than the one above names")
        try:
            children = decode_node(raw, level=level, size=child.size).children
        except ManifestError as exc:
            raise LyingRecipeError(f"a node: {exc}") from exc
        places = _places(records, packs, children, level - 1, self.head.size, (self.front_size, self.size))
        return Page(level - 1, raw, children, places)


# Chunks in order, and where the first of them begins in the content, if it is a sequence: where each of them is.
Locate = Callable[[Sequence[Child], int], Sequence[ChunkPlace]]


def encode_recipe(
    head: Head, tree: Iterable[tuple[bytes, PayloadKind, bytes]], locate: Locate, emit: Callable[[bytes], object]
) -> bytes:
    """The front of the recipe; the pages that follow it are given to `emit` before, in order.

    tree: as `Content.tree` gives it: the manifest and every node, parents first, a repeated one once; nothing if the content
    is one chunk. Memory: a few pages, and 200 bytes for each node. Raises ValueError if the parts do not fit together.
    """
    raws = iter(tree)
    written = 0
    done: dict[bytes, tuple[int, int]] = {}
    at = 0

    def page_of(raw: bytes, children: Sequence[Child], level: int) -> bytes:
        nonlocal at
        if level:
            return _encode_page(level, raw, [(*node_at(child, level), 0) for child in children], ())
        places = locate(children, at)
        at += sum(child.size for child in children)
        numbers: dict[bytes | None, int] = {None: _PLAIN}
        for place in places:
            numbers.setdefault(place.pack_id, len(numbers) - 1)
        if len(places) != len(children):
            raise ValueError(f"{len(places)} places were given for {len(children)} chunks")
        records = [(offset, size, numbers[pack_id]) for pack_id, offset, size in places]
        return _encode_page(0, raw, records, [pack_id for pack_id in numbers if pack_id is not None])

    def node_at(child: Child, level: int) -> tuple[int, int]:
        nonlocal written, at
        if child.digest in done:
            at += child.size
            return done[child.digest]
        digest, _, raw = next(raws)
        if digest != child.digest:
            raise ValueError(f"node {child.digest.hex()} was to come, not {digest.hex()}")
        page = page_of(raw, decode_node(raw, level=level, size=child.size).children, level - 1)
        emit(page)
        done[digest] = written, len(page)
        written += len(page)
        return done[digest]

    first = next(raws, None)
    if first is None:
        top = page_of(b"", [Child(head.root, head.size)], 0)
    else:
        manifest = decode_manifest(first[2])
        at = len(manifest.head)
        top = page_of(first[2], manifest.children, manifest.level)
    front = _encode_head(head, len(top), written) + top
    decode_recipe(front)  # what could not be read is never written
    return front


def front_size(data: Buffer) -> int:
    """How many bytes head and top page have. data: the first bytes of the object, FIRST_READ_SIZE of them are always enough.

    Raises RecipeError or NewerFormatError, also for more than MAX_FRONT_SIZE.
    """
    signature_count, label_size, _, pack_count, _, _, _, _, _, top_size, _ = _fixed(data)
    return _head_size(signature_count, label_size, pack_count) + top_size


def decode_head(data: Buffer) -> Head:
    """Of an object that begins with these bytes. Raises DamagedRecipeError, LyingRecipeError or NewerFormatError."""
    signature_count, label_size, flags, pack_count, kind, sha1, root, size, time_ns, _, _ = _fixed(data)
    stop = _head_size(signature_count, label_size, pack_count)
    if len(data) < stop:
        raise DamagedRecipeError("its head is cut short")
    view = memoryview(data)
    if checksum(_CHECK_SIZE, view[: stop - _CHECK_SIZE]) != bytes(view[stop - _CHECK_SIZE : stop]):
        raise DamagedRecipeError("the checksum of its head does not match")
    if size > MAX_CONTENT_SIZE:
        raise LyingRecipeError(f"it declares {size} bytes")
    label_stop = _HEAD.size + label_size
    packs_at = label_stop + signature_count * _SIGNATURE.size
    signatures = tuple(Signature(*fields) for fields in _SIGNATURE.iter_unpack(view[label_stop:packs_at]))
    packs = _ids(view[packs_at : stop - _CHECK_SIZE])
    label = bytes(view[_HEAD.size : label_stop])
    return Head(sha1, root, size, kind, label, time_ns, signatures, packs, bool(flags & _MEMBER))


def decode_recipe(data: Buffer) -> Recipe:
    """Head and top page. data: the first `front_size` bytes of the object, or more.

    Raises DamagedRecipeError, LyingRecipeError or NewerFormatError.
    """
    head = decode_head(data)
    signature_count, label_size, _, pack_count, _, _, _, _, _, top_size, pages_size = _fixed(data)
    front = _head_size(signature_count, label_size, pack_count) + top_size
    if len(data) < front:
        raise DamagedRecipeError("its top page is cut short")
    top = _decode_top(memoryview(data)[front - top_size : front], head, (front, front + pages_size))
    return Recipe(head, top, front, front + pages_size)


def _decode_top(data: memoryview, head: Head, pages: tuple[int, int]) -> Page:
    raw, records, packs = _split_page(data, None)
    manifest = None
    if raw:
        if payload_digest(PayloadKind.MANIFEST, raw) != head.root:
            raise LyingRecipeError("its manifest does not have the root that it names")
        try:
            manifest = decode_manifest(raw)
        except ManifestError as exc:
            raise LyingRecipeError(f"its manifest: {exc}") from exc
        if manifest.size != head.size:
            raise LyingRecipeError(f"its manifest has {manifest.size} bytes, it says {head.size}")
        level, children = manifest.level, manifest.children
    elif head.size > MAX_CHUNK_SIZE:
        raise LyingRecipeError(f"{head.size} bytes are not one chunk")
    else:
        level, children = 0, (Child(head.root, head.size),)
    if data[4] != level:
        raise LyingRecipeError("its top page is of another level than its manifest")
    return Page(level, raw, children, _places(records, packs, children, level, head.size, pages), manifest)


def _fixed(data: Buffer) -> tuple[int, int, int, int, int, bytes, bytes, int, int, int, int]:
    """The fields of fixed size, bounded. Not proved yet."""
    if len(data) < _HEAD.size:
        raise DamagedRecipeError("it is too short for a recipe")
    magic, version, kind, signature_count, label_size, flags, *rest = _HEAD.unpack_from(data)
    pack_count, sha1, root, size, time_ns, top_size, pages_size = rest
    if magic != _HEAD_MAGIC:
        raise DamagedRecipeError("it does not begin as a recipe does")
    if version > RECIPE_VERSION:
        raise NewerFormatError(
            f"a recipe of version {version} needs a newer kacas (this one reads up to {RECIPE_VERSION}); upgrade",
            needed=version,
        )
    if (
        signature_count > MAX_SIGNATURES
        or label_size > MAX_LABEL_SIZE
        or pack_count > MAX_MEMBER_PACKS
        or top_size > MAX_PAGE_SIZE
        or pages_size > _MAX_OFFSET
        or not version
    ):
        raise DamagedRecipeError("its head is out of bounds")
    return signature_count, label_size, flags, pack_count, kind, sha1, root, size, time_ns, top_size, pages_size


def _head_size(signature_count: int, label_size: int, pack_count: int) -> int:
    return _HEAD.size + label_size + signature_count * _SIGNATURE.size + pack_count * ID_SIZE + _CHECK_SIZE


def _encode_head(head: Head, top_size: int, pages_size: int) -> bytes:
    fixed = _HEAD.pack(
        _HEAD_MAGIC, RECIPE_VERSION, head.kind, len(head.signatures), len(head.label), _MEMBER * head.is_member,
        len(head.member_packs), head.sha1, head.root, head.size, head.time_ns, top_size, pages_size,
    )  # fmt: skip
    signatures = b"".join(_SIGNATURE.pack(*signature) for signature in head.signatures)
    whole = fixed + head.label + signatures + b"".join(head.member_packs)
    return whole + checksum(_CHECK_SIZE, whole)


def _encode_page(level: int, raw: bytes, records: Sequence[tuple[int, int, int]], packs: Sequence[bytes]) -> bytes:
    fixed = _PAGE.pack(_PAGE_MAGIC, level, len(packs), len(records), len(raw))
    whole = b"".join((fixed, raw, *packs, *(_RECORD.pack(*record) for record in records)))
    return whole + checksum(_CHECK_SIZE, whole)


def _split_page(data: Buffer, level: int | None) -> tuple[bytes, memoryview, tuple[bytes, ...]]:
    """Raw bytes, records and pack ids of a page whose sum matches. level: of its children; None for any."""
    view = memoryview(data)
    if not _PAGE.size + _CHECK_SIZE <= len(view) <= MAX_PAGE_SIZE:
        raise DamagedRecipeError(f"a page cannot have {len(view)} bytes")
    check_at = len(view) - _CHECK_SIZE
    if checksum(_CHECK_SIZE, view[:check_at]) != bytes(view[check_at:]):
        raise DamagedRecipeError("the checksum of a page does not match")
    magic, own_level, pack_count, record_count, raw_size = _PAGE.unpack_from(view)
    packs_at = _PAGE.size + raw_size
    records_at = packs_at + pack_count * ID_SIZE
    if magic != _PAGE_MAGIC or records_at + record_count * _RECORD.size != check_at:
        raise LyingRecipeError("what should be a page is none")
    if level not in (None, own_level):
        raise LyingRecipeError(f"a page has level {own_level}, the one above says {level}")
    return bytes(view[_PAGE.size : packs_at]), view[records_at:check_at], _ids(view[packs_at:records_at])


def _places(
    records: memoryview,
    packs: tuple[bytes, ...],
    children: Sequence[Child],
    level: int,
    content_size: int,
    pages: tuple[int, int],
) -> tuple[ChunkPlace, ...] | tuple[PagePlace, ...]:
    """pages: where the pages of nodes begin and end in the object."""
    found = list(_RECORD.iter_unpack(records))
    if len(found) != len(children):
        raise LyingRecipeError(f"a page has {len(found)} records for {len(children)} children")
    if level:
        begin, end = pages
        nodes = tuple(PagePlace(begin + offset, begin + offset + size) for offset, size, _ in found)
        if any(place.stop > end or place.stop - place.start > MAX_PAGE_SIZE for place in nodes):
            raise LyingRecipeError("a page is said to be where none can be")
        return nodes
    chunks = []
    for (offset, size, number), child in zip(found, children, strict=True):
        if number == _PLAIN:
            if size != child.size or offset + size > content_size:
                raise LyingRecipeError("a chunk is said to be where the plain object has none")
            chunks.append(ChunkPlace(None, offset, size))
        elif number >= len(packs) or not HEADER_SIZE <= offset <= _MAX_OFFSET:
            raise LyingRecipeError("a chunk is said to be where no pack has one")
        elif not PAYLOAD_HEADER_SIZE <= size <= MAX_STORED_SIZE:
            raise LyingRecipeError(f"a chunk is said to take {size} bytes")
        else:
            chunks.append(ChunkPlace(packs[number], offset, size))
    return tuple(chunks)


def _ids(data: memoryview) -> tuple[bytes, ...]:
    whole = bytes(data)
    return tuple(whole[at : at + ID_SIZE] for at in range(0, len(whole), ID_SIZE))
