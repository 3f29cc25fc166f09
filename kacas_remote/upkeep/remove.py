"""Removing contents from a bucket: recipes, plain objects, entries; of a directory, the members that nobody else needs.

What it frees is free after the next collection. A removal wins over a push of the same content at the same time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kacas.errors import NotFoundError
from kacas.model.entry import Action, Kind
from kacas.model.tree import TreeError, decode_tree
from kacas.private_uris import any_uris
from kacas_remote.blobs.sealed import strict_of
from kacas_remote.errors import BlobNotFoundError, DamagedRemoteError
from kacas_remote.layout import PLAIN, plain_key
from kacas_remote.remote import Remote
from kacas_remote.removed import give_back, remove_entries
from kacas_remote.upkeep.documents import read_document
from kacas_remote.upkeep.survey import Progress, Survey, silent, stop_at_faults


@dataclass
class Removal:
    """What goes, or went. contents: SHA-1s in hex; size: their bytes. kept: members, and why they stay: SHA-1 in hex and the
    directory that holds it, or "" if it was pushed by itself."""

    contents: list[str] = field(default_factory=list)
    size: int = 0
    recipes: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    entries: int = 0
    members: int = 0
    kept: list[tuple[str, str]] = field(default_factory=list)


def remove(
    remote: Remote,
    uris: Iterable[str],
    *,
    dry_run: bool = False,
    confirm: Callable[[Removal], bool] = lambda _: True,
    progress: Progress = silent,
) -> Removal | None:
    """Remove contents and directories. None if `confirm`, which is shown what would go, says no.

    Raises NotFoundError for what is not there: nothing is removed then. Raises as reading all tables and recipes does, and if
    it is private and the record of its group cannot be looked at. Raises NotSupportedError if this user only reads there.
    """
    if not dry_run:
        remote.check_writable("removed from it")
    remote = remote.through(strict_of(remote.blobs))
    wanted = any_uris(list(uris))
    with _surveyed(remote, progress) as survey:
        work = _Removing(survey)
        for uri in wanted:
            if not work.is_there(uri.sha1):
                raise NotFoundError(f"{uri} is not in {remote.blobs.name}; nothing was removed", sha1=uri.sha1.hex())
        work.plan([uri.sha1 for uri in wanted])
        if not dry_run:
            if not confirm(work.removal):
                return None
            with contextlib.ExitStack() as stack:
                work.carry_out(lambda: _Removing(stack.enter_context(_surveyed(remote, progress))))
        return work.removal


def _surveyed(remote: Remote, progress: Progress) -> Survey:
    remote.check_marked()
    survey = Survey(remote.blobs, remote.remote_id, stop_at_faults, progress)
    survey.read()
    return survey


class _Removing:
    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._db = survey.db
        self.removal = Removal()
        self._entries: dict[bytes, list[bytes]] = {}
        self._asked: list[bytes] = []
        self._members: list[bytes] = []

    def is_there(self, sha1: bytes) -> bool:
        sql = (
            "SELECT 1 FROM recipes WHERE sha1 = ?1 UNION SELECT 1 FROM plain WHERE sha1 = ?1"
            " UNION SELECT 1 FROM entries WHERE sha1 = ?1 AND live"
        )
        return self._db.execute(sql, (sha1,)).fetchone() is not None

    def _directories(self) -> set[bytes]:
        return {
            sha1
            for (sha1,) in self._db.execute(
                "SELECT sha1 FROM recipes WHERE kind = ?1 UNION SELECT sha1 FROM entries WHERE kind = ?1 AND live AND action = ?2",
                (int(Kind.DIRECTORY), int(Action.KEEP)),
            )
        }

    def plan(self, sha1s: list[bytes]) -> None:
        going, directories = set(sha1s), self._directories()
        held = self._below(directories - going)  # by directories that stay
        members = self._below(directories & going, readable_only=True)
        for sha1 in sorted(going):
            if sha1 in held:
                self._keep_as_member(sha1, held[sha1])
            else:
                self._asked.append(sha1)
                self._take(sha1)
        for sha1 in sorted(members.keys() - going):
            if sha1 in held:
                self.removal.kept.append((sha1.hex(), held[sha1].hex()))
            elif self._was_pushed_alone(sha1):
                self.removal.kept.append((sha1.hex(), ""))
            else:
                self.removal.members += 1
                self._members.append(sha1)
                self._take(sha1)

    def _below(self, directories: Iterable[bytes], *, readable_only: bool = False) -> dict[bytes, bytes]:
        """All members of these directories, each with one that holds it.

        readable_only: of one that goes, and cannot be read any more, the members stay: it must go before it can be pushed again.
        """
        found: dict[bytes, bytes] = {}
        todo, seen = sorted(directories), set(directories)
        while todo:
            directory = todo.pop()
            try:
                entries = decode_tree(read_document(self._survey, directory, removed=True))
            except TreeError:
                continue  # the kind is a hint
            except (DamagedRemoteError, BlobNotFoundError) as exc:
                if not readable_only:
                    self._survey.fault(directory.hex(), exc)
                continue
            for entry in entries:
                if entry.sha1:
                    found.setdefault(entry.sha1, directory)
                    if entry.type.value == "directory" and entry.sha1 not in seen:
                        seen.add(entry.sha1)
                        todo.append(entry.sha1)
        return found

    def _was_pushed_alone(self, sha1: bytes) -> bool:
        """Kept by an entry of its own, or by a recipe that was not made for a directory only."""
        keeps = "SELECT 1 FROM entries WHERE sha1 = ? AND live AND action = ?"
        if self._db.execute(keeps, (sha1, int(Action.KEEP))).fetchone():
            return True
        return any(not row.is_member for row in self._survey.recipes_of(sha1))

    def _keep_as_member(self, sha1: bytes, directory: bytes) -> None:
        """A directory holds it: only what was pushed of it alone goes, if tables name it as a member."""
        members = "SELECT 1 FROM entries WHERE sha1 = ? AND live AND action = ?"
        if self._db.execute(members, (sha1, int(Action.MEMBER))).fetchone():
            self._take_entries(sha1, Action.KEEP)
        self.removal.kept.append((sha1.hex(), directory.hex()))

    def _take(self, sha1: bytes) -> None:
        removal = self.removal
        removal.contents.append(sha1.hex())
        recipes = self._survey.recipes_of(sha1)
        removal.recipes += [row.key for row in recipes]
        plain = self._db.execute("SELECT size FROM plain WHERE sha1 = ?", (sha1,)).fetchone()
        if plain:
            removal.plain.append(plain_key(sha1))
        named = self._db.execute("SELECT max(size) FROM entries WHERE sha1 = ? AND live", (sha1,)).fetchone()
        removal.size += max([row.size for row in recipes] + list(plain or ()) + [named[0] or 0])
        self._take_entries(sha1, Action.KEEP, Action.MEMBER)

    def _take_entries(self, sha1: bytes, *actions: Action) -> None:
        rows = self._db.execute("SELECT DISTINCT id, action FROM entries WHERE sha1 = ? AND live", (sha1,)).fetchall()
        ids = [entry_id for entry_id, action in rows if action in actions]
        if ids:
            self._entries[sha1] = ids
            self.removal.entries += len(ids)

    def carry_out(self, look_again: Callable[[], _Removing]) -> None:
        """Entries first. A directory that is pushed meanwhile may hold what goes: its push looks for removals after it published
        the directory, and here all directories are looked at after the removals were published, so one of the two sees the other.
        What is held, or was pushed by itself meanwhile, stays after all."""
        blobs = self._survey.blobs
        records = remove_entries(blobs, self._entries)
        again = look_again()
        held = again._below(again._directories() - set(self._asked))
        spared = {sha1: held[sha1].hex() for sha1 in (*self._asked, *self._members) if sha1 in held}
        spared |= {sha1: "" for sha1 in self._members if sha1 not in held and again._was_pushed_alone(sha1)}
        give_back(blobs, records, {entry_id for sha1 in spared for entry_id in self._entries.get(sha1, ())})
        self.removal.kept += [(sha1.hex(), spared[sha1]) for sha1 in sorted(spared)]
        going = self._keys(sha1 for sha1 in (*self._asked, *self._members) if sha1 not in spared)
        blobs.delete(going)
        # A push may have made a recipe anew of a plain object that was just going.
        blobs.delete(key for key in going if not key.startswith(PLAIN))

    def _keys(self, sha1s: Iterable[bytes]) -> list[str]:
        """Recipes, then plain objects."""
        wanted = {sha1.hex() for sha1 in sha1s}
        keys = [*self.removal.recipes, *self.removal.plain]
        return [key for key in keys if key.rpartition("/")[2].partition(".")[0] in wanted]
