"""Verify: whether a bucket holds what it says. Every table and recipe is read; with `deep`, every byte.

Memory does not grow with the bucket, nor with its objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from kacas.errors import KacasError, NewerFormatError, StoreError
from kacas.model.codec import MIB, DecodeError, Decoder, MissingCodecError
from kacas.model.digest import new_sha1
from kacas.model.pack_format import PackFormatError
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.sealed import strays_of
from kacas_remote.errors import NotThereError
from kacas_remote.layout import MARKER, RECIPES, pack_key, plain_key
from kacas_remote.recipe import Recipe
from kacas_remote.remote import Remote
from kacas_remote.signing import is_signed, publisher_text, statement
from kacas_remote.unmarked import ids_in_packs
from kacas_remote.upkeep.marking import mark
from kacas_remote.upkeep.reading import PUSH_AGAIN, At, checked, damage
from kacas_remote.upkeep.survey import Progress, Survey, batched, silent

_THREADS = 4
_WINDOW = 4 * MIB
_PART = 8 * MIB
_AGAIN = "remove it (kacas remote rm) and push it again"


class RemoteProblem(NamedTuple):
    """kind: "damaged", "newer", "missing", "unsigned" (a signature that does not hold), "absent" (a member of a directory), or
    "unread" (nothing is known of it: the service did not give it, or not all that it may be in). key: of the blob; message: what
    is wrong and what to do. uri: that it touches, or ""."""

    kind: str
    key: str
    message: str
    uri: str = ""


@dataclass
class RemoteReport:
    """packs, chunks, recipes, plain: how many were looked at. checked_size: bytes that were downloaded by `deep`.
    strays: blobs in a private remote that open with no key of its group: nobody who is a member reads them.

    unread: what the service did not give, which is no damage; all of that kind. unchecked: payloads by the package that decodes
    them and is not installed.
    """

    packs: int = 0
    chunks: int = 0
    recipes: int = 0
    plain: int = 0
    contents: int = 0
    checked_size: int = 0
    strays: int = 0
    problems: list[RemoteProblem] = field(default_factory=list)
    unread: list[RemoteProblem] = field(default_factory=list)
    unchecked: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not (self.problems or self.unread or self.unchecked)


def verify(remote: Remote, *, deep: bool = False, progress: Progress = silent) -> RemoteReport:
    """Every pack's table, every recipe with its pages and signatures, every place that they name, the sizes of plain objects, the
    trees of what tables name. deep: every payload and plain object, too. Raises what the service raises."""
    return _Verification(remote, progress).run(deep)


class _Verification:
    def __init__(self, remote: Remote, progress: Progress) -> None:
        self._blobs: BlobStore = remote.blobs
        self._remote_id = remote.remote_id
        self._progress = progress
        self._report = RemoteReport()
        self._is_all_read = True
        if not remote.marked and (named := ids_in_packs(self._blobs)):
            self._remote_id = named.most_common(1)[0][0]
            do = f"put it back: kacas remote mark {remote.name}"
            why = damage(self._blobs, MARKER, "it is gone, and nobody believes the packs without it", do)
            self._add("missing", MARKER, str(why))

    def run(self, deep: bool) -> RemoteReport:
        with Survey(self._blobs, self._remote_id, self._note, self._progress, self._look) as survey:
            survey.read()
            # What seems not to be there may be in what the service did not give; chunks only in packs.
            self._is_all_read = not self._report.unread
            is_any_table_unread = any(not one.key.startswith(RECIPES) for one in self._report.unread)
            missing, absent = (
                "unread" if is_any_table_unread else "missing",
                "absent" if self._is_all_read else "unread",
            )
            marks = mark(survey)
            self._report.contents = marks.contents
            for key, sha1, count in survey.lost:
                what = f"{count} of the chunks of sha1://{sha1.hex()} are not where it says"
                why = damage(self._blobs, key, what, _AGAIN)
                self._add(missing, key, str(why), sha1)
            lost = {sha1 for _, sha1, _ in survey.lost}
            for sha1 in {*marks.incomplete} - lost:
                why = damage(self._blobs, f"sha1://{sha1.hex()}", "chunks of it are in no pack", _AGAIN)
                self._add(missing, "", str(why), sha1)
            for directory, member in marks.absent:
                what = f"it holds sha1://{member.hex()}, which is not there"
                why = damage(self._blobs, f"sha1dir://{directory.hex()}", what, "push the directory again")
                self._add(absent, "", str(why), member)
            self._check_plain_sizes(survey)
            self._report.packs = survey.db.execute("SELECT count(*) FROM packs").fetchone()[0]
            self._report.chunks = survey.db.execute("SELECT count(*) FROM payloads").fetchone()[0]
            self._report.plain = survey.db.execute("SELECT count(*) FROM plain").fetchone()[0]
            self._report.strays = sum(1 for _ in strays_of(self._blobs))
            if deep:
                self._check_payloads(survey)
                self._check_plain(survey)
        return self._report

    def _note(self, key: str, exc: KacasError) -> None:
        problem = _problem(key, exc)
        is_unknown = isinstance(exc, NotThereError) and not self._is_all_read
        self._take(problem._replace(kind="unread") if is_unknown else problem)

    def _add(self, kind: str, key: str, message: str, sha1: bytes = b"") -> None:
        self._take(RemoteProblem(kind, key, message, f"sha1://{sha1.hex()}" if sha1 else ""))

    def _take(self, problem: RemoteProblem) -> None:
        (self._report.unread if problem.kind == "unread" else self._report.problems).append(problem)

    def _look(self, key: str, recipe: Recipe) -> None:
        self._report.recipes += 1
        head = recipe.head
        said = statement(head.sha1, head.root, head.size, head.kind)
        for signature in head.signatures:
            if not is_signed(said, signature):
                who = publisher_text(signature.publisher)
                why = damage(self._blobs, key, f"the signature of {who} is not that of what it says", _AGAIN)
                self._add("unsigned", key, str(why), head.sha1)

    def _check_plain_sizes(self, survey: Survey) -> None:
        rows = survey.db.execute(
            "SELECT DISTINCT plain.sha1, plain.size, recipes.size FROM plain JOIN recipes ON plain.sha1 = recipes.sha1"
            " WHERE plain.size <> recipes.size"
        )
        for sha1, size, expected in rows:
            key = plain_key(sha1)
            why = damage(self._blobs, key, f"it has {size} bytes, its recipe says {expected}", _AGAIN)
            self._add("damaged", key, str(why), sha1)

    # --- deep ---------------------------------------------------------------------------------

    def _check_payloads(self, survey: Survey) -> None:
        packs = survey.db.execute("SELECT number, id, size FROM packs ORDER BY number").fetchall()
        total, done = sum(size for *_, size in packs), 0
        with ThreadPoolExecutor(_THREADS, "kacas-verify") as pool:
            for part in batched(self._windows(survey, packs), _THREADS * 2):
                for problems, unchecked, size in pool.map(lambda window: self._check_window(*window), part):
                    for problem in problems:
                        self._take(problem)
                    for package in unchecked:
                        self._report.unchecked[package] = self._report.unchecked.get(package, 0) + 1
                    done += size
                self._progress("checking packs", done, total)
        self._report.checked_size += done

    def _windows(self, survey: Survey, packs: list[tuple[int, bytes, int]]) -> Iterator[tuple[bytes, list[At]]]:
        """Neighbours of a pack, some megabytes each."""
        for number, pack_id, _ in packs:
            rows = survey.db.execute(
                "SELECT digest, kind, offset, stored FROM payloads WHERE pack = ? ORDER BY offset", (number,)
            ).fetchall()
            window: list[At] = []
            size = 0
            for digest, kind, offset, stored in rows:
                if window and size + stored > _WINDOW:
                    yield pack_id, window
                    window, size = [], 0
                window.append(At(digest, kind, offset, offset + stored))
                size += stored
            if window:
                yield pack_id, window

    def _check_window(self, pack_id: bytes, window: list[At]) -> tuple[list[RemoteProblem], list[str], int]:
        key, decoder = pack_key(pack_id), Decoder()
        problems: list[RemoteProblem] = []
        unchecked: list[str] = []
        try:
            found = self._blobs.get_ranges(key, [(at.start, at.stop) for at in window])
        except KacasError as exc:
            return [_problem(key, exc)], [], 0
        for at, data in zip(window, found, strict=True):
            try:
                checked(data, at.digest, at.kind, decoder)
            except MissingCodecError as exc:
                unchecked.append(exc.package)
            except (PackFormatError, DecodeError) as exc:
                why = damage(self._blobs, key, f"payload {at.digest.hex()[:16]}… at {at.start}: {exc}", PUSH_AGAIN)
                problems.append(RemoteProblem("damaged", key, str(why)))
        return problems, unchecked, sum(map(len, found))

    def _check_plain(self, survey: Survey) -> None:
        rows = survey.db.execute("SELECT sha1, size FROM plain ORDER BY sha1").fetchall()
        total, done = sum(size for _, size in rows), 0
        with ThreadPoolExecutor(_THREADS, "kacas-verify") as pool:
            for part in batched(rows, _THREADS):
                for problem, size in pool.map(lambda row: self._check_object(*row), part):
                    if problem:
                        self._take(problem)
                    done += size
                self._progress("checking plain objects", done, total)
        self._report.checked_size += done

    def _check_object(self, sha1: bytes, size: int) -> tuple[RemoteProblem | None, int]:
        key, hasher = plain_key(sha1), new_sha1()
        try:
            for start in range(0, size, _PART):
                hasher.update(self._blobs.get_ranges(key, [(start, min(size, start + _PART))])[0])
        except KacasError as exc:
            return _problem(key, exc, f"sha1://{sha1.hex()}"), 0
        if hasher.digest() == sha1:
            return None, size
        why = damage(self._blobs, key, f"its bytes have the SHA-1 {hasher.hexdigest()}", _AGAIN)
        return RemoteProblem("damaged", key, str(why), f"sha1://{sha1.hex()}"), size


def _problem(key: str, exc: KacasError, uri: str = "") -> RemoteProblem:
    """What is wrong with a blob that could not be used."""
    if isinstance(exc, StoreError):  # the service failed, or refused it, or it was replaced meanwhile
        return RemoteProblem("unread", key, str(exc), uri)
    return RemoteProblem("newer" if isinstance(exc, NewerFormatError) else "damaged", key, str(exc), uri)
