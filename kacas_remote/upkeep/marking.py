"""Marking: which payloads and entries of a bucket somebody needs.

Needed is what recipes name, what is kept by entries that nobody removed, and the members of directories of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kacas.errors import KacasError
from kacas.model.codec import Decoder
from kacas.model.digest import PayloadKind
from kacas.model.entry import Action, Kind
from kacas.model.manifest import ManifestError, decode_manifest, decode_node
from kacas.model.tree import NewerTreeError, TreeError, decode_tree
from kacas_remote.errors import DamagedRemoteError
from kacas_remote.layout import pack_key
from kacas_remote.upkeep.documents import read_document
from kacas_remote.upkeep.reading import At, damage, not_there, read_payloads
from kacas_remote.upkeep.survey import Survey, batched

_ROOTS_AT_ONCE = 256
_NODES_AT_ONCE = 64


@dataclass
class Marks:
    """contents: how many are kept. incomplete: SHA-1s that lack chunks. absent: directories, and members that are not there."""

    contents: int = 0
    incomplete: list[bytes] = field(default_factory=list)
    absent: list[tuple[bytes, bytes]] = field(default_factory=list)


def mark(survey: Survey) -> Marks:
    """Mark in a survey that was read, whose recipes marked what they name. What is not as it should be is a fault of the survey:
    its `fault` may raise."""
    return _Marking(survey).run()


class _Marking:
    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._db = survey.db
        self._decoder = Decoder()
        self._marks = Marks()

    def run(self) -> Marks:
        self._db.execute("BEGIN")
        # In a table of its own: it is read while entries and payloads are marked, and never is in memory as a whole.
        self._db.execute(
            "CREATE TEMP TABLE kept AS SELECT DISTINCT sha1, root, size FROM entries WHERE live AND action = ?",
            (int(Action.KEEP),),
        )
        self._db.execute("UPDATE entries SET needed = 1 WHERE live AND action = ?", (int(Action.KEEP),))
        for part in batched(self._db.execute("SELECT sha1, root, size FROM kept"), _ROOTS_AT_ONCE):
            self._walk(part)
        directories = self._db.execute(
            "SELECT sha1 FROM recipes WHERE kind = ?1 UNION SELECT sha1 FROM entries WHERE kind = ?1 AND live AND action = ?2",
            (int(Kind.DIRECTORY), int(Action.KEEP)),
        ).fetchall()
        recipes = self._db.execute("SELECT count(DISTINCT sha1) FROM recipes").fetchone()[0]
        by_table = self._db.execute(
            "SELECT count(DISTINCT sha1) FROM entries WHERE needed AND sha1 NOT IN (SELECT sha1 FROM recipes)"
        ).fetchone()[0]
        self._marks.contents = recipes + by_table
        self._members([sha1 for (sha1,) in directories])
        self._db.execute("COMMIT")
        self._marks.incomplete += [sha1 for _, sha1, _ in self._survey.lost]
        return self._marks

    # --- directories --------------------------------------------------------------------------

    def _members(self, directories: list[bytes]) -> None:
        """Mark all that is below them."""
        while directories:
            directory = directories.pop()
            if not self._db.execute("INSERT OR IGNORE INTO walked VALUES (?)", (directory,)).rowcount:
                continue
            try:
                entries = decode_tree(read_document(self._survey, directory, removed=True))
            except NewerTreeError as exc:
                self._survey.fault(directory.hex(), self._broken(directory, exc, "upgrade kacas"))
                continue
            except TreeError:
                continue  # the kind is a hint: whoever wrote it may have meant something else
            except KacasError as exc:
                self._survey.fault(directory.hex(), exc)
                continue
            sha1s = {entry.sha1: entry.type.value == "directory" for entry in entries if entry.sha1}
            for sha1s_part in batched(sha1s, _ROOTS_AT_ONCE):
                self._walk(self._layouts(directory, sha1s_part))
            directories += [sha1 for sha1, is_directory in sha1s.items() if is_directory]

    def _layouts(self, directory: bytes, sha1s: Sequence[bytes]) -> list[tuple[bytes, bytes, int]]:
        """What the tables know of members; those that have a recipe are marked by it.

        Removed entries count: a directory that was pushed while they were removed relies on them.
        """
        found = []
        for sha1 in sha1s:
            rows = self._db.execute(
                "SELECT DISTINCT sha1, root, size FROM entries WHERE sha1 = ? AND action IN (0, 3)", (sha1,)
            ).fetchall()
            self._db.execute("UPDATE entries SET needed = 1 WHERE sha1 = ? AND action IN (0, 3)", (sha1,))
            known = rows or self._survey.recipes_of(sha1)
            if not known and not self._db.execute("SELECT 1 FROM plain WHERE sha1 = ?", (sha1,)).fetchone():
                self._marks.absent.append((directory, sha1))
            found += rows
        return found

    # --- layouts ------------------------------------------------------------------------------

    def _walk(self, layouts: Iterable[tuple[bytes, bytes, int]]) -> None:
        """Mark all that these roots need. layouts: SHA-1, root, size."""
        roots: list[tuple[bytes, bytes, At]] = []
        pack_of: dict[bytes, bytes] = {}
        for sha1, root, _ in layouts:
            found = self._survey.need(root)
            if found is None:
                self._lacks(sha1, root)
            elif found and (place := self._survey.at(root)) and place[1].kind == PayloadKind.MANIFEST:
                roots.append((sha1, root, place[1]))
                pack_of[root] = place[0]
        by_pack: dict[bytes, list[tuple[bytes, bytes, At]]] = {}
        for row in roots:
            by_pack.setdefault(pack_of[row[1]], []).append(row)
        for pack_id, rows in by_pack.items():
            for (sha1, _, at), raw in zip(rows, self._read(pack_id, [at for *_, at in rows]), strict=False):
                try:
                    manifest = decode_manifest(raw)
                except (ManifestError, KacasError) as exc:
                    self._survey.fault(at.digest.hex(), self._broken(sha1, exc, "remove it, or push it again"))
                    continue
                self._children(sha1, [(child.digest, child.size) for child in manifest.children], manifest.level)

    def _children(self, sha1: bytes, children: Sequence[tuple[bytes, int]], level: int) -> None:
        if level == 0:
            lost = [digest for digest, _ in children if self._survey.need(digest) is None]
            if lost:
                self._incomplete(sha1)
            return
        for part in batched(children, _NODES_AT_ONCE):
            for digest, size in part:
                found = self._survey.need(digest)
                if found is None:
                    self._lacks(sha1, digest)
                elif found and (place := self._survey.at(digest)):
                    for raw in self._read(place[0], [place[1]]):
                        try:
                            node = decode_node(raw, level=level, size=size)
                        except (ManifestError, KacasError) as exc:
                            self._survey.fault(digest.hex(), self._broken(sha1, exc, "remove it, or push it again"))
                            continue
                        self._children(sha1, [(child.digest, child.size) for child in node.children], level - 1)

    def _read(self, pack_id: bytes, wanted: Sequence[At]) -> list[bytes]:
        try:
            return read_payloads(self._survey.blobs, pack_id, wanted, self._decoder)
        except KacasError as exc:
            self._survey.fault(pack_key(pack_id), exc)
            return []

    def _lacks(self, sha1: bytes, digest: bytes) -> None:
        """A root or node that is nowhere: a chunk that is lost hides nothing, but what is below a node is not known."""
        if any(row.root == digest for row in self._survey.recipes_of(sha1)):
            return  # the recipe has the manifest, and marks what is below
        self._incomplete(sha1)
        why, do = f"no pack has the root or node {digest.hex()[:16]}…", "remove it (kacas remote rm) and push it again"
        self._survey.fault(sha1.hex(), not_there(self._survey.blobs, f"sha1://{sha1.hex()}", why, do))

    def _incomplete(self, sha1: bytes) -> None:
        self._marks.incomplete.append(sha1)

    def _broken(self, sha1: bytes, why: object, do: str) -> DamagedRemoteError:
        return damage(self._survey.blobs, f"sha1://{sha1.hex()}", why, do)
