"""Catalog: what a bucket says of a SHA-1: recipes first, then the tables of its packs.

<cache>/remotes/<address>/recipes/    SQLite: heads and pages of recipes that were read, for a second look without the bucket

What is kept of a recipe is used as it is: its places are proved by digests when they are read. It matters whether it is
still the one in the bucket only when something is not where it says; then `renew` reads it anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from kacas.disk.host_database import HostDatabase
from kacas.errors import DamagedError, NewerFormatError
from kacas.model.entry import Entry
from kacas.model.manifest import Child
from kacas.model.uri import Uri
from kacas_remote.errors import BlobNotFoundError, DamagedRemoteError, NotSupportedError
from kacas_remote.layout import other_recipe_key, other_recipes_prefix, recipe_key
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
from kacas_remote.signing import Signature
from kacas_remote.tables import Bucket, Tables, known_of

_VERSION = 1
_SCHEMA = """
CREATE TABLE parts (place INTEGER PRIMARY KEY, key TEXT NOT NULL, start INTEGER NOT NULL, data BLOB NOT NULL,
    UNIQUE (key, start))
"""
_MOST_PARTS = 8192  # of about 15 KiB
_MAX_PART_SIZE = 512 * 1024
_IN_MEMORY = 64
_MAX_OTHERS = 32  # recipes of one SHA-1 that are looked at, beside the first

T = TypeVar("T")


class Claim(NamedTuple):
    """What the bucket says of a SHA-1, by a recipe or, if that is None, by a table. key: of the recipe's object."""

    sha1: bytes
    root: bytes
    size: int
    kind: int
    label: bytes
    time_ns: int
    signatures: tuple[Signature, ...] = ()
    recipe: Recipe | None = None
    key: str = ""

    @classmethod
    def of_recipe(cls, recipe: Recipe, key: str) -> Claim:
        head = recipe.head
        return cls(head.sha1, head.root, head.size, head.kind, head.label, head.time_ns, head.signatures, recipe, key)

    @classmethod
    def of_entry(cls, entry: Entry) -> Claim:
        return cls(entry.sha1, entry.root, entry.size, entry.kind, entry.label, entry.time_ns)


class Catalog:
    """Thread-safe, safe after fork; many processes share one cache."""

    def __init__(self, remote: Bucket, tables: Tables, cache: Path) -> None:
        """cache: this user's cache directory."""
        self._remote = remote
        self._tables = tables
        self._database = HostDatabase(known_of(remote, cache) / "recipes", _VERSION, _SCHEMA)
        self._recipes: dict[str, Recipe] = {}
        self._pages: dict[tuple[str, bytes], Page] = {}

    def close(self) -> None:
        """Release what is open. It may be used again."""
        self._database.close()

    def find(self, uri: Uri) -> Claim | None:
        """The first of `claims`, None if there is none. Raises as `claims`."""
        return next(self.claims(uri), None)

    def claims(self, uri: Uri) -> Iterator[Claim]:
        """Everything that the bucket says of the SHA-1 (and root, if the URI carries one), each root once: the first recipe,
        those of other roots, then the tables, newest first. What comes later is looked for only when it is asked for.

        Raises DamagedRemoteError or NewerFormatError if there are recipes, but none, nor a table, that can be used.
        """
        problem: DamagedError | NewerFormatError | None = None
        seen: set[bytes] = set()
        for key in self._recipe_keys(uri):
            try:
                recipe = self._recipe(key, uri.sha1)
            except (DamagedRemoteError, NewerFormatError) as exc:
                problem = exc
                continue
            if recipe is not None and recipe.head.root not in seen and uri.root in (None, recipe.head.root):
                seen.add(recipe.head.root)
                yield Claim.of_recipe(recipe, key)
        for claim in self.by_table([uri.sha1], look=not seen).get(uri.sha1, ()):
            if claim.root not in seen and uri.root in (None, claim.root):
                seen.add(claim.root)
                yield claim
        if problem is not None and not seen:
            raise problem

    def by_table(self, sha1s: Collection[bytes], *, look: bool = True) -> dict[bytes, list[Claim]]:
        """What tables say of many SHA-1 at once, newest first. look: whether to refresh the tables if one is not known."""
        found = self._tables.entries(sha1s)
        if look and any(sha1 not in found for sha1 in sha1s):
            with suppress(NotSupportedError):
                self._tables.refresh()
            found = self._tables.entries(sha1s)
        return {sha1: [Claim.of_entry(entry) for entry in entries] for sha1, entries in found.items()}

    def page(self, claim: Claim, child: Child, place: PagePlace, level: int) -> Page:
        """The page of a node below a recipe's top. child, place, level: of the node, as the page above says.

        Raises DamagedRemoteError, also if the recipe was replaced meanwhile (see `renew`); NewerFormatError; BlobNotFoundError.
        """
        recipe = claim.recipe
        if recipe is None:
            raise ValueError("a claim of a table has no pages")
        page = self._pages.get((claim.key, child.digest))
        if page is not None and page.level == level - 1 and sum(size for _, size in page.children) == child.size:
            return page
        page = self._read(
            claim.key,
            place.start,
            lambda: self._range(claim.key, *place),
            lambda data: recipe.decode_page(data, child, level),
        )
        # Anew rather than in order: a lock would not survive a fork.
        if len(self._pages) >= _IN_MEMORY:
            self._pages = {}
        self._pages[claim.key, child.digest] = page
        return page

    def renew(self, sha1: bytes) -> None:
        """Forget what is kept of its recipes: something is not where they say. The next look reads the bucket."""
        first, others = recipe_key(sha1), other_recipes_prefix(sha1)
        self._recipes, self._pages = {}, {}

        def forget(connection: sqlite3.Connection) -> None:
            query = "DELETE FROM parts WHERE key = ? OR substr(key, 1, ?) = ?"
            connection.execute(query, (first, len(others), others))

        self._database.write(forget)

    def _recipe_keys(self, uri: Uri) -> Iterator[str]:
        yield recipe_key(uri.sha1)
        if uri.root is not None:
            yield other_recipe_key(uri.sha1, uri.root)
            return
        with suppress(NotSupportedError):  # a web server lists nothing
            for info in islice(self._remote.blobs.list(other_recipes_prefix(uri.sha1)), _MAX_OTHERS):
                yield info.key

    def _recipe(self, key: str, sha1: bytes) -> Recipe | None:
        """None if there is none. Raises DamagedRemoteError or NewerFormatError."""
        recipe = self._recipes.get(key)
        if recipe is not None:
            return recipe
        try:
            recipe = self._read(key, 0, lambda: self._front(key), decode_recipe)
        except BlobNotFoundError:
            return None
        if recipe.head.sha1 != sha1:
            raise self._refusal(key, "it is the recipe of another SHA-1: the object was swapped")
        if len(self._recipes) >= _IN_MEMORY:
            self._recipes = {}
        self._recipes[key] = recipe
        return recipe

    def _front(self, key: str) -> bytes:
        data = bytes(self._range(key, 0, FIRST_READ_SIZE))
        size = front_size(data)
        if size > len(data) == FIRST_READ_SIZE:
            data += self._range(key, FIRST_READ_SIZE, size)
        return data[:size]

    def _range(self, key: str, start: int, stop: int) -> memoryview:
        return self._remote.blobs.get_ranges(key, [(start, stop)])[0]

    def _read(self, key: str, start: int, fetch: Callable[[], bytes | memoryview], decode: Callable[[bytes], T]) -> T:
        """From this host, else from the bucket, where what is damaged is read twice."""
        kept = self._kept(key, start)
        if kept is not None:
            try:
                return decode(kept)
            except (RecipeError, NewerFormatError):
                pass  # a bit flipped, or it is of a recipe that was replaced
        for attempt in range(2):
            try:
                data = bytes(fetch())
                found = decode(data)
            except DamagedRecipeError as exc:
                if attempt:
                    raise self._refusal(key, str(exc)) from exc
            except RecipeError as exc:
                raise self._refusal(key, str(exc)) from exc
            else:
                self._keep(key, start, data)
                return found
        raise AssertionError

    def _refusal(self, key: str, why: str) -> DamagedRemoteError:
        return DamagedRemoteError(
            f"the recipe {key} in the remote {self._remote.name} was refused: {why}. Push the content there again, "
            "or remove it: kacas remote rm"
        )

    def _kept(self, key: str, start: int) -> bytes | None:
        query = "SELECT data FROM parts WHERE key = ? AND start = ?"
        row = self._database.read(lambda connection: connection.execute(query, (key, start)).fetchone())
        return row[0] if row is not None and isinstance(row[0], bytes) else None

    def _keep(self, key: str, start: int, data: bytes) -> None:
        def keep(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO parts (key, start, data) VALUES (?, ?, ?)", (key, start, data))
            connection.execute("DELETE FROM parts WHERE place <= (SELECT max(place) FROM parts) - ?", (_MOST_PARTS,))

        if len(data) <= _MAX_PART_SIZE:
            self._database.write(keep)
