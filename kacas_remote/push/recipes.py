"""Recipes of a push: written last, when all that they name is there, and signed by the user's key, if there is one."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from kacas.content import Content
from kacas.errors import NewerFormatError
from kacas_remote import identity
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
from kacas_remote.recipe_spool import RecipeSpool
from kacas_remote.signing import Signature, sign, statement


class Recipes:
    """Reads which are there and writes others. Thread-safe."""

    def __init__(self, blobs: BlobStore, cache: Path) -> None:
        """cache: a host-local directory."""
        self._blobs = blobs
        self._cache = cache
        me = identity.find()  # before anything is sent: it may be damaged
        self._key = None if me is None else me.key

    def is_there(self, sha1: bytes, roots: Collection[bytes], *, as_member: bool) -> bool:
        """Whether a recipe of one of these roots is in the bucket; as_member: also one that was made for a directory only."""
        found = self._find(sha1, roots)
        return found is not None and (as_member or not found[1].is_member)

    def _find(self, sha1: bytes, roots: Collection[bytes]) -> tuple[str, Head] | None:
        """The key and head of a recipe of one of these roots; others are asked for only if there is a first one."""
        key = recipe_key(sha1)
        head = self._head(key)
        if head is None:
            return None
        others = (other_recipe_key(sha1, root) for root in roots)
        while head is None or head.sha1 != sha1 or head.root not in roots:
            key = next(others, "")
            if not key:
                return None
            head = self._head(key)
        return key, head

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
        """Put the recipe of a layout; False if it was there. One of another root stays the first, and ours stands beside it. One
        that was made for a directory only is replaced when the content itself is asked for.

        replace: also where one of this root is there, since it may name what is gone.
        """
        signatures: tuple[Signature, ...] = ()
        if self._key is not None:
            signatures = (sign(self._key, statement(target.sha1, content.root, content.size, target.kind)),)
        packs = tuple(sorted(member_packs)) if len(member_packs) <= MAX_MEMBER_PACKS else ()
        head = Head(
            target.sha1, content.root, content.size, target.kind, target.label, time.time_ns(), signatures, packs,
            target.is_member,
        )  # fmt: skip
        with RecipeSpool(self._cache, head, content.tree(), locate) as recipe:
            if recipe.put_if_absent(self._blobs, recipe_key(target.sha1)):
                return True
            found = self._find(target.sha1, [content.root])
            if found is None:
                return recipe.put_if_absent(self._blobs, other_recipe_key(target.sha1, content.root))
            key, there = found
            if replace or (there.is_member and not target.is_member):
                recipe.put(self._blobs, key)
            return False
