"""Recipes of a push: written last, when all that they name is there, and signed by the user's key, if there is one."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from kacas.content import Content
from kacas.errors import NewerFormatError
from kacas.interop.key_pair import read_identity
from kacas.settings import identity_file
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobNotFoundError
from kacas_remote.layout import other_recipe_key, recipe_key
from kacas_remote.push.plan import Target
from kacas_remote.recipe import (
    FIRST_READ_SIZE,
    MAX_MEMBER_PACKS,
    Head,
    Locate,
    RecipeError,
    decode_head,
    front_size,
)
from kacas_remote.recipe_spool import PART_SIZE, RecipeSpool
from kacas_remote.signing import Signature, sign, statement


class Recipes:
    """Reads which are there and writes others. Thread-safe."""

    def __init__(self, blobs: BlobStore, cache: Path) -> None:
        """cache: a host-local directory."""
        self._blobs = blobs
        self._cache = cache
        path = identity_file()
        # Who signs is found out before anything is sent.
        self._key = bytes.fromhex(read_identity(path).private) if path.exists() else None

    def is_there(self, sha1: bytes, roots: Collection[bytes]) -> bool:
        """Whether a recipe of one of these roots is in the bucket, signed by us if we sign."""
        head = self._head(recipe_key(sha1))
        if head is None:
            return False
        if head.sha1 == sha1 and head.root in roots:
            return True
        return any(self._is_other_there(sha1, root) for root in roots)

    def _is_other_there(self, sha1: bytes, root: bytes) -> bool:
        head = self._head(other_recipe_key(sha1, root))
        return head is not None and (head.sha1, head.root) == (sha1, root)

    def _head(self, key: str) -> Head | None:
        """None if there is no such recipe; a head of nothing if it cannot be read: another one is put beside it."""
        try:
            data = self._blobs.get_ranges(key, [(0, FIRST_READ_SIZE)])[0]
            if (size := front_size(data)) > FIRST_READ_SIZE:
                data = self._blobs.get_ranges(key, [(0, size)])[0]
            return decode_head(data)
        except BlobNotFoundError:
            return None
        except (RecipeError, NewerFormatError):
            return Head(b"", b"", 0, 0)

    def write(
        self,
        target: Target,
        content: Content,
        locate: Locate,
        member_packs: Collection[bytes],
        *,
        replace: bool = False,
    ) -> bool:
        """Put the recipe of a layout; False if it was there. One of another root stays the first, and ours stands beside it.

        replace: also where one of this root is there, since it may name what is gone.
        """
        signatures: tuple[Signature, ...] = ()
        if self._key is not None:
            signatures = (sign(self._key, statement(target.sha1, content.root, content.size, target.kind)),)
        packs = tuple(sorted(member_packs)) if len(member_packs) <= MAX_MEMBER_PACKS else ()
        head = Head(
            target.sha1, content.root, content.size, target.kind, target.label, time.time_ns(), signatures, packs
        )
        first_key, other_key = recipe_key(target.sha1), other_recipe_key(target.sha1, content.root)
        with RecipeSpool(self._cache, head, content.tree(), locate) as recipe:
            if self._put(first_key, recipe):
                return True
            if self.is_there(target.sha1, [content.root]):
                if replace:
                    first = self._head(first_key)
                    is_first = first is not None and first.root == content.root
                    self._blobs.put_parts(first_key if is_first else other_key, recipe.parts(), size=recipe.size)
                return False
            return self._put(other_key, recipe)

    def _put(self, key: str, recipe: RecipeSpool) -> bool:
        """False if another is there. No service puts many parts on condition: for a large recipe it is looked before. Of two
        that come at the same moment, the first is then replaced, and the next push of its root puts it beside the other."""
        if recipe.size <= PART_SIZE:
            return self._blobs.put_if_absent(key, next(recipe.parts()))
        if self._blobs.head(key) is not None:
            return False
        self._blobs.put_parts(key, recipe.parts(), size=recipe.size)
        return True
