"""Recipes for tests: of real trees, made small by short nodes, and what reads them as a client would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kacas.model.digest import PayloadKind, chunk_digest, payload_digest
from kacas.model.manifest import Child, Manifest, Node
from kacas_remote.recipe import ChunkPlace, Head, Page, Recipe, decode_recipe, encode_recipe, front_size

SHA1 = bytes(range(20))
Tree = list[tuple[bytes, PayloadKind, bytes]]


def tree_of(
    chunks: Sequence[Child], fan_out: int = 3, head: bytes = b"", level: int | None = None
) -> tuple[bytes, Tree]:
    """Root and tree, parents first, of a manifest over nodes of at most `fan_out` children. level: of the manifest."""
    raws: dict[bytes, bytes] = {}
    row, at = list(chunks), 0
    while len(row) > fan_out or (level is not None and at < level):
        groups = [tuple(row[start : start + fan_out]) for start in range(0, len(row), fan_out)]
        at, row = at + 1, []
        for group in groups:
            node = Node(at, sum(child.size for child in group), group)
            digest = payload_digest(PayloadKind.NODE, node.encode())
            raws[digest] = node.encode()
            row.append(Child(digest, node.size))
    raw = Manifest(len(head) + sum(child.size for child in row), at, head, {}, tuple(row)).encode()
    root = payload_digest(PayloadKind.MANIFEST, raw)
    tree: Tree = [(root, PayloadKind.MANIFEST, raw)]
    seen: set[bytes] = set()

    def walk(children: Sequence[Child], depth: int) -> None:
        for child in children if depth else ():
            if child.digest not in seen:
                seen.add(child.digest)
                tree.append((child.digest, PayloadKind.NODE, raws[child.digest]))
                size = sum(one[1] for one in _children(raws[child.digest]))
                assert size == child.size
                walk(_children(raws[child.digest]), depth - 1)

    walk(row, at)
    return root, tree


def _children(raw: bytes) -> list[Child]:
    return [
        Child(raw[at : at + 32], int.from_bytes(raw[at + 32 : at + 40], "little")) for at in range(20, len(raw), 40)
    ]


def chunk(number: int, size: int = 1) -> Child:
    return Child(chunk_digest(str(number).encode()), size)


def places_of(children: Sequence[Child], at: int) -> list[ChunkPlace]:
    """Somewhere, as the digest says: in one of five packs, or in the plain object."""
    found = []
    for digest, size in children:
        if digest[0] % 6 == 5:
            found.append(ChunkPlace(None, at, size))
        else:
            found.append(ChunkPlace(bytes([digest[0] % 6]) * 16, 64 + digest[1] * 100, 64 + size))
        at += size
    return found


def recipe_of(chunks: Sequence[Child], fan_out: int = 3, head: bytes = b"", **fields: object) -> bytes:
    """The object's bytes."""
    root, tree = tree_of(chunks, fan_out, head)
    size = len(head) + sum(child.size for child in chunks)
    return encoded(Head(SHA1, root, size, **{"kind": 1, **fields}), tree)  # type: ignore[arg-type]


def encoded(head: Head, tree: Tree) -> bytes:
    pages: list[bytes] = []
    return encode_recipe(head, tree, places_of, pages.append) + b"".join(pages)


def opened(data: bytes) -> Recipe:
    """As a reader does, who has the first bytes and learns how many more are needed."""
    recipe = decode_recipe(data[: front_size(data[:65536])])
    assert recipe.size == len(data)
    return recipe


def leaves(data: bytes, recipe: Recipe, page: Page | None = None) -> Iterator[tuple[Child, ChunkPlace]]:
    """Every chunk with its place, in order."""
    page = page or recipe.top
    if page.level == 0:
        yield from page.chunks()
        return
    for child, (start, stop) in page.nodes():
        yield from leaves(data, recipe, recipe.decode_page(data[start:stop], child, page.level))
