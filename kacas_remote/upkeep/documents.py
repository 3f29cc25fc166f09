"""Small contents of a bucket, read whole and checked against their SHA-1: the documents of directories."""

from __future__ import annotations

from collections.abc import Iterator

from kacas.errors import KacasError
from kacas.model.codec import Decoder
from kacas.model.digest import PayloadKind, new_sha1
from kacas.model.manifest import ManifestError, decode_manifest, decode_node
from kacas.model.tree import MAX_TREE_SIZE
from kacas_remote.errors import RemoteRefusedError, RemoteUnavailableError
from kacas_remote.layout import plain_key
from kacas_remote.recipe import ChunkPlace
from kacas_remote.upkeep.reading import At, damage, read_pages, read_payloads, read_recipe
from kacas_remote.upkeep.survey import Survey


def read_document(survey: Survey, sha1: bytes, *, removed: bool = False) -> bytes:
    """The bytes of a content of at most MAX_TREE_SIZE bytes. Raises DamagedRemoteError if nothing in the bucket gives them,
    RemoteUnavailableError, RemoteRefusedError: then it may be there.

    removed: also by entries that were removed, as those of a directory that another one holds.
    """
    failure: KacasError | None = None
    for read in (*_recipes(survey, sha1), *_roots(survey, sha1, removed), *_plain(survey, sha1)):
        whole = bytearray()
        try:
            for part in read:
                whole += part
                if len(whole) > MAX_TREE_SIZE:
                    raise damage(survey.blobs, f"sha1://{sha1.hex()}", "it is too large for a directory", "remove it")
        except ManifestError as exc:
            failure = damage(survey.blobs, f"sha1://{sha1.hex()}", exc, "push it again")
            continue
        except (RemoteUnavailableError, RemoteRefusedError):
            raise
        except KacasError as exc:
            failure = exc
            continue
        hasher = new_sha1()
        hasher.update(whole)
        if hasher.digest() == sha1:
            return bytes(whole)
    why = failure or "none of its bytes are there, or they are others"
    raise damage(
        survey.blobs, f"sha1dir://{sha1.hex()}", why, "push it again, or remove it (kacas remote rm)"
    ) from failure


def _recipes(survey: Survey, sha1: bytes) -> Iterator[Iterator[bytes]]:
    for row in survey.recipes_of(sha1):
        yield _by_recipe(survey, sha1, row.key)


def _by_recipe(survey: Survey, sha1: bytes, key: str) -> Iterator[bytes]:
    recipe = read_recipe(survey.blobs, key)
    decoder = Decoder()
    if recipe.top.manifest is not None:
        yield recipe.top.manifest.head
    for _, page in read_pages(survey.blobs, key, recipe):
        for child, place in page.chunks() if page.level == 0 else ():
            yield chunk_at(survey, sha1, child.digest, place, decoder)


def chunk_at(survey: Survey, sha1: bytes, digest: bytes, place: ChunkPlace, decoder: Decoder) -> bytes:
    """The raw bytes of a chunk at its place. Of a plain object not proved. Raises DamagedRemoteError, BlobNotFoundError."""
    if place.pack_id is None:
        (data,) = survey.blobs.get_ranges(plain_key(sha1), [(place.offset, place.stop)])
        return bytes(data)
    at = At(digest, PayloadKind.CHUNK, place.offset, place.stop)
    return read_payloads(survey.blobs, place.pack_id, [at], decoder)[0]


def _roots(survey: Survey, sha1: bytes, removed: bool) -> Iterator[Iterator[bytes]]:
    for root, size in survey.db.execute(
        "SELECT DISTINCT root, size FROM entries WHERE sha1 = ? AND (live OR ?)", (sha1, removed)
    ).fetchall():
        if size <= MAX_TREE_SIZE:
            yield _by_root(survey, root)


def _by_root(survey: Survey, root: bytes) -> Iterator[bytes]:
    decoder = Decoder()

    def payload(digest: bytes) -> tuple[int, bytes]:
        place = survey.at(digest)
        if place is None:
            raise damage(survey.blobs, f"payload {digest.hex()[:16]}…", "no pack has it", "push its content again")
        return place[1].kind, read_payloads(survey.blobs, place[0], [place[1]], decoder)[0]

    def below(digest: bytes, size: int, level: int) -> Iterator[bytes]:
        _, raw = payload(digest)
        if level == 0:
            yield raw
            return
        for child in decode_node(raw, level=level, size=size).children:
            yield from below(*child, level - 1)

    kind, raw = payload(root)
    if kind != PayloadKind.MANIFEST:
        yield raw
        return
    manifest = decode_manifest(raw)
    yield manifest.head
    for child in manifest.children:
        yield from below(*child, manifest.level)


def _plain(survey: Survey, sha1: bytes) -> Iterator[Iterator[bytes]]:
    if survey.db.execute("SELECT 1 FROM plain WHERE sha1 = ?", (sha1,)).fetchone():
        yield iter([survey.blobs.get(plain_key(sha1), MAX_TREE_SIZE)])
