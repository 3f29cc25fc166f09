"""Where things are in a bucket. Pure: keys, and what keys name.

kacas-remote.json              id and format version; created once
packs/<id>.pack                immutable: payloads, a table of chunks and entries, a footer, as in a store
recipes/ab/cd/<sha1>           the recipe of the SHA-1 that came first
recipes/ab/cd/<sha1>.<root>    recipes of other roots, or of other publishers of what the first one says wrongly
sha1/ab/cd/ef/<sha1>           plain objects, as kachery-cloud has them
leases/<id>, leases/<id>.beat  somebody is pushing just now
condemned/<id>                 packs that a collector is about to delete
probes/<id>/                   what `kacas remote probe` tries; it goes at once
removed/<sha1>.<id>            somebody removed this SHA-1, and others with it: the entries that it names do not count
groups/<id>/<number>           the record of an access group; also in a bucket whose content is sealed

In a private remote the marker, probes/ and groups/ are as here. All else is sealed, and below directories that name an epoch.
"""

from __future__ import annotations

import re
from functools import lru_cache

MARKER = "kacas-remote.json"
PROBES = "probes/"
GROUPS = "groups/"
PACKS, RECIPES, PLAIN, LEASES, CONDEMNED, REMOVED = "packs/", "recipes/", "sha1/", "leases/", "condemned/", "removed/"
_PACK = re.compile(r"packs/([0-9a-f]{32})\.pack", re.ASCII)


@lru_cache(1024)  # of a pack's many payloads each names it
def pack_key(pack_id: bytes) -> str:
    return f"{PACKS}{pack_id.hex()}.pack"


def pack_id_of(key: str) -> bytes | None:
    """The id of the pack at this key; None if none can be there."""
    found = _PACK.fullmatch(key)
    return bytes.fromhex(found[1]) if found else None


def recipe_key(sha1: bytes) -> str:
    name = sha1.hex()
    return f"{RECIPES}{name[:2]}/{name[2:4]}/{name}"


def other_recipes_prefix(sha1: bytes) -> str:
    """Of the recipes that came later."""
    return f"{recipe_key(sha1)}."


def other_recipe_key(sha1: bytes, root: bytes) -> str:
    return f"{other_recipes_prefix(sha1)}{root.hex()}"


def plain_key(sha1: bytes) -> str:
    name = sha1.hex()
    return f"{PLAIN}{name[:2]}/{name[2:4]}/{name[4:6]}/{name}"
